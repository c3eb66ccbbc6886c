//! The metadata database: one file with a log beside it, one writer thread, group commit; and the append-only journal
//! under exec-root.
//!
//! **Architecture invariants**
//! - Only the writer thread writes the database. What arrives during a commit goes into the next one; nothing waits
//!   when the thread is idle.
//! - A commit that was answered is on disk: in the log, or in the database.
//! - No savepoints, no table renames, one shape of transaction: the parts of redb with a history of faults are unused.
//! - Volatile state never comes here. What must survive only a kill goes to the [`journal`].

mod batch;
mod error;
mod file;
pub mod journal;
mod store;
mod wal;
mod writer;

pub use batch::{Batch, Table};
pub use error::StoreError;
pub use store::{Counters, Store};
pub use wal::{RECORD_ALIGNMENT, WAL_BYTES};
pub use writer::{MAX_GROUP_BATCHES, QUEUE_CAPACITY};
