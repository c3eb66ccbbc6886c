//! Layers as plain directories.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

use super::extract::Extractor;
use super::remove::remove_tree;
use super::{Ingested, LayerStore, Lower, ScratchTree, StagedLayer};
use crate::ImageError;
use crate::digest::{self, HashingReader};
use crate::error::IoContext;
use crate::tar;

/// Layers as plain directories `<root>/layers/sha256/<hex>`; what is in flight lies in `<root>/tmp`.
pub struct DirLayers {
    layers: PathBuf,
    tmp: PathBuf,
    serial: AtomicU64,
}

pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, ImageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context(|| format!("open {}", path.display()))
}

/// Removes a tree of ours at `path`, whatever its depth.
pub(crate) fn remove_path(path: &Path) -> Result<(), ImageError> {
    let what = || format!("remove {}", path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput)).context(what);
    };
    let name = std::ffi::CString::new(name.as_bytes()).context(what)?;
    remove_tree(open_dir(parent)?.as_fd(), &name).context(what)
}

impl DirLayers {
    /// Opens (makes) the directories below `root`, which is the data root.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let layers = root.join("layers/sha256");
        let tmp = root.join("tmp");
        for dir in [&layers, &tmp] {
            std::fs::create_dir_all(dir).context(|| format!("make {}", dir.display()))?;
        }
        Ok(Self {
            layers,
            tmp,
            serial: AtomicU64::new(0),
        })
    }

    fn dir(&self, diff_id: &str) -> Result<PathBuf, ImageError> {
        Ok(self.layers.join(digest::hex_of(diff_id)?))
    }

    fn scratch_tree(&self, kind: &str) -> ScratchTree {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        ScratchTree {
            path: self.tmp.join(format!("{kind}-{serial}")),
            kept: false,
        }
    }
}

/// Unpacks into `tmp`; synced when it returns.
fn fill(tmp: &Path, tar: &mut dyn Read, expected: Option<&str>) -> Result<Ingested, ImageError> {
    let root = open_dir(tmp)?;
    let mut reader = tar::Reader::new(HashingReader::new(tar));
    let mut extractor = Extractor::new(root.as_fd())?;
    while let Some(entry) = reader.next_entry()? {
        extractor.add(&entry, &mut reader)?;
    }
    let size_bytes = extractor.finish()?;
    // What follows the end mark belongs to the digest.
    let mut rest = reader.into_inner();
    io::copy(&mut rest, &mut io::sink()).context(|| "read layer".into())?;
    let (diff_id, tar_bytes) = rest.finish();
    if let Some(expected) = expected
        && expected != diff_id
    {
        return Err(ImageError::archive(format_args!(
            "layer has diff id {diff_id}, its image says {expected}"
        )));
    }
    rustix::fs::syncfs(&root).context(|| "sync layer".into())?;
    Ok(Ingested {
        diff_id,
        size_bytes,
        tar_bytes,
    })
}

impl LayerStore for DirLayers {
    fn stage(&self, tar: &mut dyn Read, expected: Option<&str>) -> Result<StagedLayer, ImageError> {
        let tree = self.scratch_tree("layer");
        let path = &tree.path;
        std::fs::create_dir(path).context(|| format!("make {}", path.display()))?;
        let ingested = fill(path, tar, expected)?;
        Ok(StagedLayer { ingested, tree })
    }

    fn publish(&self, staged: StagedLayer) -> Result<Ingested, ImageError> {
        let StagedLayer { ingested, mut tree } = staged;
        let dir = self.dir(&ingested.diff_id)?;
        match std::fs::rename(&tree.path, &dir) {
            Ok(()) => tree.kept = true,
            // Another load brought the same content first.
            Err(_) if dir.is_dir() => {}
            Err(e) => return Err(e).context(|| format!("rename to {}", dir.display())),
        }
        let layers = open_dir(&self.layers)?;
        rustix::fs::fsync(&layers).context(|| format!("sync {}", self.layers.display()))?;
        Ok(ingested)
    }

    fn lower(&self, diff_id: &str) -> Result<Lower, ImageError> {
        self.dir(diff_id).map(Lower::Dir)
    }

    fn contains(&self, diff_id: &str) -> bool {
        self.dir(diff_id).is_ok_and(|dir| dir.is_dir())
    }

    fn set_aside(&self, diff_id: &str) -> Result<Option<ScratchTree>, ImageError> {
        let dir = self.dir(diff_id)?;
        let tree = self.scratch_tree("gone");
        match std::fs::rename(&dir, &tree.path) {
            Ok(()) => Ok(Some(tree)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).context(|| format!("remove {}", dir.display())),
        }
    }

    fn list(&self) -> Result<Vec<String>, ImageError> {
        let what = || format!("list {}", self.layers.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.layers).context(what)? {
            let name = entry.context(what)?.file_name();
            found.push(format!("sha256:{}", name.to_string_lossy()));
        }
        Ok(found)
    }
}
