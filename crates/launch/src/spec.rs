//! What to launch, decided by the engine.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use gantry_cgroup::{Hierarchy, Limits};
use gantry_keeper_proto::plan::{CapabilityMasks, Rlimit};

use crate::hooks::Hooks;
use crate::lower::Lower;
use crate::remap::Remap;

/// Size of /dev/shm unless asked otherwise.
pub const DEFAULT_SHM_BYTES: u64 = 64 * 1024 * 1024;

/// Paths a container cannot read unless it is privileged (Docker's list).
pub const DEFAULT_MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths a container cannot write unless it is privileged (Docker's list).
pub const DEFAULT_READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The root file system: an overlay mounted for this start.
#[derive(Clone, Debug, Default)]
pub struct RootfsSpec {
    /// Read-only layers, top first. Without any, `upper` itself is the root.
    pub lowers: Vec<Lower>,
    /// Where changes go.
    pub upper: PathBuf,
    /// Overlay's work directory, on the file system of `upper`.
    pub work: PathBuf,
    /// Do not sync `upper` when the container ends (`--rm` only).
    pub volatile: bool,
    /// Owners as a remapped container sees them; on disk they are the image's.
    pub remap: Option<Arc<Remap>>,
}

/// A file or directory of the host that appears in the container.
#[derive(Clone, Debug)]
pub struct BindFile {
    /// On the host; resolved in the daemon's mount namespace.
    pub source: PathBuf,
    /// Absolute path in the container; made if missing.
    pub target: String,
    /// Not writable from inside.
    pub readonly: bool,
}

/// How mounts made later below a bind mount travel between the host and the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the host to the container.
    Slave,
    /// In both directions.
    Shared,
}

/// How far a bind mount cannot be written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readonly {
    /// It can.
    #[default]
    No,
    /// What is mounted below it can be, if it could before.
    TopOnly,
    /// Nothing can; where the kernel cannot do that, only the top.
    Recursive,
    /// Nothing can, or the start fails.
    ForceRecursive,
}

/// A directory or file of the host that the client wants in the container.
#[derive(Clone, Debug, Default)]
pub struct BindMount {
    /// On the host; resolved in the daemon's mount namespace, symbolic links too.
    pub source: PathBuf,
    /// Read-only layers, top first, at least two: their union is mounted, and `source` only names it in errors.
    pub layers: Vec<Lower>,
    /// A path below the source that is mounted instead of it; it cannot lead out of it.
    pub subpath: Option<String>,
    /// Absolute path in the container; made if missing.
    pub target: String,
    /// Not writable from inside.
    pub readonly: Readonly,
    /// Without what is mounted below the source.
    pub non_recursive: bool,
    /// Propagation of later mounts.
    pub propagation: Propagation,
    /// Where the source is not shared, a mount that would be its slave is private.
    pub propagation_optional: bool,
    /// The propagation is for this mount alone, not for those below it.
    pub propagation_top_only: bool,
    /// Further `MOUNT_ATTR_*` bits of the top mount (nosuid, nodev, noexec, ...).
    pub attributes: u64,
}

/// A tmpfs of the container.
#[derive(Clone, Debug, Default)]
pub struct TmpfsMount {
    /// Absolute path in the container; made if missing.
    pub target: String,
    /// As the client gave them: `size=64m,mode=1777,ro,exec,…`; nosuid, nodev and noexec unless undone.
    pub options: String,
}

/// Which namespace of a kind.
#[derive(Debug, Default)]
pub enum NamespaceMode {
    /// A new one; of a network with the loopback interface up.
    #[default]
    New,
    /// The host's.
    Host,
    /// That of another container: a namespace file ([`crate::namespace_of`]) or a pidfd.
    Join(OwnedFd),
}

impl NamespaceMode {
    /// Whether it is the container's alone.
    pub fn is_new(&self) -> bool {
        matches!(self, Self::New)
    }
}

/// A user namespace beside the host's.
#[derive(Debug)]
pub struct UserNamespace {
    /// Its ids.
    pub remap: Arc<Remap>,
    /// That of another container ([`crate::namespace_of`]) instead of a new one, and that container's process id:
    /// external runtimes look its maps up beside the namespace.
    pub join: Option<(OwnedFd, i32)>,
}

