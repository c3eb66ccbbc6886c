//! Containers of external runtimes (runc, crun): the same [`crate::LaunchSpec`] becomes a bundle, and the keeper runs
//! the OCI command line on it.
//!
//! **Architecture invariants**
//! - The runtime gets the control group made and limited as the built-in launcher's containers get it.
//! - No mount of a container is attached in the host's mount namespace: the keeper's child attaches them in a copy.
//! - Which runtime a container has is noted in its bundle before anything runs.

mod bundle;
mod command;
mod config;
mod exec;
mod mounts;
mod prepare;
mod resources;
mod seccomp;
mod spec;

pub(crate) use bundle::{names_in, open_dir};
pub(crate) use command::{Commands, remove_later, runtime_error};
pub(crate) use config::document;
pub(crate) use exec::ExternalExec;
pub(crate) use mounts::mount_namespace;
pub(crate) use prepare::External;
pub(crate) use spec::VERSION;

pub use bundle::{Bundle, Runtime};
pub use command::{RuntimeAction, RuntimeCommand};
pub use exec::prepare_exec as prepare_external_exec;
pub use prepare::prepare as prepare_external;
pub use seccomp::oci_seccomp;

/// Below the bundle: where the root file system is attached for the runtime.
const ROOTFS: &str = "rootfs";
/// Where the runtime leaves the process id.
const PID_FILE: &str = "pid";
