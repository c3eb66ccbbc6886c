//! Log drivers and their readers.
//!
//! **Architecture invariants**
//! - One write(2) per batch; a reader sees committed bytes only.
//! - Files are Docker's, byte for byte, so log shippers go on working.
//! - A torn record is skipped and counted, never an error for the rest.

mod driver;
mod file;
mod follow;
mod info;
pub mod json;
mod options;
mod read;
mod record;
mod rotate;
mod scan;
mod segment;
mod template;
pub mod time;

pub use driver::{LogDriver, Remote};
pub use file::JsonFile;
pub use follow::{Batch, Follower};
pub use info::{DEFAULT_TAG, LogInfo};
pub use options::{BadOption, JsonFileOptions, check_delivery, parse_size};
pub use read::{LogQuery, LogStream, read, read_path};
pub use record::{Cursor, Partial, Record};
pub use segment::LogState;
pub use template::BadTemplate;

#[cfg(test)]
mod tests;
