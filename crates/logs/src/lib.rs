//! Log drivers and their readers.
//!
//! **Architecture invariants**
//! - One write(2) per batch; a reader sees committed bytes only.
//! - Files are Docker's, byte for byte, so log shippers go on working.
//! - A torn record is skipped and counted, never an error for the rest.

mod driver;
mod follow;
mod frames;
mod index;
mod info;
pub mod json;
mod loss;
mod options;
mod read;
mod record;
mod scan;
mod segment;
mod template;
pub mod time;
mod write;

pub use driver::{LogDriver, Remote};
pub use follow::{Batch, Follower};
pub use info::{DEFAULT_TAG, LogInfo};
pub use loss::{GAP_ATTRIBUTE, LossCounters, LossReason, loss_counters};
pub use options::{
    BadOption, DEFAULT_BUFFER_BYTES, FileOptions, buffer_bytes, check_delivery, parse_size,
};
pub use read::{LogFiles, LogQuery, LogStream, read, read_at_once};
pub use record::{Cursor, Partial, Record};
pub use segment::{Format, LogState};
pub use template::BadTemplate;
pub use write::{BATCH_BYTES, FileLog, LostLog, MAX_REMOVED_BYTES, MAX_REMOVED_SEGMENTS};

#[cfg(test)]
mod tests;
