//! Trees of files to archives and back: what `docker cp`, `export` and `commit` read, and what `docker cp` writes. Unlike
//! the extraction of a layer nothing here is ours alone: a container may change the tree at any moment.

mod pack;
mod remove;
mod unpack;

pub use pack::{MAX_DEPTH, OwnerMap, Packer, Whiteouts};
pub use unpack::{Unpack, unpack};

#[cfg(test)]
mod tests;
