//! Questions and answers of the engine's operations.

use std::collections::BTreeMap;

/// Filters as clients write them: key to values, any of which may match.
pub type FilterMap = BTreeMap<String, Vec<String>>;

/// Answer of create.
#[derive(Debug, Clone)]
pub struct Created {
    /// The new id.
    pub id: String,
    /// What the client should know.
    pub warnings: Vec<String>,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// It does not run (answers at once if it does not).
    #[default]
    NotRunning,
    /// Its next exit.
    NextExit,
    /// Its removal.
    Removed,
}

/// Answer of `wait`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WaitResult {
    /// Exit code.
    pub status_code: i32,
    /// Why waiting or removing failed.
    pub error: Option<String>,
}

/// How to stop.
#[derive(Debug, Clone, Default)]
pub struct StopOptions {
    /// Signal instead of the container's own.
    pub signal: Option<String>,
    /// Grace in seconds instead of the container's own; negative means without end.
    pub timeout_s: Option<i64>,
}

/// How to remove.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
    /// Remove a link, not the container (refused: links are not built).
    pub link: bool,
}

/// Which containers to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// At most this many, newest first (implies `all`).
    pub limit: Option<usize>,
    /// Filters as the client wrote them.
    pub filters: FilterMap,
}

/// Answer of `top`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Top {
    /// Column titles.
    pub titles: Vec<String>,
    /// One row per process.
    pub processes: Vec<Vec<String>>,
}

/// How to attach.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// Send what the client types.
    pub stdin: bool,
    /// Send the client standard output.
    pub stdout: bool,
    /// Send the client standard error.
    pub stderr: bool,
    /// Begin with what the log has.
    pub logs: bool,
    /// Go on with live output.
    pub stream: bool,
    /// Keys that leave the container (`ctrl-p,ctrl-q`); `None` means the default.
    pub detach_keys: Option<String>,
}

/// Which log records to read.
#[derive(Debug, Clone, Default)]
pub struct LogsOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Go on while the container runs.
    pub follow: bool,
    /// Put the time in front.
    pub timestamps: bool,
    /// Put the attributes of the log driver in front.
    pub details: bool,
    /// As the client wrote it: RFC 3339, unix seconds, or a duration.
    pub since: String,
    /// As the client wrote it.
    pub until: String,
    /// Last lines only; empty or `all` means every line.
    pub tail: String,
}

/// Numbers for `/info`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All containers.
    pub containers: usize,
    /// Running or restarting ones.
    pub running: usize,
    /// Paused ones.
    pub paused: usize,
    /// The others.
    pub stopped: usize,
}
