//! Blobs that are being downloaded, and what was kept of those that did not get to their end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::blobs::Blobs;
use crate::error::IoContext;
use crate::space::SpaceGuard;
use crate::{ImageError, ImageStore, digest};

/// Bytes that unfinished downloads may take; the oldest go first.
pub const MAX_PARTIAL_BYTES: u64 = 8 << 30;
/// How long an unfinished download is kept.
pub const MAX_PARTIAL_AGE: Duration = Duration::from_secs(24 * 3600);
/// Bytes hashed at once of what is there already.
const READ_BYTES: usize = 256 * 1024;

/// `<root>/content/partial`: one file per digest, locked while it is worked on. A whole one stays until its image is
/// there, so that an image of which one layer failed fetches only that one again. It is then a second name of the blob:
/// a file that is whole is never written to, only removed.
pub(crate) struct Partials {
    dir: PathBuf,
}

/// A blob on its way.
pub struct Partial {
    path: PathBuf,
    file: File,
    digest: String,
    size_bytes: u64,
    hasher: Sha256,
    len_bytes: u64,
    /// What it began with; not synced, so that after a power cut it may be anything.
    resumed_bytes: u64,
    space: SpaceGuard,
}

impl Partials {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let dir = root.join("content/partial");
        crate::durable::create_dir_all(&dir)?;
        let this = Self { dir };
        this.trim(MAX_PARTIAL_BYTES, MAX_PARTIAL_AGE)?;
        Ok(this)
    }

    fn path(&self, digest: &str) -> Result<PathBuf, ImageError> {
        Ok(self.dir.join(digest::hex_of(digest)?))
    }

    /// Removes what is too old, and the oldest of what is too much. What is worked on stays.
    fn trim(&self, max_bytes: u64, max_age: Duration) -> Result<(), ImageError> {
        let what = || format!("list {}", self.dir.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).context(what)? {
            let entry = entry.context(what)?;
            // One that was removed meanwhile.
            let Ok(meta) = entry.metadata() else { continue };
            let changed = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((changed, meta.len(), entry.path()));
        }
        found.sort();
        let mut total: u64 = found.iter().map(|(_, len, _)| len).sum();
        let now = SystemTime::now();
        for (changed, len, path) in found {
            let old = now.duration_since(changed).is_ok_and(|age| age > max_age);
            if (old || total > max_bytes) && remove_idle(&path)? {
                total -= len;
            }
        }
        Ok(())
    }

    /// Removes those that are blobs by now: their daemon ended before it did.
    pub(crate) fn remove_kept(&self, blobs: &Blobs) -> Result<(), ImageError> {
        for digest in blobs.list()?.iter().filter(|d| digest::is_digest(d)) {
            remove_idle(&self.path(digest)?)?;
        }
        Ok(())
    }

    pub(crate) fn remove(&self, digests: &[String]) -> Result<(), ImageError> {
        for digest in digests {
            remove_idle(&self.path(digest)?)?;
        }
        Ok(())
    }
}

/// Removes a file that nobody works on; whether it is gone.
fn remove_idle(path: &Path) -> Result<bool, ImageError> {
    let what = || format!("remove {}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(e).context(what),
    };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    remove(path)?;
    Ok(true)
}

fn remove(path: &Path) -> Result<(), ImageError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Opens (makes) a file and locks it. `None` if another has it.
fn open_locked(path: &Path) -> Result<Option<File>, ImageError> {
    let what = || format!("open {}", path.display());
    loop {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .context(what)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(e).context(what),
        }
        // Removed between the two: not the file others will find.
        let opened = rustix::fs::fstat(&file).context(what)?;
        match rustix::fs::stat(path) {
            Ok(named) if (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino) => {
                return Ok(Some(file));
            }
            Ok(_) | Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e).context(what),
        }
    }
}

