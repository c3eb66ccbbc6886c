//! Layers as plain directories.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

use super::extract::Extractor;
use super::remove::remove_tree;
use super::{Form, Ingested, LayerStore, Lower, ScratchTree, StagedLayer};
use crate::ImageError;
use crate::digest::{self, HashingReader};
use crate::durable;
use crate::error::IoContext;
use crate::tar;

/// Layers as plain directories `<root>/layers/sha256/<hex>`; what is in flight lies in `<root>/tmp`.
pub struct DirLayers {
    layers: PathBuf,
    scratch: Scratch,
}

/// Names below `<root>/tmp` that nobody else has.
pub(super) struct Scratch {
    tmp: PathBuf,
    prefix: &'static str,
    serial: AtomicU64,
}

impl Scratch {
    /// Opens (makes) the directory; the names begin with `prefix`.
    pub(super) fn open(root: &Path, prefix: &'static str) -> Result<Self, ImageError> {
        let tmp = root.join("tmp");
        std::fs::create_dir_all(&tmp).context(|| format!("make {}", tmp.display()))?;
        Ok(Self {
            tmp,
            prefix,
            serial: AtomicU64::new(0),
        })
    }

    /// A tree that is not there yet.
    pub(super) fn tree(&self, kind: &str) -> ScratchTree {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        ScratchTree {
            path: self.tmp.join(format!("{}-{kind}-{serial}", self.prefix)),
            kept: false,
        }
    }

    /// Takes a layer's directory out of its place, if it is there.
    pub(super) fn set_aside(&self, dir: &Path) -> Result<Option<ScratchTree>, ImageError> {
        let tree = self.tree("gone");
        match std::fs::rename(dir, &tree.path) {
            Ok(()) => Ok(Some(tree)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).context(|| format!("remove {}", dir.display())),
        }
    }
}

/// Puts a staged layer in its place `dir` in `layers`, durably; one that is there already stays.
pub(super) fn put_in_place(
    staged: StagedLayer,
    layers: &Path,
    dir: &Path,
) -> Result<Ingested, ImageError> {
    let StagedLayer {
        ingested, mut tree, ..
    } = staged;
    match std::fs::rename(&tree.path, dir) {
        Ok(()) => tree.kept = true,
        // Another load brought the same content first.
        Err(_) if dir.is_dir() => {}
        Err(e) => return Err(e).context(|| format!("rename to {}", dir.display())),
    }
    let fd = open_dir(layers)?;
    rustix::fs::fsync(&fd).context(|| format!("sync {}", layers.display()))?;
    Ok(ingested)
}

/// The layers that are in `layers`.
pub(super) fn list(layers: &Path) -> Result<Vec<String>, ImageError> {
    let what = || format!("list {}", layers.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(layers).context(what)? {
        let name = entry.context(what)?.file_name();
        found.push(format!("sha256:{}", name.to_string_lossy()));
    }
    Ok(found)
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
        durable::create_dir_all(&layers)?;
        Ok(Self {
            layers,
            scratch: Scratch::open(root, "dir")?,
        })
    }

    fn dir(&self, diff_id: &str) -> Result<PathBuf, ImageError> {
        Ok(self.layers.join(digest::hex_of(diff_id)?))
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
        let tree = self.scratch.tree("layer");
        let path = &tree.path;
        std::fs::create_dir(path).context(|| format!("make {}", path.display()))?;
        let ingested = fill(path, tar, expected)?;
        Ok(StagedLayer {
            ingested,
            tree,
            form: Form::Directories,
        })
    }

    fn publish(&self, staged: StagedLayer) -> Result<Ingested, ImageError> {
        let dir = self.dir(&staged.ingested.diff_id)?;
        put_in_place(staged, &self.layers, &dir)
    }

    fn lower(&self, diff_id: &str) -> Result<Lower, ImageError> {
        self.dir(diff_id).map(Lower::Dir)
    }

    fn path(&self, diff_id: &str) -> Result<PathBuf, ImageError> {
        self.dir(diff_id)
    }

    fn contains(&self, diff_id: &str) -> bool {
        self.dir(diff_id).is_ok_and(|dir| dir.is_dir())
    }

    fn set_aside(&self, diff_id: &str) -> Result<Option<ScratchTree>, ImageError> {
        self.scratch.set_aside(&self.dir(diff_id)?)
    }

    fn list(&self) -> Result<Vec<String>, ImageError> {
        list(&self.layers)
    }
}
