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
