//! Blobs by digest: configs, manifests, layers as they came.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ImageError;
use crate::digest;
use crate::durable;
use crate::error::IoContext;
use crate::layer::DirLayers;

/// `<root>/content/blobs/sha256`, and the scratch directory beside it.
pub(crate) struct Blobs {
    dir: PathBuf,
    tmp: PathBuf,
    serial: AtomicU64,
}

/// A scratch file that goes when it is dropped.
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.path)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), error = %e, "cannot remove a scratch file");
        }
    }
}

impl Blobs {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let dir = root.join("content/blobs/sha256");
        durable::create_dir_all(&dir)?;
        Ok(Self {
            dir,
            tmp: root.join("tmp"),
            serial: AtomicU64::new(0),
        })
    }

    pub(crate) fn path(&self, digest: &str) -> Result<PathBuf, ImageError> {
        Ok(self.dir.join(digest::hex_of(digest)?))
    }

    pub(crate) fn scratch(&self) -> Result<(Scratch, File), ImageError> {
        let path = self.tmp.join(format!(
            "blob-{}",
            self.serial.fetch_add(1, Ordering::Relaxed)
        ));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        Ok((
            Scratch { path: path.clone() },
            file.context(|| format!("make {}", path.display()))?,
        ))
    }

    /// Writes and syncs a small blob.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<String, ImageError> {
        let digest = digest::of_bytes(bytes);
        let (scratch, mut file) = self.scratch()?;
        file.write_all(bytes)
            .context(|| format!("write {}", scratch.path.display()))?;
        file.sync_all()
            .context(|| format!("sync {}", scratch.path.display()))?;
        drop(file);
        let to = self.path(&digest)?;
        if std::fs::read(&to).is_ok_and(|there| there != bytes) {
            tracing::warn!(blob = digest, "a damaged blob is replaced");
            self.replace(&scratch.path, &to)?;
        }
        self.keep(&scratch, &digest)?;
        Ok(digest)
    }

    /// Makes a scratch file, whose digest was verified, also the blob; synced. The scratch file stays readable.
    pub(crate) fn keep(&self, scratch: &Scratch, digest: &str) -> Result<(), ImageError> {
        self.keep_file(&scratch.path, digest)
    }

    /// As [`Blobs::keep`], of a file of ours on the same file system.
    pub(crate) fn keep_file(&self, from: &Path, digest: &str) -> Result<(), ImageError> {
        let to = self.path(digest)?;
        let what = || format!("keep {}", to.display());
        File::open(from).and_then(|f| f.sync_all()).context(what)?;
        match std::fs::hard_link(from, &to) {
            // There already: the same bytes, unless the disk lost some of them.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let len_bytes = |path: &Path| path.metadata().map(|meta| meta.len()).context(what);
                if len_bytes(from)? != len_bytes(&to)? {
                    tracing::warn!(blob = digest, "a damaged blob is replaced");
                    self.replace(from, &to)?;
                }
            }
            linked => linked.context(what)?,
        }
        durable::sync_dir(&self.dir)
    }

    /// In one step: whoever reads the old one has it still.
    fn replace(&self, from: &Path, to: &Path) -> Result<(), ImageError> {
        let what = || format!("replace {}", to.display());
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let new = Scratch {
            path: self.tmp.join(format!("blob-{serial}")),
        };
        std::fs::hard_link(from, &new.path).context(what)?;
        std::fs::rename(&new.path, to).context(what)
    }

    pub(crate) fn open_blob(&self, digest: &str) -> Result<File, ImageError> {
        let path = self.path(digest)?;
        File::open(&path).context(|| format!("open {}", path.display()))
    }

    pub(crate) fn read(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.path(digest)?;
        let bytes = std::fs::read(&path).context(|| format!("read {}", path.display()))?;
        if digest::of_bytes(&bytes) != digest {
            return Err(ImageError::archive(format_args!(
                "{} does not have its digest",
                path.display()
            )));
        }
        Ok(bytes)
    }

    pub(crate) fn remove(&self, digest: &str) -> Result<(), ImageError> {
        let path = self.path(digest)?;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn list(&self) -> Result<Vec<String>, ImageError> {
        let what = || format!("list {}", self.dir.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).context(what)? {
            found.push(format!(
                "sha256:{}",
                entry.context(what)?.file_name().to_string_lossy()
            ));
        }
        Ok(found)
    }
}

/// Removes what was in flight when the daemon ended.
pub(crate) fn clean_tmp(root: &Path) -> Result<(), ImageError> {
    let tmp = root.join("tmp");
    if tmp.is_dir() {
        crate::layer::remove_path(&tmp)?;
    }
    DirLayers::open(root).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_that_lost_bytes_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        clean_tmp(root.path()).unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        let digest = blobs.put(b"all of it").unwrap();
        for damaged in [&b""[..], b"all", b"all of IT"] {
            std::fs::write(blobs.path(&digest).unwrap(), damaged).unwrap();
            assert!(blobs.read(&digest).is_err());
            blobs.put(b"all of it").unwrap();
            assert_eq!(blobs.read(&digest).unwrap(), b"all of it");
        }
        std::fs::write(blobs.path(&digest).unwrap(), b"all").unwrap();
        let (scratch, mut file) = blobs.scratch().unwrap();
        file.write_all(b"all of it").unwrap();
        blobs.keep(&scratch, &digest).unwrap();
        assert_eq!(blobs.read(&digest).unwrap(), b"all of it");
        drop(scratch);
        assert_eq!(
            std::fs::read_dir(root.path().join("tmp")).unwrap().count(),
            0
        );
    }
}
