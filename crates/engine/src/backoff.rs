//! When and how late a container is started again.

use std::time::Duration;

use crate::model::RestartPolicy;

/// First delay.
pub const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Longest delay.
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run at least this long sets the delay back.
pub const GOOD_RUN: Duration = Duration::from_secs(10);

/// The delay before the next attempt of one container.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// The delay after a run that lasted `run`.
    pub fn next(&mut self, run: Duration) -> Duration {
        let delay = match self.last {
            Some(last) if run < GOOD_RUN => (last * 2).min(LONGEST_DELAY),
            _ => FIRST_DELAY,
        };
        self.last = Some(delay);
        delay
    }

    /// Forgets earlier failures (a client started it).
    pub fn reset(&mut self) {
        self.last = None;
    }
}

/// Whether a container that ended by itself is started again.
pub fn restarts_after_exit(
    policy: RestartPolicy,
    exit_code: i32,
    attempts: u32,
    manually_stopped: bool,
) -> bool {
    if manually_stopped {
        return false;
    }
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { max_retries } => {
            exit_code != 0 && (max_retries == 0 || attempts < max_retries)
        }
    }
}

/// Whether a container that has ended is started when the daemon starts. As in dockerd a failure counts for `on-failure`
/// whoever brought it about, also a client's `stop`.
pub fn starts_at_boot(
    policy: RestartPolicy,
    exit_code: i32,
    attempts: u32,
    manually_stopped: bool,
) -> bool {
    match policy {
        RestartPolicy::UnlessStopped => !manually_stopped,
        other => restarts_after_exit(other, exit_code, attempts, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn doubles_to_a_minute_and_falls_back() {
        let mut backoff = Backoff::default();
        let short = Duration::from_millis(5);
        assert_eq!(backoff.next(short), FIRST_DELAY);
        assert_eq!(backoff.next(short), FIRST_DELAY * 2);
        for _ in 0..20 {
            backoff.next(short);
        }
        assert_eq!(backoff.next(short), LONGEST_DELAY);
        assert_eq!(backoff.next(GOOD_RUN), FIRST_DELAY);
    }

    #[test]
    fn policies() {
        let failure = RestartPolicy::OnFailure { max_retries: 2 };
        assert!(restarts_after_exit(failure, 1, 1, false));
        assert!(!restarts_after_exit(failure, 1, 2, false));
        assert!(!restarts_after_exit(failure, 0, 0, false));
        assert!(!restarts_after_exit(RestartPolicy::Always, 0, 0, true));
        assert!(restarts_after_exit(
            RestartPolicy::UnlessStopped,
            0,
            9,
            false
        ));
        for (policy, exit_code, attempts, manually, starts) in [
            (RestartPolicy::No, 1, 0, false, false),
            (RestartPolicy::Always, 0, 0, true, true),
            (RestartPolicy::Always, 0, 0, false, true),
            (RestartPolicy::UnlessStopped, 1, 0, true, false),
            (RestartPolicy::UnlessStopped, 0, 0, false, true),
            (failure, 137, 0, true, true),
            (failure, 1, 2, false, false),
            (failure, 0, 0, true, false),
        ] {
            assert_eq!(
                starts_at_boot(policy, exit_code, attempts, manually),
                starts,
                "{policy:?} {exit_code}"
            );
        }
    }

    proptest! {
        #[test]
        fn delay_stays_in_bounds(runs in proptest::collection::vec(0u64..20_000, 1..50)) {
            let mut backoff = Backoff::default();
            for run in runs {
                let delay = backoff.next(Duration::from_millis(run));
                prop_assert!(delay >= FIRST_DELAY && delay <= LONGEST_DELAY);
            }
        }
    }
}
