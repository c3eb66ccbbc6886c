//! The state machine of a container.

use serde::{Deserialize, Serialize};

/// Docker's states of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started (or its first start failed).
    #[default]
    Created,
    /// Its first process lives.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Ended, to be started again after a delay.
    Restarting,
    /// Being removed.
    Removing,
    /// Ended.
    Exited,
    /// Removal failed; only another removal is possible.
    Dead,
}

impl Status {
    /// Every state.
    pub const ALL: [Status; 7] = [
        Status::Created,
        Status::Running,
        Status::Paused,
        Status::Restarting,
        Status::Removing,
        Status::Exited,
        Status::Dead,
    ];

    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Restarting => "restarting",
            Status::Removing => "removing",
            Status::Exited => "exited",
            Status::Dead => "dead",
        }
    }

    /// The state with this word.
    pub fn parse(word: &str) -> Option<Status> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }

    /// Whether processes exist (running or frozen).
    pub fn is_alive(self) -> bool {
        matches!(self, Status::Running | Status::Paused)
    }

    /// Whether the machine may go from `self` to `next`. Everything else is a bug.
    pub fn may_become(self, next: Status) -> bool {
        use Status::*;
        matches!(
            (self, next),
            // A start that failed leaves Created with another exit code; a restart attempt that
            // failed to launch ends.
            (Created, Running | Removing | Created)
                | (Running, Paused | Exited | Restarting)
                | (Paused, Running | Exited | Restarting)
                | (Restarting, Running | Exited | Restarting)
                | (Exited, Running | Removing | Exited)
                | (Removing, Dead)
                | (Dead, Removing)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_round_trip() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        assert_eq!(Status::parse("up"), None);
    }

    #[test]
    fn what_never_happens() {
        for status in Status::ALL {
            // Nothing is un-created, a removal is never taken back, only a removal dies.
            assert_eq!(
                status.may_become(Status::Created),
                status == Status::Created
            );
            assert_eq!(status.may_become(Status::Dead), status == Status::Removing);
            assert!(!Status::Removing.may_become(status) || status == Status::Dead);
            // Live processes are never removed under their feet, and frozen ones only come from running.
            assert!(!(status.is_alive() && status.may_become(Status::Removing)));
            assert_eq!(status.may_become(Status::Paused), status == Status::Running);
            // Every state but a removal's has a way out.
            assert!(
                Status::ALL
                    .iter()
                    .any(|next| *next != status && status.may_become(*next))
            );
        }
    }

    proptest! {
        /// Any walk of allowed transitions, from creation: processes exist only between a start and an
        /// exit, and after a removal began nothing runs again.
        #[test]
        fn walks(choices in proptest::collection::vec(0usize..7, 0..64)) {
            let (mut status, mut started, mut removal) = (Status::Created, false, false);
            for choice in choices {
                let next = Status::ALL[choice];
                if !status.may_become(next) {
                    continue;
                }
                started |= next == Status::Running;
                removal |= next == Status::Removing;
                prop_assert!(!removal || !next.is_alive());
                prop_assert!(started || matches!(next, Status::Created | Status::Removing | Status::Dead));
                status = next;
            }
        }
    }
}