impl ImageStore {
    /// The download of a blob of `size_bytes`, with what is there of it already. `None` while another has it.
    pub fn partial(&self, digest: &str, size_bytes: u64) -> Result<Option<Partial>, ImageError> {
        self.partials.trim(MAX_PARTIAL_BYTES, MAX_PARTIAL_AGE)?;
        let path = self.partials.path(digest)?;
        let Some(file) = open_locked(&path)? else {
            return Ok(None);
        };
        let mut partial = Partial {
            path,
            file,
            digest: digest.to_owned(),
            size_bytes,
            hasher: Sha256::new(),
            len_bytes: 0,
            resumed_bytes: 0,
            space: SpaceGuard::new(),
        };
        partial.read_again()?;
        partial.resumed_bytes = partial.len_bytes;
        Ok(Some(partial))
    }

    /// Removes downloads whose image is there.
    pub fn forget_partials(&self, digests: &[String]) -> Result<(), ImageError> {
        self.partials.remove(digests)
    }
}

impl Partial {
    /// Bytes that are there.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Bytes of those that are there that an earlier download left.
    pub fn resumed_bytes(&self) -> u64 {
        self.resumed_bytes
    }

    /// Nothing is missing.
    pub fn is_whole(&self) -> bool {
        self.len_bytes == self.size_bytes
    }

