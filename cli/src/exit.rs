//! What the exit codes mean, and which error gets which.

use std::process::ExitCode;

use semel_client::CallError;
use semel_files::InvalidPolicy;

/// How a command ended. The numbers are a promise to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// It did not work: some item was refused, something was not found, a check of a report does not hold.
    Failed = 1,
    /// The command line, a file or a setting is wrong. Clap uses the same number.
    Usage = 2,
    /// No coordinator can be reached, or the cluster cannot answer now: try again later.
    Unavailable = 3,
    /// No verdict yet: the enrolment is recorded and the cluster finishes it.
    Inconclusive = 4,
    /// At least one possible duplicate: somebody must look.
    PossibleDuplicate = 5,
    /// Told to stop before all was done: the same command goes on.
    Interrupted = 6,
}

/// Shown at the end of every `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: something was refused or not found, or a check of a report does not hold
  2  the command line, a file or a setting is wrong
  3  no coordinator reached, or the cluster cannot answer now: try again
  4  no verdict yet: the cluster finishes it by itself
  5  at least one possible duplicate: somebody must look (enrol, identify)
  6  told to stop before all was done: the same command goes on (enrol)";

/// A mistake of the caller, found before anything was sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

impl From<InvalidPolicy> for UsageError {
    fn from(error: InvalidPolicy) -> Self {
        Self(error.to_string())
    }
}

impl Exit {
    /// The code for an error, from the first cause that says what kind it is.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if cause.is::<UsageError>() {
                return Self::Usage;
            }
            if let Some(call) = cause.downcast_ref::<CallError>() {
                return if call.may_succeed_later() { Self::Unavailable } else { Self::Failed };
            }
        }
        Self::Failed
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::Context as _;
    use tonic::Code;

    use super::*;

    fn check(error: anyhow::Error, expected: Exit) {
        assert_eq!(Exit::of(&error), expected, "{error:#}");
        assert_eq!(Exit::of(&error.context("on the way")), expected);
    }

    #[test]
    fn every_kind_of_error_has_its_exit_code() {
        check(anyhow::anyhow!("something else"), Exit::Failed);
        check(UsageError("two of a kind".to_owned()).into(), Exit::Usage);
        check(CallError::Unreachable { reasons: vec!["127.0.0.1:1: refused".to_owned()] }.into(), Exit::Unavailable);
        let (code, message) = (Code::Unavailable, "no leader".to_owned());
        let unanswered = CallError::Unanswered { code, message, attempts: 3, after: Duration::from_secs(60) };
        check(unanswered.into(), Exit::Unavailable);
        for code in [Code::NotFound, Code::InvalidArgument, Code::Aborted] {
            check(CallError::Refused { code, message: "name: too long".to_owned() }.into(), Exit::Failed);
        }
    }

    #[test]
    fn the_help_lists_the_code_of_every_exit() {
        use Exit::{Done, Failed, Inconclusive, Interrupted, PossibleDuplicate, Unavailable, Usage};
        let all = [Done, Failed, Usage, Unavailable, Inconclusive, PossibleDuplicate, Interrupted];
        for exit in all {
            assert!(EXIT_CODES.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }

    #[test]
    fn context_does_not_hide_the_cause() {
        let failed: Result<(), _> = Err(UsageError("x".to_owned()));
        check(failed.context("read people.csv").expect_err("an error"), Exit::Usage);
    }
}
