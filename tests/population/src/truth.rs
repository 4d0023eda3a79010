//! Who is who among the rows of a workload: mates, twins, siblings, strangers. It comes from labels, never from scores,
//! and never goes to a cluster.

use std::collections::{BTreeMap, BTreeSet};

/// The place of an enrolment in a plan, in an oracle and in the truth about them, in order of enrolment, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub u32);

/// Whose template a row is: people of a population, speakers of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(pub u32);

/// How two different people can be related.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kinship {
    /// Identical twins.
    Twins,
    /// Siblings who are not identical twins.
    Siblings,
}

/// What two rows are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// Of the same person.
    Mates,
    /// Of two related people.
    Kin(Kinship),
    /// Of two people who are not related, as far as is known.
    Strangers,
}

/// What a row is to those before it; each row is counted in one of the three rates of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// A mate is enrolled already: the row counts towards FNIR.
    Mated,
    /// No mate but an identical twin is enrolled: expected to be flagged, reported apart.
    TwinOnly,
    /// Neither: the row counts towards FPIR. A sibling before it does not excuse it.
    NonMated,
}

/// The labels of all rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    subjects: Vec<Subject>,
    kin: BTreeMap<Subject, (Kinship, Subject)>,
}

impl Truth {
    /// The subject of each row, none of them kin.
    pub fn from_subjects(subjects: Vec<Subject>) -> Self {
        Self { subjects, kin: BTreeMap::new() }
    }

    /// Adds that two subjects are kin. A subject has at most one; a later statement replaces an earlier one.
    pub fn state_kin(&mut self, one: Subject, kinship: Kinship, other: Subject) {
        self.kin.insert(one, (kinship, other));
        self.kin.insert(other, (kinship, one));
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// Whose template a row is. Panics for a row that is not there.
    pub fn subject(&self, row: Row) -> Subject {
        self.subjects[row.0 as usize]
    }

    /// What two rows are to each other.
    pub fn relation(&self, a: Row, b: Row) -> Relation {
        let (a, b) = (self.subject(a), self.subject(b));
        if a == b {
            return Relation::Mates;
        }
        match self.kin.get(&a) {
            Some((kinship, other)) if *other == b => Relation::Kin(*kinship),
            Some(_) | None => Relation::Strangers,
        }
    }

    /// Whether two rows are of the same person.
    pub fn mates(&self, a: Row, b: Row) -> bool {
        self.relation(a, b) == Relation::Mates
    }

    /// How two rows' people are related; `None` for mates and strangers.
    pub fn kin(&self, a: Row, b: Row) -> Option<Kinship> {
        match self.relation(a, b) {
            Relation::Kin(kinship) => Some(kinship),
            Relation::Mates | Relation::Strangers => None,
        }
    }

    /// What each row is to those before it.
    pub fn standings(&self) -> Vec<Standing> {
        let mut seen = BTreeSet::new();
        self.subjects
            .iter()
            .map(|subject| {
                let twin = match self.kin.get(subject) {
                    Some((Kinship::Twins, twin)) => seen.contains(twin),
                    Some((Kinship::Siblings, _)) | None => false,
                };
                if !seen.insert(*subject) {
                    Standing::Mated
                } else if twin {
                    Standing::TwinOnly
                } else {
                    Standing::NonMated
                }
            })
            .collect()
    }

    /// Every unordered pair of mates, the earlier row first.
    pub fn mated_pairs(&self) -> Vec<(Row, Row)> {
        let mut rows: BTreeMap<Subject, Vec<Row>> = BTreeMap::new();
        for (row, subject) in (0..).zip(&self.subjects) {
            rows.entry(*subject).or_default().push(Row(row));
        }
        rows.values()
            .flat_map(|rows| {
                let pairs_of = |(place, earlier): (usize, &Row)| {
                    let earlier = *earlier;
                    rows[place + 1..].iter().map(move |later| (earlier, *later))
                };
                rows.iter().enumerate().flat_map(pairs_of)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth() -> Truth {
        let mut truth = Truth::from_subjects([7, 8, 7, 9, 10, 9, 8, 7].map(Subject).to_vec());
        truth.state_kin(Subject(8), Kinship::Twins, Subject(9));
        truth.state_kin(Subject(10), Kinship::Siblings, Subject(7));
        truth
    }

    #[test]
    fn relations_are_symmetric_and_follow_the_labels() {
        let truth = truth();
        let cases = [
            (0, 2, Relation::Mates),
            (1, 3, Relation::Kin(Kinship::Twins)),
            (4, 7, Relation::Kin(Kinship::Siblings)),
            (0, 1, Relation::Strangers),
            (3, 4, Relation::Strangers),
        ];
        for (a, b, relation) in cases {
            assert_eq!(truth.relation(Row(a), Row(b)), relation);
            assert_eq!(truth.relation(Row(b), Row(a)), relation);
        }
    }

    #[test]
    fn standings_look_only_at_earlier_rows() {
        use Standing::{Mated, NonMated, TwinOnly};
        assert_eq!(truth().standings(), [NonMated, NonMated, Mated, TwinOnly, NonMated, Mated, Mated, Mated]);
    }

    #[test]
    fn mated_pairs_are_listed_once_with_the_earlier_row_first() {
        let expected = [(0, 2), (0, 7), (2, 7), (1, 6), (3, 5)];
        assert_eq!(truth().mated_pairs(), expected.map(|(a, b)| (Row(a), Row(b))));
    }
}
