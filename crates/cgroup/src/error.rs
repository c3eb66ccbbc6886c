//! Errors of this crate, each with the group or file it is about.

use std::io;
use std::path::PathBuf;

/// What can go wrong with control groups.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// no cgroup file system is mounted: neither version 1 controllers nor cgroup2 in /proc/self/mountinfo
    #[error(
        "no cgroup file system is mounted: neither version 1 controllers nor cgroup2 in /proc/self/mountinfo"
    )]
    NotMounted,
    /// the controllers that are needed are missing, with the likely cause
    #[error("cgroup controllers missing: {names}; {cause}")]
    MissingControllers {
        /// Comma-separated names.
        names: String,
        /// What most often leads to this.
        cause: &'static str,
    },
    /// the parent path is not an absolute path without `..`
    #[error(
        "invalid cgroup path {0:?}: it must be relative to the hierarchy's root and without \"..\""
    )]
    InvalidPath(String),
    /// a limit is outside of what the kernel can express
    #[error("invalid value for {setting}: {value}")]
    InvalidLimit {
        /// The limit.
        setting: &'static str,
        /// What was asked for.
        value: String,
    },
    /// the kernel has the controller, but a group above does not hand it down
    #[error(
        "cannot set the {setting} of {path}: no {controller} controller there; a group above does not hand it down \
         (cgroup.subtree_control), most often because it has processes of its own"
    )]
    Withheld {
        /// The limit.
        setting: &'static str,
        /// What it needs.
        controller: &'static str,
        /// The group.
        path: String,
    },
    /// fewer CPU shares than the kernel knows
    #[error("the minimum allowed cpu-shares is {limit}", limit = crate::settings::MIN_SHARES)]
    TooFewShares,
    /// more CPU shares than the kernel knows
    #[error("the maximum allowed cpu-shares is {limit}", limit = crate::settings::MAX_SHARES)]
    TooManyShares,
    /// too many device rules for one program
    #[error("{0} device rules are more than the {limit} one group can have", limit = crate::bpf::MAX_DEVICE_RULES)]
    TooManyDeviceRules(usize),
    /// the kernel's verifier refused the device program
    #[error("the kernel refused the device program: {source}: {log}")]
    DeviceProgram {
        /// The errno.
        source: io::Error,
        /// The verifier's words.
        log: String,
    },
    /// a file did not say what it should
    #[error("{path}: unexpected content {content:?}")]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// Its beginning.
        content: String,
    },
    /// the group did not freeze in time, some task does not stop
    #[error("{path}: not frozen after {waited_ms} ms, last state {state}")]
    FreezeTimeout {
        /// The group.
        path: PathBuf,
        /// How long it was tried.
        waited_ms: u64,
        /// What the kernel said last.
        state: String,
    },
    /// tasks are left after every round of kill
    #[error("{path}: {left} processes are left after {rounds} rounds of SIGKILL")]
    KillIncomplete {
        /// The group.
        path: PathBuf,
        /// How many.
        left: usize,
        /// How often it was tried.
        rounds: usize,
    },
    /// nested groups go past a limit
    #[error("{path}: more than {limit} nested groups", limit = crate::lifecycle::MAX_NESTED_GROUPS)]
    TooManyNestedGroups {
        /// The group.
        path: PathBuf,
    },
    /// the group is still busy after every attempt
    #[error("{path}: still busy after {attempts} attempts to remove it")]
    Busy {
        /// The group.
        path: PathBuf,
        /// How often it was tried.
        attempts: usize,
    },
    /// the kernel did not take a value (text as the OCI runtime behind dockerd words it)
    #[error("failed to write {value:?}: write {path}: {}", errno_text(.source))]
    Write {
        /// What was written.
        value: String,
        /// To which file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// a system call on a path failed
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was done.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
}

impl CgroupError {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        CgroupError::Io {
            operation,
            path: path.into(),
            source,
        }
    }
}

/// An errno as Go words it: the C library's text in lower case.
fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}
