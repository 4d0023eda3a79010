//! What shards owe each other: commands that are delivered at least once, and discharged after they were acknowledged.

use crate::names::{MATES_MAX, Mate};

/// A command that one shard owes another. No two that are owed at a time are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Obligation {
    /// What is to be done.
    pub(crate) duty: Duty,
    /// The enrolment that it is about.
    pub(crate) enrolment: Mate,
    /// The other enrolment of the pair.
    pub(crate) other: Mate,
}

/// What an obligation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Of the case's shard: open the case, as the enrolment's verdict names the other.
    OpenCase,
    /// Of the enrolment's shard: note the case.
    LinkCase,
    /// Of the case's shard: the enrolment is withdrawn, so the case is moot.
    MootCase,
    /// Of the enrolment's shard: the other is withdrawn, so the case is moot.
    NoteMoot,
}

/// Some obligations, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Obligations(u64);

impl Duty {
    const ALL: [Self; 4] = [Self::OpenCase, Self::LinkCase, Self::MootCase, Self::NoteMoot];
}

impl Obligation {
    fn bit(self) -> u64 {
        let duty = match self.duty {
            Duty::OpenCase => 0,
            Duty::LinkCase => 1,
            Duty::MootCase => 2,
            Duty::NoteMoot => 3,
        };
        1 << ((duty * MATES_MAX + self.enrolment.index()) * MATES_MAX + self.other.index())
    }

    fn of_bit(bit: usize) -> Self {
        let (pair, other) = (bit / MATES_MAX, bit % MATES_MAX);
        let (duty, enrolment) = (Duty::ALL[pair / MATES_MAX], pair % MATES_MAX);
        Self { duty, enrolment: Mate(enrolment as u8), other: Mate(other as u8) }
    }
}

impl Obligations {
    /// Adds one.
    pub(crate) fn add(&mut self, obligation: Obligation) {
        self.0 |= obligation.bit();
    }

    /// Removes one.
    pub(crate) fn remove(&mut self, obligation: Obligation) {
        self.0 &= !obligation.bit();
    }

    /// Whether it is one of these.
    pub(crate) fn contains(self, obligation: Obligation) -> bool {
        self.0 & obligation.bit() != 0
    }

    /// Whether these are none.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them.
    pub(crate) fn iter(self) -> impl Iterator<Item = Obligation> {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
            bits &= bits - 1;
            Some(Obligation::of_bit(bit))
        })
    }
}

impl std::fmt::Debug for Obligations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
