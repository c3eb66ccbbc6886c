//! What the daemon's configuration says to the engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_launch::Remap;
use gantry_stream::PumpKind;

use crate::model::{HostSpec, LogConfig};
use crate::runtimes::Runtimes;

/// Docker's grace of `stop`.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Docker's size of /dev/shm.
pub const DEFAULT_SHM_BYTES: u64 = 64 << 20;
/// Docker's parent control group.
pub const DEFAULT_CGROUP_PARENT: &str = "/docker";

/// Settings of an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where what survives a reboot lies.
    pub data_root: PathBuf,
    /// Where what survives only the daemon lies.
    pub exec_root: PathBuf,
    /// The keeper program.
    pub keeper_exe: PathBuf,
    /// Number of shards of the runtime.
    pub shards: usize,
    /// Log driver and options of containers that name none.
    pub default_log: LogConfig,
    /// Limits of processes of containers that name none.
    pub default_ulimits: Vec<crate::model::Ulimit>,
    /// Runtimes, until [`crate::Engine::set_runtimes`].
    pub runtimes: Runtimes,
    /// Name servers of containers that name none.
    pub dns: Vec<String>,
    /// Parent control group of containers that name none.
    pub cgroup_parent: String,
    /// Directories of CDI specifications, later ones count more; without any there is no such driver.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// How containers' output is read on this kernel.
    pub pump: PumpKind,
    /// Ids of containers that do not ask for the host's user namespace.
    pub remap: Option<Arc<Remap>>,
}

impl EngineConfig {
    /// Docker's defaults under these two directories.
    pub fn new(data_root: PathBuf, exec_root: PathBuf, keeper_exe: PathBuf, shards: usize) -> Self {
        Self {
            data_root,
            exec_root,
            keeper_exe,
            shards,
            default_log: LogConfig {
                driver: "json-file".to_owned(),
                options: BTreeMap::new(),
            },
            default_ulimits: Vec::new(),
            runtimes: Runtimes::default(),
            dns: Vec::new(),
            cgroup_parent: DEFAULT_CGROUP_PARENT.to_owned(),
            cdi_spec_dirs: Vec::new(),
            pump: PumpKind::default(),
            remap: None,
        }
    }

    /// Ids of a container, unless it is in the host's user namespace.
    pub(crate) fn remap_of(&self, host: &HostSpec) -> Option<&Arc<Remap>> {
        self.remap.as_ref().filter(|_| !host.host_userns)
    }

    /// Directory of all containers.
    pub fn containers_dir(&self) -> PathBuf {
        self.data_root.join("containers")
    }

    /// The lowest layer of every container: mount points an image may lack.
    pub fn init_layer_dir(&self) -> PathBuf {
        self.data_root.join("init-layer")
    }

    /// The lowest layers of a mounted image: nothing.
    pub fn empty_layer_dirs(&self) -> [PathBuf; 2] {
        let dir = self.data_root.join("empty-layers");
        [dir.join("0"), dir.join("1")]
    }

    /// The program of `--init`. Not under exec-root, which may be on a file system without execution (/run).
    pub fn init_program_path(&self) -> PathBuf {
        self.data_root.join("docker-init")
    }

    /// The journal of a shard.
    pub fn journal_path(&self, shard: usize) -> PathBuf {
        self.exec_root.join(format!("state-{shard}.journal"))
    }
}
