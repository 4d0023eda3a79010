//! The rates of a workload enrolled one by one: FNIR, FPIR, twins apart.
//! The pairs may come from the oracle or from a cluster; where they come from is not known here.

use semel_index::Proportion;

use crate::truth::{Kinship, Relation, Row, Standing, Truth};

/// What enrolling the rows one by one gives, each searched against those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EnrolmentRates {
    /// FNIR: rows with a mate before them that no mate was flagged for.
    pub missed: Proportion,
    /// FPIR: rows with neither mate nor twin before them that were flagged nevertheless.
    pub false_alarms: Proportion,
    /// Rows without a mate but with an identical twin before them that were flagged. Expected; part of neither rate.
    pub twins_flagged: Proportion,
    /// Unordered pairs of mates that were flagged.
    pub mated_pairs: Proportion,
    /// Flagged pairs of twins.
    pub twin_pairs: u64,
    /// Flagged pairs of siblings.
    pub sibling_pairs: u64,
    /// Flagged pairs of strangers.
    pub stranger_pairs: u64,
}

impl EnrolmentRates {
    /// Counts the flagged pairs, each in either order; a pair given twice counts once.
    ///
    /// Of two rows enrolled at the same moment either may list the other: what counts is that the pair was flagged.
    pub fn count(truth: &Truth, flagged: impl IntoIterator<Item = (Row, Row)>) -> Self {
        let mut pairs: Vec<_> = flagged.into_iter().map(|(a, b)| (a.max(b), a.min(b))).collect();
        pairs.sort_unstable();
        pairs.dedup();

        let mut rates = Self::default();
        let mut any = vec![false; truth.len()];
        let mut mate = vec![false; truth.len()];
        for (later, earlier) in pairs {
            let place = later.0 as usize;
            any[place] = true;
            match truth.relation(earlier, later) {
                Relation::Mates => {
                    mate[place] = true;
                    rates.mated_pairs.count += 1;
                }
                Relation::Kin(Kinship::Twins) => rates.twin_pairs += 1,
                Relation::Kin(Kinship::Siblings) => rates.sibling_pairs += 1,
                Relation::Strangers => rates.stranger_pairs += 1,
            }
        }
        rates.mated_pairs.of = truth.mated_pairs().len() as u64;
        for (place, standing) in truth.standings().into_iter().enumerate() {
            let (rate, counts) = match standing {
                Standing::Mated => (&mut rates.missed, !mate[place]),
                Standing::TwinOnly => (&mut rates.twins_flagged, any[place]),
                Standing::NonMated => (&mut rates.false_alarms, any[place]),
            };
            rate.of += 1;
            rate.count += u64::from(counts);
        }
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::truth::Subject;

    #[test]
    fn rates_count_rows_by_their_standing() {
        let mut truth = Truth::from_subjects([1, 2, 1, 3, 4, 1, 5].map(Subject).to_vec());
        truth.state_kin(Subject(2), Kinship::Twins, Subject(3));
        truth.state_kin(Subject(2), Kinship::Siblings, Subject(4));
        truth.state_kin(Subject(2), Kinship::Twins, Subject(3));
        // Row 2 finds its mate, row 5 only a stranger; row 3 its twin; row 6 a stranger, listed from the other side.
        let flagged = [(0, 2), (2, 0), (3, 5), (1, 3), (0, 6)].map(|(a, b)| (Row(a), Row(b)));
        let rates = EnrolmentRates::count(&truth, flagged);
        let expected = EnrolmentRates {
            missed: Proportion { count: 1, of: 2 },
            false_alarms: Proportion { count: 1, of: 4 },
            twins_flagged: Proportion { count: 1, of: 1 },
            mated_pairs: Proportion { count: 1, of: 3 },
            twin_pairs: 1,
            sibling_pairs: 0,
            stranger_pairs: 2,
        };
        assert_eq!(rates, expected);
    }
}
