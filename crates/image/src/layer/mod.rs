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
    /// Sum of the sizes of its files and links.
    pub size_bytes: u64,
    /// Length of the uncompressed tar.
    pub tar_bytes: u64,
}

/// A layer that is whole and synced, but not yet in its place. Dropped, it is removed.
#[derive(Debug)]
pub struct StagedLayer {
    /// What it is.
    pub ingested: Ingested,
    tree: ScratchTree,
}

/// A tree of ours that goes when it is dropped: a layer in flight, or one that was removed.
#[derive(Debug)]
pub struct ScratchTree {
    path: PathBuf,
    kept: bool,
}

impl Drop for ScratchTree {
    fn drop(&mut self) {
        if !self.kept
            && let Err(e) = remove_path(&self.path)
        {
            tracing::warn!(error = %e, "a layer cannot be removed now; it goes at the next start");
        }
    }
}

/// How an overlay reaches a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lower {
    /// A directory.
    Dir(PathBuf),
}

/// Keeps unpacked layers by diff id. All methods block, except [`LayerStore::lower`].
pub trait LayerStore: Send + Sync {
    /// Unpacks and syncs an uncompressed layer tar. Refused if its digest is not `expected`.
    fn stage(&self, tar: &mut dyn Read, expected: Option<&str>) -> Result<StagedLayer, ImageError>;
    /// Puts it in its place, durably; a layer that is there already stays.
    fn publish(&self, staged: StagedLayer) -> Result<Ingested, ImageError>;
    /// Where the layer is.
    fn lower(&self, diff_id: &str) -> Result<Lower, ImageError>;
    /// It is there.
    fn contains(&self, diff_id: &str) -> bool;
    /// Takes it out of its place in one step; what is given back does the work when it is dropped. `None` if it is
    /// not there.
    fn set_aside(&self, diff_id: &str) -> Result<Option<ScratchTree>, ImageError>;
    /// Every layer that is there.
    fn list(&self) -> Result<Vec<String>, ImageError>;
}
