//! What an attempt's failure means, and how long to wait before the next: pure functions.

use std::error::Error as _;
use std::time::Duration;

use semel_proto::RETRY_AFTER_MS;
use tonic::{Code, Status};

/// The pause after the first round in which every healthy coordinator was tried; doubled for each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// The longest pause that grows by itself; a hint of the cluster may ask for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What a failed attempt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The request is refused, whoever is asked.
    Refused,
    /// The cluster has too much to do; not before so long.
    Busy(Duration),
    /// This coordinator cannot answer now, or its connection broke: another may.
    Broken(Duration),
}

pub(crate) fn meaning(status: &Status) -> Meaning {
    let hint = hint(status);
    match status.code() {
        Code::ResourceExhausted => hint.map_or(Meaning::Refused, Meaning::Busy),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
            Meaning::Broken(hint.unwrap_or_default())
        }
        // Only a failure seen at this end has a source: a stream that was reset, a frame that broke off.
        Code::Internal if status.source().is_some() => Meaning::Broken(Duration::ZERO),
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Meaning::Refused,
    }
}

/// How long the cluster asks to wait, if it does.
fn hint(status: &Status) -> Option<Duration> {
    let text = status.metadata().get(RETRY_AFTER_MS)?.to_str().ok()?;
    text.parse().ok().filter(|ms| *ms > 0).map(Duration::from_millis)
}

/// The pause after a number of rounds, at least 1: at least as long as `hint`, and up to half as long again as `chance`, 0 to 1,
/// decides, so that clients refused together do not come back together.
pub(crate) fn pause(rounds: u32, hint: Duration, chance: f64) -> Duration {
    let doubled = PAUSE_FIRST * 2_u32.pow(rounds.saturating_sub(1).min(8));
    let least = doubled.min(PAUSE_MAX).max(hint);
    least + least.mul_f64(chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    fn check(code: Code, hint_ms: Option<u32>, expected: Meaning) {
        let mut status = Status::new(code, "why");
        if let Some(hint_ms) = hint_ms {
            status.metadata_mut().insert(RETRY_AFTER_MS, MetadataValue::from(hint_ms));
        }
        assert_eq!(meaning(&status), expected, "{code:?}, hint {hint_ms:?}");
    }

    #[test]
    fn only_what_may_succeed_is_sent_again() {
        let ms = Duration::from_millis;
        check(Code::Unavailable, None, Meaning::Broken(ms(0)));
        check(Code::Unavailable, Some(200), Meaning::Broken(ms(200)));
        check(Code::ResourceExhausted, Some(200), Meaning::Busy(ms(200)));
        // A limit that no retry changes, such as the number of galleries, has no hint.
        check(Code::ResourceExhausted, None, Meaning::Refused);
        check(Code::ResourceExhausted, Some(0), Meaning::Refused);
        check(Code::DeadlineExceeded, None, Meaning::Broken(ms(0)));
        check(Code::Cancelled, None, Meaning::Broken(ms(0)));
        check(Code::Internal, None, Meaning::Refused);
        check(Code::AlreadyExists, None, Meaning::Refused);
        check(Code::InvalidArgument, Some(200), Meaning::Refused);
        check(Code::Aborted, None, Meaning::Refused);
    }

    #[test]
    fn pauses_grow_to_their_bound_are_jittered_and_heed_the_cluster() {
        let cases = [
            (1, 0, 0.0, 50),
            (2, 0, 0.0, 100),
            (2, 0, 1.0, 150),
            (6, 0, 0.0, 1_600),
            (7, 0, 0.0, 2_000),
            (100, 0, 1.0, 3_000),
            (1, 700, 0.0, 700),
            (1, 700, 1.0, 1_050),
            (1, 60_000, 0.0, 60_000),
        ];
        for (rounds, hint, chance, expected) in cases {
            let paused = pause(rounds, Duration::from_millis(hint), chance);
            assert_eq!(paused.as_millis(), expected, "{rounds} rounds, hint {hint}, chance {chance}");
        }
    }
}
