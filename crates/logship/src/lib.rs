//! Log drivers that send output to a service: journald, syslog, fluentd, gelf, splunk, awslogs, gcplogs.
//!
//! A container's output goes into a log of driver `local` first; from there it is sent, by a task on the container's
//! shard that reads and a task in the guest lane that talks to the service.
//!
//! **Architecture invariants**
//! - No container waits for a service: one that is slow or gone costs place in the log, and what rotation then removes
//!   is counted and told.
//! - A place in the log is saved after what is before it was delivered, never before: at least once, in order.
//! - Sockets, names and TLS are the guest lane's alone; a shard only reads the log.

mod awslogs;
mod counters;
mod error;
mod feed;
mod fluentd;
mod gcplogs;
mod gelf;
mod go;
mod http;
mod journald;
mod link;
pub mod msgpack;
mod net;
mod options;
mod portion;
mod sink;
mod splunk;
mod syslog;
#[cfg(test)]
mod testing;
mod tls;

pub use counters::{Counters, counters};
pub use error::Refused;
pub use feed::Shipper;
pub use options::{cache_options, check, reading_disabled};
pub use sink::{Sender, When, open};
