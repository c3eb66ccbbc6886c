//! Layers as plain directories.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

use super::extract::Extractor;
use super::remove::remove_tree;
use super::{Ingested, LayerStore, Lower};
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

    fn fill(
        &self,
        tmp: &Path,
        tar: &mut dyn Read,
        expected: Option<&str>,
    ) -> Result<Ingested, ImageError> {
        let root = open_dir(tmp)?;
        let mut reader = tar::Reader::new(HashingReader::new(tar));
        let mut extractor = Extractor::new(root.as_fd())?;
        while let Some(entry) = reader.next_entry().map_err(ImageError::archive)? {
            extractor.add(&entry, &mut reader)?;
        }
        let size_bytes = extractor.finish()?;
        // What follows the end mark belongs to the digest.
        let mut rest = reader.into_inner();
        io::copy(&mut rest, &mut io::sink()).context(|| "read layer".into())?;
        let (diff_id, _) = rest.finish();
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
        })
    }
}

impl LayerStore for DirLayers {
    fn ingest(&self, tar: &mut dyn Read, expected: Option<&str>) -> Result<Ingested, ImageError> {
        let tmp = self.tmp.join(format!(
            "layer-{}",
            self.serial.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir(&tmp).context(|| format!("make {}", tmp.display()))?;
        let filled = self.fill(&tmp, tar, expected).and_then(|ingested| {
            let dir = self.dir(&ingested.diff_id)?;
            match std::fs::rename(&tmp, &dir) {
                Ok(()) => {}
                // Another load brought the same content first.
                Err(_) if dir.is_dir() => remove_path(&tmp)?,
                Err(e) => return Err(e).context(|| format!("rename to {}", dir.display())),
            }
            let layers = open_dir(&self.layers)?;
            rustix::fs::fsync(&layers).context(|| format!("sync {}", self.layers.display()))?;
            Ok(ingested)
        });
        if filled.is_err()
            && let Err(e) = remove_path(&tmp)
        {
            tracing::warn!(error = %e, "cannot remove a failed layer; it goes at the next start");
        }
        filled
    }

    fn lower(&self, diff_id: &str) -> Result<Lower, ImageError> {
        self.dir(diff_id).map(Lower::Dir)
    }

    fn contains(&self, diff_id: &str) -> bool {
        self.dir(diff_id).is_ok_and(|dir| dir.is_dir())
    }

    fn remove(&self, diff_id: &str) -> Result<(), ImageError> {
        let dir = self.dir(diff_id)?;
        let tmp = self.tmp.join(format!(
            "gone-{}",
            self.serial.fetch_add(1, Ordering::Relaxed)
        ));
        match std::fs::rename(&dir, &tmp) {
            Ok(()) => remove_path(&tmp),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
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
