//! Layers on disk, behind one trait.

mod dirs;
mod erofs;
mod extract;
mod forms;
mod index;
mod mounts;
mod path;
mod probe;
mod remove;
mod stream;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use dirs::DirLayers;
pub(crate) use dirs::remove_path;
pub use erofs::{ErofsLayers, read_tree};
pub use forms::Layers;
pub use mounts::MAX_KEPT_MOUNTS;
pub use path::MAX_COMPONENTS;
pub use probe::{NoErofs, probe_erofs};

use crate::ImageError;

/// What a layer is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Its tar, and an EROFS index of it that is mounted.
    Erofs,
    /// A tree of files.
    Directories,
}

impl Form {
    /// The name in diagnostics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Directories => "directories",
        }
    }
}

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
    form: Form,
}

/// A tree of ours that goes when it is dropped: a layer in flight, or one that was removed.
#[derive(Debug)]
pub struct ScratchTree {
    path: PathBuf,
    kept: bool,
}

impl ScratchTree {
    fn path(&self) -> &Path {
        &self.path
    }
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
#[derive(Clone, Debug)]
pub enum Lower {
    /// A directory.
    Dir(PathBuf),
    /// A mount that is attached nowhere; it lasts as long as its last user.
    Mount(Arc<OwnedFd>),
}

/// Keeps layers by diff id. All methods block, except [`LayerStore::path`].
pub trait LayerStore: Send + Sync {
    /// Takes in and syncs an uncompressed layer tar. Refused if its digest is not `expected`.
    fn stage(&self, tar: &mut dyn Read, expected: Option<&str>) -> Result<StagedLayer, ImageError>;
    /// The same where a file of the data root, which never changes, holds what is read of `tar`.
    fn stage_kept(
        &self,
        tar: &mut dyn Read,
        file: &Path,
        expected: Option<&str>,
    ) -> Result<StagedLayer, ImageError> {
        let _ = file;
        self.stage(tar, expected)
    }
    /// Puts it in its place, durably; a layer that is there already stays.
    fn publish(&self, staged: StagedLayer) -> Result<Ingested, ImageError>;
    /// How to reach what is in the layer.
    fn lower(&self, diff_id: &str) -> Result<Lower, ImageError>;
    /// Where it is on disk, for people.
    fn path(&self, diff_id: &str) -> Result<PathBuf, ImageError>;
    /// It is there.
    fn contains(&self, diff_id: &str) -> bool;
    /// Takes it out of its place in one step; what is given back does the work when it is dropped. `None` if it is
    /// not there.
    fn set_aside(&self, diff_id: &str) -> Result<Option<ScratchTree>, ImageError>;
    /// Every layer that is there.
    fn list(&self) -> Result<Vec<String>, ImageError>;
}
