//! The shard runtime: one pinned thread per core, each running a monoio (io_uring) executor, and the pieces every
//! other crate builds on: tasks, timers, readiness of any fd, mailboxes between shards, a worker pool for blocking
//! work, single-threaded channels, and HTTP/1 on the shard.
//!
//! **Architecture invariants**
//! - Only this crate names `monoio`; another back end is a change of this crate alone.
//! - A runtime is never dropped: the process ends by `exit`. Dropping it would free buffers under in-flight operations.
//! - No operation that hands out an fd (accept, open) goes through the ring: a cancelled one would leak its fd. The ring
//!   is only asked for readiness and time.
//! - A task that wakes itself never starves its shard: see [`task`].
//! - Nothing here blocks a shard; blocking work goes to [`workers`].

use std::future::Future;
use std::pin::Pin;

pub mod bridge;
pub mod closer;
pub mod fd;
pub mod guest;
pub mod http;
pub mod lines;
pub mod mailbox;
pub mod net;
pub mod queue;
pub mod reply;
mod shard;
pub mod stats;
pub mod sync;
pub mod task;
pub mod testing;
mod time;
pub mod workers;

pub use shard::{
    RuntimeHandle, ShardId, block_on_shard, current_shard, run, shard_count, try_current_shard,
};
pub use task::spawn;
pub use time::{Either, Elapsed, race, sleep, timeout, yield_now};

/// A boxed future that stays on its shard.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
