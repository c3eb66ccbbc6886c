//! What a client may ask of a container, in the engine's own words.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    DeviceMapping, DeviceRate, DeviceRequest, HealthCheck, IpcMode, MountPoint, MountRequest,
    PidMode, VolumesFrom,
};

/// A request to create a container. Image, entrypoint and so on are as the client gave them; the
/// engine merges the image's configuration into it.
#[derive(Debug, Clone, Default)]
pub struct CreateSpec {
    /// Wanted name (with or without a leading slash); generated when absent.
    pub name: Option<String>,
    /// What runs inside.
    pub config: ContainerConfig,
    /// How the host runs it.
    pub host: HostSpec,
    /// Mounts the client asks for.
    pub mounts: Vec<MountRequest>,
    /// Containers whose mounts it takes over.
    pub volumes_from: Vec<VolumesFrom>,
    /// Driver of volumes that are declared; empty means the local one.
    pub volume_driver: String,
    /// Options of the storage (`size`); they become a quota.
    pub storage_options: BTreeMap<String, String>,
    /// The client's document, kept by the `api` crate to echo it in inspect; opaque here.
    pub wire: Arc<str>,
}

/// What runs inside a container. After creation this is the merge with the image's configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Image reference or id as the client gave it.
    pub image: String,
    /// Host name inside; empty means the first 12 digits of the id.
    pub hostname: String,
    /// Domain name inside.
    pub domainname: String,
    /// `user[:group]`, names or numbers; empty means root.
    pub user: String,
    /// Attach standard input at run (echoed only).
    pub attach_stdin: bool,
    /// Attach standard output at run (echoed only).
    pub attach_stdout: bool,
    /// Attach standard error at run (echoed only).
    pub attach_stderr: bool,
    /// Give the program a terminal.
    pub tty: bool,
    /// Keep standard input open even if nobody is attached.
    pub open_stdin: bool,
    /// Close standard input when the first attached client leaves.
    pub stdin_once: bool,
    /// `NAME=value`; a bare `NAME` removes the image's variable.
    pub env: Vec<String>,
    /// Arguments, or the program when there is no entrypoint. `None`: not given.
    pub cmd: Option<Vec<String>>,
    /// Program. `None`: not given; `Some(vec![])` or `[""]`: the image's is removed.
    pub entrypoint: Option<Vec<String>>,
    /// Working directory inside.
    pub working_dir: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal of `stop`, by name or number; empty means SIGTERM.
    pub stop_signal: String,
    /// Grace of `stop` in seconds; negative means without end.
    pub stop_timeout_s: Option<i64>,
    /// `80/tcp`, as the image and the client declare them.
    pub exposed_ports: Vec<String>,
    /// Declared volume paths.
    pub volumes: Vec<String>,
    /// Shell of the image, for health checks in shell form.
    pub shell: Vec<String>,
    /// ONBUILD triggers of the image.
    pub on_build: Vec<String>,
    /// How its health is found; `None`: not given, or there is none.
    pub health: Option<HealthCheck>,
    /// No network at all, whatever the mode says.
    pub network_disabled: bool,
}

/// A limit on what a container writes to its root file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageQuota {
    /// The limit.
    pub bytes: u64,
    /// The project of the file system that counts it.
    pub project: u32,
}

/// How the host runs a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSpec {
    /// Which network namespace.
    pub network_mode: NetworkMode,
    /// Which pid namespace.
    pub pid_mode: PidMode,
    /// Which IPC namespace.
    pub ipc_mode: IpcMode,
    /// The host's UTS namespace.
    pub host_uts: bool,
    /// The host's user namespace, whatever the daemon remaps.
    pub host_userns: bool,
    /// The host's cgroup namespace.
    pub host_cgroup_namespace: bool,
    /// Devices of the host.
    pub devices: Vec<DeviceMapping>,
    /// Rules of the client for device nodes (`c 1:3 rwm`); they are read at the start.
    pub device_cgroup_rules: Vec<String>,
    /// Devices that drivers are to find.
    pub device_requests: Vec<DeviceRequest>,
    /// Remove the container when it has ended.
    pub auto_remove: bool,
    /// What happens when it ends by itself.
    pub restart: RestartPolicy,
    /// Resource limits.
    pub limits: ResourceLimits,
    /// Every capability, every device, no masks, no filter.
    pub privileged: bool,
    /// The root file system is read-only.
    pub readonly_rootfs: bool,
    /// Capabilities added to the default set (`NET_ADMIN`, `CAP_NET_ADMIN`, `ALL`).
    pub cap_add: Vec<String>,
    /// Capabilities removed from the default set.
    pub cap_drop: Vec<String>,
    /// Parsed security options.
    pub security: SecurityOptions,
    /// Size of /dev/shm; `None` means 64 MiB.
    pub shm_size_bytes: Option<u64>,
    /// How much it may write to its root file system; `None`: no limit of its own.
    pub storage_quota: Option<StorageQuota>,
    /// Paths that get a tmpfs, with mount options (`size=64m,mode=1777`).
    pub tmpfs: BTreeMap<String, String>,
    /// `name:address` lines for /etc/hosts (`host-gateway` is resolved by the network part).
    pub extra_hosts: Vec<String>,
    /// Name servers instead of the host's.
    pub dns: Vec<String>,
    /// Search domains instead of the host's.
    pub dns_search: Vec<String>,
    /// Resolver options instead of the host's.
    pub dns_options: Vec<String>,
    /// Additional groups, names or numbers.
    pub group_add: Vec<String>,
    /// Resource limits of processes.
    pub ulimits: Vec<Ulimit>,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Added to the OOM killer's score.
    pub oom_score_adj: i32,
    /// Paths made inaccessible; `None` means Docker's default list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths made read-only; `None` means Docker's default list.
    pub readonly_paths: Option<Vec<String>>,
    /// Parent control group; empty means `/docker`.
    pub cgroup_parent: String,
    /// Log driver and options; driver empty means the daemon's default.
    pub log: LogConfig,
    /// Terminal size at start (rows, columns).
    pub console_size: Option<(u16, u16)>,
    /// Process 1 is an init of our own that starts the program.
    pub init: bool,
    /// Which runtime starts it; empty means the daemon's default.
    #[serde(default = "built_in")]
    pub runtime: String,
    /// Annotations, echoed.
    pub annotations: BTreeMap<String, String>,
    /// Mounts, those of volumes with the names they got.
    pub mounts: Vec<MountPoint>,
}

