//! Container streams: the pump (own io_uring beside the shard's runtime), fan-out to log and clients, attach.
//!
//! **Architecture invariants**
//! - Only this crate owns a pump ring. Bytes the kernel took out of a pipe stay in shared memory until their log write
//!   is committed (docs/decisions/0003-recoverable-pump.md).
//! - One producer, many consumers: a consumer is bounded; a slow client stops that container's reads, nobody else's.
//! - End of output is announced only after everything before it was written and handed on.

mod admission;
pub mod attach;
mod backend;
mod io;
pub mod keys;
pub mod mux;
mod piece;
mod pump;
mod queue;
mod reads;
mod ring;
mod signal;
mod sink;
mod splice;
mod subscription;
mod sys;
pub mod websocket;

pub use backend::PumpKind;
pub use gantry_keeper_proto::shm::Stream;
pub use io::{
    BULK_BYTES, BULK_CLIENTS, ContainerIo, IoConfig, LogBufferConfig, MAX_LINE_BYTES, StreamFds,
};
pub use pump::{Pump, PumpStats, Step};
pub use queue::Flushed;
pub use signal::Signal;
pub use sink::{LogPosition, LogSink, WriteDone, WriteJob};
pub use subscription::{
    Frame, SUBSCRIPTION_HIGH_BYTES, SUBSCRIPTION_LOW_BYTES, SubscribeOptions, Subscription,
};

/// Unix time in nanoseconds.
pub fn unix_time_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
