//! What readers see: immutable snapshots of containers.

use std::path::PathBuf;
use std::sync::Arc;

use super::{ContainerConfig, Health, HealthCell, HostSpec, Status};

/// A container's id: 64 hexadecimal digits.
pub type ContainerId = Arc<str>;

/// A container as it was at one moment. Readers on any shard hold it as long as they like.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// 64 hexadecimal digits.
    pub id: ContainerId,
    /// Name without the slash.
    pub name: Arc<str>,
    /// State at that moment.
    pub state: StateView,
    /// How often the restart policy has started it again.
    pub restart_count: u32,
    /// Its health, of now and not of that moment; `None` if it has no check.
    pub health: Option<HealthCell>,
    /// What only `update` changes, by exchanging it as a whole.
    pub fixed: Arc<FixedView>,
    /// Grows with every change of this container; a cache key.
    pub revision: u64,
}

/// The parts of a container that do not change by running it. Of these `update` changes limits, restart policy and the
/// client's document.
#[derive(Debug, Clone)]
pub struct FixedView {
    /// Creation time, nanoseconds since 1970.
    pub created_unix_ns: i64,
    /// Id of the image (`sha256:...`).
    pub image_id: String,
    /// Resolved program.
    pub path: String,
    /// Resolved arguments.
    pub args: Vec<String>,
    /// Configuration merged with the image's.
    pub config: ContainerConfig,
    /// How the host runs it.
    pub host: HostSpec,
    /// The client's document, as given at creation.
    pub wire: Arc<str>,
    /// Directory of this container under the data root.
    pub dir: PathBuf,
}

impl ContainerView {
    /// What probes found so far; `None` if it has no check, or was never started.
    pub fn health(&self) -> Option<Arc<Health>> {
        self.health.as_ref()?.load()
    }
}

impl FixedView {
    /// The file mounted at /etc/resolv.conf.
    pub fn resolv_conf_path(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }
    /// The file mounted at /etc/hostname.
    pub fn hostname_path(&self) -> PathBuf {
        self.dir.join("hostname")
    }
    /// The file mounted at /etc/hosts.
    pub fn hosts_path(&self) -> PathBuf {
        self.dir.join("hosts")
    }
    /// The log file of the json-file driver.
    pub fn log_path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}-json.log"))
    }
    /// What the names of the local driver's files begin with. Docker's place; form and content are ours.
    pub fn local_log_base(&self) -> PathBuf {
        self.dir.join("local-logs/container")
    }
    /// The upper directory of the root file system.
    pub fn upper_path(&self) -> PathBuf {
        self.dir.join("rootfs/upper")
    }
    /// The work directory of the root file system.
    pub fn work_path(&self) -> PathBuf {
        self.dir.join("rootfs/work")
    }
}

/// A container's state at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateView {
    /// The state.
    pub status: Status,
    /// Host pid of the first process, 0 when there is none.
    pub pid: i32,
    /// Start time of that process in clock ticks since boot: with the pid it names the process.
    pub start_time_ticks: u64,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// Why the last start or run failed; empty when it did not.
    pub error: String,
    /// Start of the last run; 0 means never.
    pub started_unix_ns: i64,
    /// End of the last run; 0 means never.
    pub finished_unix_ns: i64,
    /// The kernel killed a process of the last run for lack of memory.
    pub oom_killed: bool,
}
