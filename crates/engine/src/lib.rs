//! Containers: their state machine, life cycle, events and queries.
//!
//! **Architecture invariants**
//! - Nothing here knows HTTP or the field names of Docker's JSON.
//! - A container belongs to one shard; everything that changes it runs there, as a task that a
//!   client's hang-up does not stop half way. Readers use the immutable index.
//! - No change is announced (answer, event, exit) before its record is durable: against a kill by the
//!   shard's journal, against a power loss by the store.
//! - A state transition that the machine does not have is a bug and panics.

mod accounts_cache;
pub mod apparmor;
mod backoff;
mod boot;
mod capabilities;
pub mod cdi;
mod clock;
mod command;
mod config;
mod container;
mod devices;
mod engine;
mod error;
mod events;
mod exec;
mod gpu;
mod health;
mod ids;
mod index;
mod journal;
mod keeper;
mod launch_spec;
mod limits;
mod list;
mod lock;
mod merged;
pub mod model;
mod mounts;
mod names;
mod namespaces;
mod oom;
mod orphan;
mod rlimits;
mod runtimes;
mod shard;
mod signals;
mod storage_quota;
mod sysctl;
pub mod user;
mod volumes;
mod wait_handle;

pub use boot::BootReport;
pub use command::clean_path;
pub use config::EngineConfig;
pub use container::archive::{
    Access, Change, ChangeKind, CommitSpec, CopyIn, CopyOut, Files, MAX_CHANGES, PathStat,
};
pub use container::attach::AttachTicket;
pub use container::logs::{LogStream, check_default as check_default_log};
pub use engine::Engine;
pub use error::{EngineError, ErrorClass};
pub use events::{Event, EventStream, EventsQuery};
pub use exec::attach::{ExecStart, ExecTicket};
pub use exec::create::ExecRequest;
pub use exec::{ExecConfig, ExecId, ExecView};
pub use gantry_keeper_proto::fault::arm as arm_faults;
pub use gantry_launch::Runtime;
pub use gantry_stream::{PumpKind, PumpStats};
pub use ids::short as short_id;
pub use limits::limits;
pub use runtimes::{BUILT_IN_RUNTIME, Runtimes};
pub use wait_handle::WaitHandle;
