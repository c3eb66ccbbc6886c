//! Channels and signals between tasks of one shard. All `Rc`: they cannot leave it.

pub mod mpsc;
mod notify;
pub mod oneshot;
mod watch;

pub use notify::{Notified, Notify};
pub use watch::Watch;
