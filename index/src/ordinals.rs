//! The ordinals of rows that do not change any more.

use crate::rows::EnrolmentOrdinal;

/// Strictly ascending ordinals, one to a row. Where every enrolment has the slot they follow on each other and take no memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ordinals {
    Consecutive { first: u32, len: usize },
    Listed(Box<[EnrolmentOrdinal]>),
}

impl Ordinals {
    /// Of ordinals in ascending order.
    pub(crate) fn new(ordinals: Vec<EnrolmentOrdinal>) -> Self {
        assert!(ordinals.is_sorted_by(|one, next| one < next), "ordinals ascend");
        match (ordinals.first(), ordinals.last()) {
            (Some(first), Some(last)) if (last.0 - first.0) as usize == ordinals.len() - 1 => {
                Self::Consecutive { first: first.0, len: ordinals.len() }
            }
            (Some(_), Some(_)) => Self::Listed(ordinals.into()),
            (None, _) | (_, None) => Self::Consecutive { first: 0, len: 0 },
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Consecutive { len, .. } => *len,
            Self::Listed(ordinals) => ordinals.len(),
        }
    }

    pub(crate) fn get(&self, row: usize) -> EnrolmentOrdinal {
        match self {
            Self::Consecutive { first, len } => {
                assert!(row < *len, "the row exists");
                EnrolmentOrdinal(first + row as u32)
            }
            Self::Listed(ordinals) => ordinals[row],
        }
    }

    pub(crate) fn last(&self) -> Option<EnrolmentOrdinal> {
        self.len().checked_sub(1).map(|last| self.get(last))
    }

    /// The number of rows with an ordinal below `ordinal`: the first row at or after it.
    pub(crate) fn rows_below(&self, ordinal: EnrolmentOrdinal) -> usize {
        match self {
            Self::Consecutive { first, len } => (ordinal.0.saturating_sub(*first) as usize).min(*len),
            Self::Listed(ordinals) => ordinals.partition_point(|other| *other < ordinal),
        }
    }

    /// The row of an ordinal, if it has one here.
    pub(crate) fn row_of(&self, ordinal: EnrolmentOrdinal) -> Option<usize> {
        let row = self.rows_below(ordinal);
        (row < self.len() && self.get(row) == ordinal).then_some(row)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Consecutive { .. } => 0,
            Self::Listed(ordinals) => size_of_val(&**ordinals),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ordinals: &[u32], consecutive: bool) {
        let found = Ordinals::new(ordinals.iter().copied().map(EnrolmentOrdinal).collect());
        assert_eq!(matches!(found, Ordinals::Consecutive { .. }), consecutive);
        assert_eq!(found.len(), ordinals.len());
        assert_eq!(found.last().map(|last| last.0), ordinals.last().copied());
        for ordinal in 0..12 {
            let below = ordinals.iter().filter(|other| **other < ordinal).count();
            assert_eq!(found.rows_below(EnrolmentOrdinal(ordinal)), below);
            let row = ordinals.iter().position(|other| *other == ordinal);
            assert_eq!(found.row_of(EnrolmentOrdinal(ordinal)), row);
        }
        assert!((0..ordinals.len()).all(|row| found.get(row).0 == ordinals[row]));
    }

    #[test]
    fn lists_and_ranges_answer_alike() {
        check(&[], true);
        check(&[7], true);
        check(&[3, 4, 5], true);
        check(&[0, 2, 3, 9], false);
    }
}
