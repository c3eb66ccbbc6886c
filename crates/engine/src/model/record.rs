//! What is stored of a container.

use serde::{Deserialize, Serialize};

use super::{ContainerConfig, Health, HostSpec, Status};

/// Version of [`ContainerRecord`] on disk.
pub const RECORD_VERSION: u32 = 1;

/// The one record of truth of a container, as JSON in the metadata store; a copy lies in the
/// container's directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Layout version.
    pub version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Name without the slash.
    pub name: String,
    /// Creation time, nanoseconds since 1970.
    pub created_unix_ns: i64,
    /// Id of the image.
    pub image_id: String,
    /// Resolved program.
    pub path: String,
    /// Resolved arguments.
    pub args: Vec<String>,
    /// Configuration merged with the image's.
    pub config: ContainerConfig,
    /// How the host runs it.
    pub host: HostSpec,
    /// The client's document.
    pub wire: String,
    /// State when the record was written.
    pub state: StateRecord,
    /// How often the restart policy has started it again.
    pub restart_count: u32,
}

/// The stored state of a container. Running states are in the shard's journal; the store has what
/// must survive a power loss.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateRecord {
    /// The state.
    pub status: Status,
    /// Host pid of the first process.
    pub pid: i32,
    /// Start time of that process in clock ticks since boot: with the pid it names the process.
    pub start_time_ticks: u64,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// Why the last start or run failed.
    pub error: String,
    /// Start of the last run.
    pub started_unix_ns: i64,
    /// End of the last run.
    pub finished_unix_ns: i64,
    /// A process of the last run was killed for lack of memory.
    pub oom_killed: bool,
    /// Grows with every change of this container; the newest of journal and store counts.
    pub sequence: u64,
    /// A client stopped it; `unless-stopped` does not start it at boot.
    pub manually_stopped: bool,
    /// What its probes had found; only in what is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}