    /// Its file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The digest it will have.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Hashes what is there. What cannot be its beginning goes.
    fn read_again(&mut self) -> Result<(), ImageError> {
        let what = || format!("read {}", self.path.display());
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    self.hasher.update(&buffer[..n]);
                    self.len_bytes += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context(what),
            }
            if self.len_bytes > self.size_bytes {
                return self.restart();
            }
        }
        if self.is_whole() && !self.has_digest() {
            return self.restart();
        }
        Ok(())
    }

    /// Adds bytes; more than there can be are refused.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let len_bytes = self.len_bytes + bytes.len() as u64;
        if len_bytes > self.size_bytes {
            return Err(ImageError::Unverified(self.digest.clone()));
        }
        let what = || format!("write {}", self.path.display());
        self.space
            .take(&self.file, bytes.len() as u64)
            .context(what)?;
        self.file.write_all(bytes).context(what)?;
        self.hasher.update(bytes);
        self.len_bytes = len_bytes;
        Ok(())
    }

    /// Begins again with nothing, in a new file: the old one may be a blob's too.
    pub fn restart(&mut self) -> Result<(), ImageError> {
        remove(&self.path)?;
        let busy = || io::Error::from(io::ErrorKind::ResourceBusy);
        self.file = open_locked(&self.path)?
            .ok_or_else(busy)
            .context(|| format!("open {}", self.path.display()))?;
        // One that another began in between.
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .context(|| format!("empty {}", self.path.display()))?;
        self.hasher = Sha256::new();
        self.len_bytes = 0;
        self.resumed_bytes = 0;
        Ok(())
    }

    fn has_digest(&self) -> bool {
        digest::format(&self.hasher.clone().finalize()) == self.digest
    }

    /// Refuses what has not its size and digest; then nothing of it is left.
    pub fn verify(&mut self) -> Result<(), ImageError> {
        if self.is_whole() && self.has_digest() {
            return Ok(());
        }
        self.restart()?;
        Err(ImageError::Unverified(self.digest.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(root: &Path) -> std::sync::Arc<ImageStore> {
        let store = gantry_store::Store::open(root.join("meta.redb")).unwrap();
        ImageStore::open(root, store).unwrap()
    }

    #[test]
    fn what_is_there_is_continued() {
        let root = tempfile::tempdir().unwrap();
        let images = store(root.path());
        let digest = digest::of_bytes(b"hello world");
        let mut first = images.partial(&digest, 11).unwrap().unwrap();
        first.append(b"hello").unwrap();
        assert!(images.partial(&digest, 11).unwrap().is_none(), "it is busy");
        drop(first);
        let mut second = images.partial(&digest, 11).unwrap().unwrap();
        assert_eq!(second.len_bytes(), 5);
        second.append(b" world").unwrap();
        second.verify().unwrap();
        drop(second);
        assert!(images.partial(&digest, 11).unwrap().unwrap().is_whole());
        images
            .forget_partials(std::slice::from_ref(&digest))
            .unwrap();
        assert_eq!(images.partial(&digest, 11).unwrap().unwrap().len_bytes(), 0);
    }

    #[test]
    fn a_wrong_beginning_is_told_from_wrong_content() {
        let root = tempfile::tempdir().unwrap();
        let images = store(root.path());
        let digest = digest::of_bytes(b"hello world");
        let mut first = images.partial(&digest, 11).unwrap().unwrap();
        // As a power cut leaves what was not synced.
        first.append(&[0; 5]).unwrap();
        drop(first);
        let mut second = images.partial(&digest, 11).unwrap().unwrap();
        assert_eq!(second.resumed_bytes(), 5);
        second.append(b" world").unwrap();
        assert!(matches!(second.verify(), Err(ImageError::Unverified(_))));
        assert_eq!((second.len_bytes(), second.resumed_bytes()), (0, 0));
        second.append(b"hello world").unwrap();
        second.verify().unwrap();
    }

    #[test]
    fn what_is_a_blob_by_now_is_removed_at_the_start() {
        let root = tempfile::tempdir().unwrap();
        let images = store(root.path());
        let (kept, begun) = (digest::of_bytes(b"kept"), digest::of_bytes(b"begun"));
        for (digest, bytes) in [(&kept, &b"kept"[..]), (&begun, b"begun")] {
            let mut partial = images.partial(digest, bytes.len() as u64).unwrap();
            partial.as_mut().unwrap().append(bytes).unwrap();
        }
        images.blobs.put(b"kept").unwrap();
        images.partials.remove_kept(&images.blobs).unwrap();
        let len = |digest| images.partial(digest, 5).unwrap().unwrap().len_bytes();
        assert_eq!((len(&kept), len(&begun)), (0, 5));
    }

    #[test]
    fn a_whole_file_is_never_written_to() {
        let root = tempfile::tempdir().unwrap();
        let images = store(root.path());
        let digest = digest::of_bytes(b"right");
        let mut partial = images.partial(&digest, 5).unwrap().unwrap();
        partial.append(b"right").unwrap();
        let other_name = root.path().join("blob");
        std::fs::hard_link(partial.path(), &other_name).unwrap();
        partial.restart().unwrap();
        partial.append(b"wrong").unwrap();
        assert!(matches!(partial.verify(), Err(ImageError::Unverified(_))));
        assert_eq!(partial.len_bytes(), 0);
        assert_eq!(std::fs::read(other_name).unwrap(), b"right");
        assert!(partial.append(b"longer").is_err());
    }

    #[test]
    fn the_oldest_go_and_what_is_worked_on_stays() {
        let root = tempfile::tempdir().unwrap();
        let images = store(root.path());
        let digest = |n: u8| digest::of_bytes(&[n]);
        for n in 0..3 {
            let mut partial = images.partial(&digest(n), 100).unwrap().unwrap();
            partial.append(&[n; 50]).unwrap();
            let at = SystemTime::now() - Duration::from_secs(100 - u64::from(n));
            partial.file.set_modified(at).unwrap();
        }
        let busy = images.partial(&digest(0), 100).unwrap().unwrap();
        images.partials.trim(100, MAX_PARTIAL_AGE).unwrap();
        let len = |n| {
            images
                .partial(&digest(n), 100)
                .unwrap()
                .unwrap()
                .len_bytes()
        };
        assert_eq!((busy.len_bytes(), len(1), len(2)), (50, 0, 50));
        drop(busy);
        images.partials.trim(100, Duration::from_secs(10)).unwrap();
        assert_eq!((len(0), len(2)), (0, 0));
    }
}
