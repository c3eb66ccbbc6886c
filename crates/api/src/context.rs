//! What handlers need: the engine, the images, and facts about this daemon.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use gantry_engine::Engine;
use gantry_image::ImageStore;
use gantry_registry::Registry;

use crate::convert::Machine;

/// Everything a handler may use; one for the process.
pub struct Context {
    /// Containers and events.
    pub engine: Engine,
    /// Images.
    pub images: Arc<ImageStore>,
    /// The client of registries.
    pub registry: Arc<Registry>,
    /// Facts that do not change while the daemon runs.
    pub daemon: DaemonInfo,
    /// Settings that a reload can change.
    pub settings: RwLock<Settings>,
}

/// What a reload of daemon.json can change, as `/info` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Labels of the daemon.
    pub labels: Vec<String>,
    /// Whether debugging is on.
    pub debug: bool,
}

impl Context {
    /// The settings at this moment.
    pub fn settings(&self) -> Settings {
        let settings = self.settings.read();
        settings.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the settings and tells who listens to events.
    pub fn reload(&self, settings: Settings, attributes: Vec<(String, String)>) {
        *self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = settings;
        self.engine
            .publish_event("daemon", "reload", &self.daemon.id, attributes);
    }
}

/// Facts about this daemon, found at boot.
#[derive(Debug, Clone, Default)]
pub struct DaemonInfo {
    /// Version of the program.
    pub version: String,
    /// Commit it was built from, empty when unknown.
    pub git_commit: String,
    /// When it was built, empty when unknown.
    pub build_time: String,
    /// Id of this daemon, kept in its data root.
    pub id: String,
    /// Data root.
    pub data_root: PathBuf,
    /// Log driver of containers that name none.
    pub log_driver: String,
    /// Whether containers are in a user namespace unless they ask for the host's.
    pub userns_remap: bool,
    /// Release of the kernel.
    pub kernel_version: String,
    /// `PRETTY_NAME` of os-release.
    pub operating_system: String,
    /// `VERSION_ID` of os-release.
    pub os_version: String,
    /// Host name.
    pub hostname: String,
    /// CPUs that containers may use.
    pub cpus: u32,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// `1` or `2`.
    pub cgroup_version: &'static str,
    /// Names of the controllers that are there.
    pub cgroup_controllers: Vec<String>,
    /// Whether block I/O can be weighted.
    pub blkio_weight: bool,
    /// Whether block I/O can be weighted by device.
    pub blkio_weight_device: bool,
    /// Directories of CDI specifications; none if that driver is switched off.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Whether memory plus swap can be limited.
    pub swap_limit: bool,
    /// The file system the data root is on.
    pub backing_filesystem: String,
    /// The predefined networks.
    pub networks: Vec<PredefinedNetwork>,
    /// What is missing or unusual, for `Warnings`.
    pub warnings: Vec<String>,
    /// Where kernels differ: for what, and which way is gone on this one.
    pub ways: Vec<(&'static str, &'static str)>,
    /// What new layers are on disk, for people.
    pub layer_form: &'static str,
}

/// A network that is always there.
#[derive(Debug, Clone)]
pub struct PredefinedNetwork {
    /// `bridge`, `host` or `none`.
    pub name: &'static str,
    /// `bridge`, `host` or `null`.
    pub driver: &'static str,
    /// 64 hexadecimal digits, kept in the data root.
    pub id: String,
    /// When it was made.
    pub created_unix_ns: i64,
}

impl DaemonInfo {
    /// What a request for a container is checked against.
    pub(crate) fn machine(&self) -> Machine {
        Machine {
            cpus: self.cpus,
            cgroup_v2: self.cgroup_version == "2",
            userns_remap: self.userns_remap,
            blkio_weight: self.blkio_weight,
            blkio_weight_device: self.blkio_weight_device,
        }
    }

    /// The id of a predefined network, empty if it is not there.
    pub fn network_id(&self, name: &str) -> String {
        self.networks
            .iter()
            .find(|n| n.name == name)
            .map_or_else(String::new, |n| n.id.clone())
    }

    /// Whether a cgroup controller is there.
    pub fn has_controller(&self, name: &str) -> bool {
        self.cgroup_controllers.iter().any(|c| c == name)
    }
}
