//! File system images of layers: EROFS, as the kernel mounts it.
//!
//! A [`Tree`] takes the entries of a layer's tar one after the other and is at each moment what an extraction up to there
//! would have made; [`Tree::write`] makes the image of it. Content is not in the tree: it lies in the tar, which the image
//! refers to as a second device ([`Geometry::Index`]), or in the image itself, where the caller put it
//! ([`Place::Image`]). Nothing here opens a file or calls the kernel.
//!
//! What an image has of EROFS: extended inodes (64 bytes, nanoseconds), chunk-based files, inline and shared extended
//! attributes, directories sorted for binary search, a checksum of the super block. Nothing is compressed.

#![forbid(unsafe_code)]

mod acl;
mod apply;
mod chunks;
mod crc;
mod error;
mod format;
mod layout;
mod read;
mod resolve;
mod tree;
mod write;
mod xattr;

pub use chunks::{MAX_CHUNKS_PER_FILE, fits_chunks};
pub use error::BuildError;
pub use read::{Image, ImageEntry, ReadError};
pub use tree::{
    Content, Entry, Extent, Kind, MAX_NAME_BYTES, MAX_NODES, MAX_XATTR_BYTES, Place, Tree,
};
pub use write::{Geometry, IMAGE_DATA_AT_BYTES, Summary};
