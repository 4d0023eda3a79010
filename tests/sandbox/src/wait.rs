//! Waiting for conditions, never for time.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::SandboxError;

/// The pause after the first look.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// The longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Looks again and again, with growing pauses, until `condition` gives `Ok`; its `Err` is the state last seen, for the error.
///
/// # Errors
/// [`SandboxError::TimedOut`] with the state last seen once `within` is over.
pub async fn wait_until<T, S, F>(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<T, SandboxError>
where
    F: Future<Output = Result<T, S>>,
    S: Display,
{
    let deadline = Instant::now() + within;
    let mut pause = PAUSE_FIRST;
    let mut last_state = String::from("nothing yet");
    loop {
        match tokio::time::timeout_at(deadline, condition()).await {
            Ok(Ok(reached)) => return Ok(reached),
            Ok(Err(state)) => last_state = state.to_string(),
            Err(_) => last_state.push_str(" (and the last look did not end)"),
        }
        if Instant::now() + pause >= deadline {
            return Err(SandboxError::TimedOut { what: what.to_owned(), waited: within, last_state });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_seen_last_is_told_when_time_is_over() {
        let mut looks = 0;
        let waited = wait_until("a moon of cheese", Duration::ZERO, || {
            looks += 1;
            async { Err::<(), _>("stone") }
        })
        .await;
        let Err(SandboxError::TimedOut { what, last_state, .. }) = waited else { panic!("{waited:?}") };
        assert_eq!((what.as_str(), last_state.as_str(), looks), ("a moon of cheese", "stone", 1));
    }

    #[tokio::test]
    async fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let waited = wait_until("the third look", Duration::from_secs(60), || {
            looks += 1;
            let outcome = if looks == 3 { Ok(looks) } else { Err(looks) };
            async move { outcome }
        })
        .await;
        assert_eq!(waited.expect("in time"), 3);
    }
}
