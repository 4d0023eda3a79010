//! Applicants, shards, log indices, and sets of them, a byte each: states are copied and hashed by the million.

/// The most applicants.
pub(crate) const MATES_MAX: usize = 3;
/// The most shards.
pub(crate) const SHARDS_MAX: usize = 3;

/// An applicant, and the enrolment of that number. Every two applicants are mates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mate(pub(crate) u8);

/// A shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Shard(pub(crate) u8);

/// A position in a shard's log. Only entries that change what a search sees are counted: stages and withdrawals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LogIndex(pub(crate) u8);

/// Some of the applicants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct MateSet(u8);

impl Mate {
    /// Its place in an array of applicants.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Shard {
    /// Its place in an array of shards.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl LogIndex {
    /// The index of the entry that follows this one.
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl MateSet {
    /// None of them.
    pub(crate) const NONE: Self = Self(0);

    /// Whether the applicant is one of these.
    pub(crate) fn contains(self, mate: Mate) -> bool {
        self.0 & (1 << mate.0) != 0
    }

    /// These and one more.
    #[must_use]
    pub(crate) fn with(self, mate: Mate) -> Self {
        Self(self.0 | 1 << mate.0)
    }

    /// These but one.
    #[must_use]
    pub(crate) fn without(self, mate: Mate) -> Self {
        Self(self.0 & !(1 << mate.0))
    }

    /// These and those.
    #[must_use]
    pub(crate) fn union(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether an applicant is in both.
    pub(crate) fn meets(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether these are none.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them, in order.
    pub(crate) fn iter(self) -> impl Iterator<Item = Mate> {
        (0..MATES_MAX as u8).map(Mate).filter(move |mate| self.contains(*mate))
    }
}

impl FromIterator<Mate> for MateSet {
    fn from_iter<I: IntoIterator<Item = Mate>>(mates: I) -> Self {
        mates.into_iter().fold(Self::NONE, Self::with)
    }
}

impl std::fmt::Debug for MateSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(|mate| mate.0)).finish()
    }
}
