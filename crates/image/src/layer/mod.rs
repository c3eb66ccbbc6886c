//! Layers on disk, behind one trait.

mod dirs;
mod extract;
mod path;
mod remove;

use std::io::Read;
use std::path::PathBuf;

pub use dirs::DirLayers;
pub(crate) use dirs::remove_path;
pub use path::MAX_COMPONENTS;

use crate::ImageError;

/// A layer that was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingested {
    /// Digest of the uncompressed tar.
    pub diff_id: String,
    /// Sum of the sizes of its files.
    pub size_bytes: u64,
}

/// How an overlay reaches a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lower {
    /// A directory.
    Dir(PathBuf),
}

/// Keeps unpacked layers by diff id. All methods block.
pub trait LayerStore: Send + Sync {
    /// Takes in an uncompressed layer tar, synced when it returns. Refused if its digest is not `expected`.
    fn ingest(&self, tar: &mut dyn Read, expected: Option<&str>) -> Result<Ingested, ImageError>;
    /// Where the layer is.
    fn lower(&self, diff_id: &str) -> Result<Lower, ImageError>;
    /// It is there.
    fn contains(&self, diff_id: &str) -> bool;
    /// Removes it; no error if it is not there.
    fn remove(&self, diff_id: &str) -> Result<(), ImageError>;
    /// Every layer that is there.
    fn list(&self) -> Result<Vec<String>, ImageError>;
}
