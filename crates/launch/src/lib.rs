//! Launching containers: what can be done before the clone is done here on a worker ([`prepare`]), the rest by the
//! shard's keeper, which this crate starts and talks to ([`KeeperClient`]).
//!
//! **Architecture invariants**
//! - Nothing here forks a process of the daemon's size: the keeper is spawned once, the keeper clones.
//! - No mount of a container is ever attached in the host's mount namespace, on older kernels neither (`rootfs_old`).
//! - Paths inside a root file system are only resolved with `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`.
//! - [`prepare`] blocks and belongs on a worker; [`KeeperClient`] lives on one shard and never blocks.

mod client;
mod error;
mod exec;
mod hooks;
mod init_layer;
mod join;
mod lower;
mod netns;
mod oci;
mod prepare;
mod project_quota;
mod remap;
mod root_mount;
mod spawn;
mod spec;
mod sys;

pub use client::{
    AdoptedContainer, HandOver, KeeperClient, KeeperEvent, Launched, MAX_REQUESTS, Orphan,
    oom_counter,
};
pub use error::{ExecStage, KeeperError, LaunchError};
pub use exec::{ExecSpec, LaunchedExec, PreparedExec, prepare_exec};
pub use gantry_keeper_proto::msg::Exit;
pub use gantry_keeper_proto::plan::{CapabilityMasks, Rlimit, Step};
pub use hooks::{HOOK_LIMIT_S, Hook, HookBundle, HookKind, Hooks};
pub use init_layer::make_init_layer;
pub use join::{namespace_of, proc_of, shm_of};
pub use lower::Lower;
pub use netns::POOL_CAPACITY as NETNS_POOL_CAPACITY;
pub use oci::{
    Bundle, Runtime, RuntimeAction, RuntimeCommand, oci_seccomp, prepare_external,
    prepare_external_exec,
};
pub use prepare::{
    FilesOf, FilesView, LowerView, OverlayMode, Prepared, RootEntry, RootView, overlay_mode,
    prepare, probe_remapped,
};
pub use project_quota::{ProjectQuota, set_project};
pub use remap::{ActingAsRoot, IdRange, MAX_RANGES, Remap};
pub use root_mount::RootMount;
pub use spawn::KeeperName;
pub use spec::{
    BindFile, BindMount, CgroupSpec, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS,
    DEFAULT_SHM_BYTES, DeviceNode, HookSpec, LaunchSpec, NamespaceMode, Propagation, Readonly,
    RootfsSpec, Shm, TmpfsMount, UserNamespace,
};
pub use sys::process_start_time_ticks;