/// What is at /dev/shm.
#[derive(Debug, Default)]
pub enum Shm {
    /// A tmpfs of the container.
    #[default]
    Own,
    /// Nothing, not even the directory.
    Absent,
    /// The host's /dev/shm.
    Host,
    /// A detached copy of another container's ([`crate::shm_of`]).
    Of(OwnedFd),
}

/// A device node of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// Absolute path in the container; directories on the way are made.
    pub path: String,
    /// A block device, not a character device.
    pub block: bool,
    /// Device number as stat(2) gives it.
    pub device: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The control group.
#[derive(Clone, Debug)]
pub struct CgroupSpec {
    /// What the host has.
    pub hierarchy: Arc<Hierarchy>,
    /// Parent group (`/docker`).
    pub parent: String,
    /// Limits, device rules among them.
    pub limits: Limits,
}

/// Programs that run while the container comes to be, and when it has gone.
#[derive(Clone, Debug, Default)]
pub struct HookSpec {
    /// By kind and in order.
    pub hooks: Hooks,
    /// Where their bundle is made, for the built-in launcher.
    pub exec_root: PathBuf,
}

/// Everything about one start of one container.
#[derive(Debug)]
pub struct LaunchSpec {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Program and arguments; the program is looked up in the container by PATH of `env`.
    pub argv: Vec<CString>,
    /// `NAME=value`.
    pub env: Vec<CString>,
    /// Working directory; made if missing.
    pub cwd: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Host name.
    pub hostname: String,
    /// Domain name.
    pub domainname: String,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// First size of the terminal: rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// Standard input is a pipe (without a terminal) instead of /dev/null.
    pub open_stdin: bool,
    /// Capability sets.
    pub capabilities: CapabilityMasks,
    /// Filter program, 8 bytes per instruction.
    pub seccomp: Option<Arc<[u8]>>,
    /// No privileges by exec.
    pub no_new_privs: bool,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Written to oom_score_adj.
    pub oom_score_adj: Option<i32>,
    /// Made inaccessible ([`DEFAULT_MASKED_PATHS`]; empty when privileged).
    pub masked_paths: Vec<String>,
    /// Made read-only ([`DEFAULT_READONLY_PATHS`]; empty when privileged).
    pub readonly_paths: Vec<String>,
    /// The root file system is read-only.
    pub readonly_rootfs: bool,
    /// sysfs and cgroups writable, every device of the host in /dev.
    pub privileged: bool,
    /// Cgroups are writable as far as their owners allow.
    pub writable_cgroups: bool,
    /// Size of /dev/shm.
    pub shm_size_bytes: u64,
    /// Kernel parameters by their dotted names.
    pub sysctls: Vec<(String, String)>,
    /// Root file system.
    pub rootfs: RootfsSpec,
    /// Host files inside, /etc/hosts and so on.
    pub binds: Vec<BindFile>,
    /// What the client mounts from the host.
    pub mounts: Vec<BindMount>,
    /// tmpfs mounts.
    pub tmpfs: Vec<TmpfsMount>,
    /// Network namespace.
    pub network: NamespaceMode,
    /// Pid namespace.
    pub pid: NamespaceMode,
    /// A detached proc of a pid namespace that is joined ([`crate::proc_of`]).
    pub joined_proc: Option<OwnedFd>,
    /// User namespace, unless it is the host's.
    pub user: Option<UserNamespace>,
    /// AppArmor's profile of the program.
    pub apparmor_profile: Option<CString>,
    /// IPC namespace.
    pub ipc: NamespaceMode,
    /// The host's UTS namespace; host name and domain name are left alone.
    pub host_uts: bool,
    /// A cgroup namespace of its own, in which its group is the root.
    pub cgroup_namespace: bool,
    /// What is at /dev/shm.
    pub shm: Shm,
    /// Nodes beside the usual ones.
    pub devices: Vec<DeviceNode>,
    /// Hooks.
    pub hooks: HookSpec,
    /// Annotations, for external runtimes and hooks.
    pub annotations: BTreeMap<String, String>,
    /// Control group.
    pub cgroup: CgroupSpec,
    /// A full spill of a missing daemon is declared as a gap instead of blocking the container.
    pub log_nonblocking: bool,
}
