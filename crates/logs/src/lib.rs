//! Log drivers and their readers.
//!
//! **Architecture invariants**
//! - One write(2) per batch; a reader sees committed bytes only.
//! - Files are Docker's, byte for byte, so log shippers go on working.
//! - A torn record is skipped and counted, never an error for the rest.

mod file;
pub mod json;
mod options;
mod read;
mod rotate;
mod scan;
mod segment;
pub mod time;

pub use file::JsonFile;
pub use options::{BadOption, JsonFileOptions, check_delivery, parse_size};
pub use read::{LogQuery, LogStream, read, read_path};
pub use segment::LogState;

#[cfg(test)]
mod tests;
