//! A tar reader for hostile input: ustar, PAX, GNU long names, base-256 numbers and sparse files. Never panics, never guesses.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use header::{Kind, TarError};
pub use pax::MAX_XATTR_VALUE_BYTES;
pub use reader::{
    Entry, MAX_ENTRIES, MAX_EXTENSION_BYTES, MAX_EXTENSIONS_PER_ENTRY, MAX_PATH_BYTES, Reader,
};
pub use sparse::{MAX_SPARSE_EXTENTS, Stretch};
pub use writer::Writer;

pub(crate) const BLOCK_BYTES: usize = 512;
