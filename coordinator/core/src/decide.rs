//! The decision: a pure function of a complete search. How a search becomes complete lives in `search`.

use crate::gallery::DecisionPolicy;
use crate::record::VerdictState;
use crate::search::CompleteSearch;

/// What a complete search means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The verdict.
    pub state: VerdictState,
    /// Whether an operator should be told: there were more candidates than the list holds.
    pub alarm: bool,
}

/// Decides a complete search. Only a complete search can be decided: silence from a shard is not the absence of a duplicate.
///
/// ```
/// use semel_workflow::{Decision, DecisionPolicy, SearchOutcome, decide};
/// fn verdict(outcome: SearchOutcome, policy: &DecisionPolicy) -> Option<Decision> {
///     match outcome {
///         SearchOutcome::Complete(search) => Some(decide(&search, policy)),
///         SearchOutcome::Incomplete { .. } => None,
///     }
/// }
/// ```
///
/// An incomplete one does not compile:
///
/// ```compile_fail,E0308
/// use semel_workflow::{Decision, DecisionPolicy, SearchOutcome, decide};
/// fn verdict(outcome: SearchOutcome, policy: &DecisionPolicy) -> Option<Decision> {
///     match outcome {
///         SearchOutcome::Complete(search) => Some(decide(&search, policy)),
///         SearchOutcome::Incomplete { missing } => Some(decide(&missing, policy)),
///     }
/// }
/// ```
///
/// Nor does one put together by hand:
///
/// ```compile_fail,E0451
/// use semel_workflow::{CompleteSearch, Coverage};
/// fn nobody(coverage: Coverage) -> CompleteSearch {
///     CompleteSearch { candidates: Vec::new(), candidates_total: 0, saturated: false, coverage }
/// }
/// ```
pub fn decide(search: &CompleteSearch, policy: &DecisionPolicy) -> Decision {
    let coverage = search.coverage();
    let state = if search.candidates_total() > 0 || search.saturated() {
        VerdictState::PossibleDuplicate
    } else if policy.accepts_share(coverage.compared, coverage.live) {
        VerdictState::Unique
    } else {
        VerdictState::NotComparable
    };
    Decision { state, alarm: search.saturated() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gallery::tests::policy;
    use crate::search::tests::{answer, complete};

    fn check(margins: [&[i32]; 3], not_comparable: u64, state: VerdictState, alarm: bool) {
        let [first, second, mut third] = [(0, margins[0]), (1, margins[1]), (2, margins[2])].map(|(s, m)| answer(s, m));
        third.not_comparable = not_comparable;
        let decision = decide(&complete([first, second, third]), &policy().decision());
        assert_eq!(decision, Decision { state, alarm });
    }

    #[test]
    fn no_candidate_among_enough_comparable_enrolments_is_unique() {
        check([&[], &[], &[]], 0, VerdictState::Unique, false);
        check([&[], &[], &[]], 3, VerdictState::Unique, false);
    }

    #[test]
    fn too_few_comparable_enrolments_are_no_verdict_of_uniqueness() {
        check([&[], &[], &[]], 4, VerdictState::NotComparable, false);
    }

    #[test]
    fn any_candidate_is_a_possible_duplicate_however_few_were_compared() {
        check([&[0], &[], &[]], 0, VerdictState::PossibleDuplicate, false);
        check([&[], &[], &[7]], 1_000_000, VerdictState::PossibleDuplicate, false);
    }

    #[test]
    fn a_saturated_search_is_a_possible_duplicate_and_an_alarm() {
        check([&[1], &[1], &[2, 1]], 0, VerdictState::PossibleDuplicate, true);
    }

    #[test]
    fn an_empty_gallery_gives_unique() {
        let nobody = |shard| {
            let mut answer = answer(shard, &[]);
            answer.compared = 0;
            answer
        };
        let search = complete([0, 1, 2].map(nobody));
        let unique = Decision { state: VerdictState::Unique, alarm: false };
        assert_eq!(decide(&search, &policy().decision()), unique);
    }
}