/// Records from before there were others.
fn built_in() -> String {
    crate::runtimes::BUILT_IN_RUNTIME.to_owned()
}

/// Which network namespace a container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// The predefined bridge (until networking is built: a namespace with loopback only).
    #[default]
    Default,
    /// A namespace with loopback only.
    None,
    /// The host's namespace.
    Host,
    /// The namespace of another container, by id or name as the client gave it.
    Container(String),
    /// A network of the user, by name or id as the client gave it. Whether there is one is asked at the start.
    Named(String),
}

impl NetworkMode {
    /// Docker's word for this mode.
    pub fn as_docker(&self) -> String {
        match self {
            Self::Default => "bridge".to_owned(),
            Self::None => "none".to_owned(),
            Self::Host => "host".to_owned(),
            Self::Container(id) => format!("container:{id}"),
            Self::Named(name) => name.clone(),
        }
    }
}

/// What happens when a container ends by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// It stays ended.
    #[default]
    No,
    /// Started again after every exit, and at boot.
    Always,
    /// As `Always`, except at boot after a manual stop.
    UnlessStopped,
    /// Started again after a failure.
    OnFailure {
        /// Give up after this many attempts; 0 means never.
        max_retries: u32,
    },
}

/// Resource limits of a container; `None` and 0 mean unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceLimits {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory and swap in bytes; -1 means unlimited swap.
    pub memory_swap_bytes: Option<i64>,
    /// Soft memory limit in bytes.
    pub memory_reservation_bytes: Option<u64>,
    /// 0 to 100.
    pub memory_swappiness: Option<u64>,
    /// Relative CPU weight (1,024 is normal).
    pub cpu_shares: Option<u64>,
    /// CPU time per period in microseconds.
    pub cpu_quota_us: Option<i64>,
    /// Period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// CPUs in units of 1e-9.
    pub nano_cpus: Option<u64>,
    /// CPUs it may run on (`0-2,7`).
    pub cpuset_cpus: String,
    /// Memory nodes it may use.
    pub cpuset_mems: String,
    /// Processes and threads; `None` or -1 means unlimited.
    pub pids_max: Option<i64>,
    /// Relative block I/O weight (10 to 1,000).
    pub blkio_weight: Option<u16>,
    /// Relative weights of single devices.
    pub blkio_weight_devices: Vec<DeviceRate>,
    /// Bytes read per second.
    pub blkio_read_bytes: Vec<DeviceRate>,
    /// Bytes written per second.
    pub blkio_write_bytes: Vec<DeviceRate>,
    /// Reads per second.
    pub blkio_read_ops: Vec<DeviceRate>,
    /// Writes per second.
    pub blkio_write_ops: Vec<DeviceRate>,
    /// Real-time period in microseconds (v1 only).
    pub cpu_rt_period_us: Option<i64>,
    /// Real-time share of that period in microseconds (v1 only).
    pub cpu_rt_runtime_us: Option<i64>,
    /// Kernel memory of TCP buffers in bytes (v1 only).
    pub kernel_memory_tcp_bytes: Option<u64>,
    /// Do not kill on out of memory (v1 only).
    pub oom_kill_disable: bool,
}

/// One resource limit of processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `core`, ...
    pub name: String,
    /// Soft limit; -1 means unlimited.
    pub soft: i64,
    /// Hard limit; -1 means unlimited.
    pub hard: i64,
}

/// Parsed `--security-opt`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityOptions {
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// `seccomp=...`.
    pub seccomp: SeccompChoice,
    /// `apparmor=...`, the last one; empty for none.
    pub apparmor_profile: String,
    /// `writable-cgroups`, if it was given.
    pub writable_cgroups: Option<bool>,
}

/// Which system call filter a container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompChoice {
    /// Docker's default profile.
    #[default]
    Default,
    /// No filter.
    Unconfined,
    /// A profile document (JSON).
    Profile(String),
}

/// Where a container's output is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// `json-file`, `local` or `none`; empty means the daemon's default.
    pub driver: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

impl LogConfig {
    /// Takes over what the daemon's own configuration says and this one does not: its driver, and that driver's options.
    pub fn fill_from(&mut self, default: &LogConfig) {
        if self.driver.is_empty() {
            self.driver.clone_from(&default.driver);
        }
        if self.driver == default.driver {
            for (name, value) in &default.options {
                let given = self.options.entry(name.clone());
                given.or_insert_with(|| value.clone());
            }
        }
    }
}
