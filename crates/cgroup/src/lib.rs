//! Control groups of containers: v1, hybrid and v2.
//!
//! Data types first ([`Limits`], [`DeviceRule`]), then what they become as file contents
//! (pure functions in `settings`), then the thin part that touches the kernel ([`Hierarchy`], [`Group`]).
//! Everything here is blocking file-system work: call it on a worker, never on a shard.
//!
//! Absent on purpose: nothing here knows a container, a Docker field name or a runtime.

mod bpf;
mod detect;
mod device;
mod error;
mod group;
mod lifecycle;
mod limits;
mod oom;
mod settings;
mod sysfs;

pub use bpf::{DeviceProgram, MAX_DEVICE_RULES};
pub use detect::{Controller, Hierarchy, Version};
pub use device::{Access, DeviceKind, DeviceRule};
pub use error::CgroupError;
pub use group::{AttachFds, Group};
pub use lifecycle::{FREEZE_TIMEOUT_MS, KILL_ROUNDS, MAX_NESTED_GROUPS, REMOVE_ATTEMPTS};
pub use limits::{DeviceWeight, Limits, Throttle, UNLIMITED};
pub use oom::{Fired, OomWatch};
