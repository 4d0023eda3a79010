//! Modalities, positions and states as people write them: `face`, `left-eye`, `possible-duplicate`.

use semel_proto::v1::{CaseState, EnrolmentState, Modality, MoveState, Position, ReplicaRole};

/// A word that names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: `{name}` is not {expected}")]
pub struct UnknownName {
    /// What it should name.
    pub field: &'static str,
    /// The word.
    pub name: String,
    /// What would be right.
    pub expected: &'static str,
}

/// `LEFT_EYE` of `POSITION_LEFT_EYE` as `left-eye`.
fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase().replace('_', "-")
}

fn long(name: &str, prefix: &str) -> String {
    format!("{prefix}{}", name.trim().to_ascii_uppercase().replace('-', "_"))
}

/// `face`, `voice`, `iris`, `fingerprint`.
pub fn modality(modality: Modality) -> String {
    short(modality.as_str_name(), "MODALITY_")
}

/// `only`, `left-eye`, `right-thumb`, …
pub fn position(position: Position) -> String {
    short(position.as_str_name(), "POSITION_")
}

/// `staged`, `unique`, `possible-duplicate`, …
pub fn enrolment_state(state: EnrolmentState) -> String {
    short(state.as_str_name(), "ENROLMENT_STATE_")
}

/// `open`, `moot`.
pub fn case_state(state: CaseState) -> String {
    short(state.as_str_name(), "CASE_STATE_")
}

/// `leader`, `follower`, …
pub fn role(role: ReplicaRole) -> String {
    short(role.as_str_name(), "REPLICA_ROLE_")
}

/// How far a move is, in lower case.
pub fn move_state(state: MoveState) -> String {
    short(state.as_str_name(), "MOVE_STATE_")
}

/// The modality of that name.
///
/// # Errors
/// There is none.
pub fn parse_modality(name: &str) -> Result<Modality, UnknownName> {
    Modality::from_str_name(&long(name, "MODALITY_"))
        .filter(|modality| *modality != Modality::Unspecified)
        .ok_or_else(|| unknown("modality", name, "face, voice, iris or fingerprint"))
}

/// The position of that name.
///
/// # Errors
/// There is none.
pub fn parse_position(name: &str) -> Result<Position, UnknownName> {
    Position::from_str_name(&long(name, "POSITION_"))
        .ok_or_else(|| unknown("position", name, "only, left-eye, right-eye, right-thumb, …"))
}

fn unknown(field: &'static str, name: &str, expected: &'static str) -> UnknownName {
    UnknownName { field, name: name.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for each in [Modality::Face, Modality::Voice, Modality::Iris, Modality::Fingerprint] {
            assert_eq!(parse_modality(&modality(each)).expect("its own name"), each);
        }
        for each in [Position::Only, Position::LeftEye, Position::RightLittle] {
            assert_eq!(parse_position(&position(each)).expect("its own name"), each);
        }
        assert_eq!(enrolment_state(EnrolmentState::PossibleDuplicate), "possible-duplicate");
        assert_eq!(parse_position("Left-Eye").expect("case does not matter"), Position::LeftEye);
    }

    #[test]
    fn unknown_names_are_refused_by_name() {
        for error in [
            parse_modality("gait").expect_err("no such modality"),
            parse_modality("unspecified").expect_err("never valid"),
            parse_position("left-ear").expect_err("no such position"),
        ] {
            assert!(error.to_string().contains('`'), "{error}");
        }
    }
}
