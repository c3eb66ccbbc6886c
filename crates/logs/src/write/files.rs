//! The files of a log, of either form.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::numbered::{self, Numbered};
use super::shifted::Shifted;

/// Name and rotation of files.
#[derive(Debug)]
pub(crate) enum Files {
    /// Docker's: `name`, `name.1`, `name.2`.
    Shifted(Shifted),
    /// `name.00000001`, each with an index.
    Numbered(Numbered),
}

/// The files of a log as its writer, which may be on another thread, its compression and its readers share them. Who holds
/// the lock sees or changes names.
#[derive(Clone, Debug)]
pub(crate) struct SharedFiles(Arc<Mutex<Files>>, Arc<AtomicBool>);

impl SharedFiles {
    pub(crate) fn new(files: Files) -> SharedFiles {
        SharedFiles(Arc::new(Mutex::new(files)), Arc::default())
    }

    /// A rotation that is not committed: recovery may need every file as it is.
    pub(crate) fn set_uncommitted(&self, uncommitted: bool) {
        self.1.store(uncommitted, Ordering::Release);
    }

    pub(crate) fn is_uncommitted(&self) -> bool {
        self.1.load(Ordering::Acquire)
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Files>> {
        match self.0.try_lock() {
            Ok(files) => Some(files),
            Err(TryLockError::Poisoned(files)) => Some(files.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file that is written to.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) data: File,
    pub(crate) index: Option<File>,
    /// Names it among the files of the log: what a commit records.
    pub(crate) id: u64,
}

/// Opens or makes a log file; with its inode number.
pub(crate) fn open_file(path: &Path) -> io::Result<(File, u64)> {
    let file = File::options()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)?;
    let id = file.metadata()?.ino();
    Ok((file, id))
}

pub(crate) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Files {
    pub(crate) fn open(&self) -> io::Result<Opened> {
        match self {
            Files::Shifted(files) => {
                let (data, id) = files.open()?;
                let index = None;
                Ok(Opened { data, index, id })
            }
            Files::Numbered(files) => {
                let (data, index) = files.open()?;
                let (index, id) = (Some(index), files.current());
                Ok(Opened { data, index, id })
            }
        }
    }

    /// Begins a new current file; the one with `committed_id` is not removed.
    pub(crate) fn rotate(&mut self, committed_id: u64) -> io::Result<Opened> {
        match self {
            Files::Shifted(files) => {
                files.rotate(committed_id)?;
                self.open()
            }
            Files::Numbered(files) => {
                let (data, index) = files.rotate()?;
                let (index, id) = (Some(index), files.current());
                Ok(Opened { data, index, id })
            }
        }
    }

    /// The batch is committed.
    pub(crate) fn committed(&mut self) {
        match self {
            Files::Shifted(files) => files.committed(),
            Files::Numbered(files) => files.committed(),
        }
    }

    /// Undoes rotations after the commit that names `id`: that file is the current one again. False if it is nowhere.
    pub(crate) fn go_back_to(&mut self, id: u64) -> io::Result<bool> {
        match self {
            Files::Shifted(files) => files.go_back_to(id),
            Files::Numbered(files) => files.go_back_to(id),
        }
    }

    /// A complete file that is not compressed yet: its id and path.
    pub(crate) fn to_compress(&self) -> io::Result<Option<(u64, PathBuf)>> {
        match self {
            Files::Shifted(files) => files.to_compress(),
            Files::Numbered(files) => {
                let path = |n| (n, numbered::data_path(files.base(), n));
                Ok(files.to_compress().map(path))
            }
        }
    }

    /// Puts the compressed file of `id` in its place, or away if that file has gone meanwhile.
    pub(crate) fn compressed(&mut self, id: u64, temporary: &Path) -> io::Result<()> {
        match self {
            Files::Shifted(files) => files.compressed(id, temporary),
            Files::Numbered(files) => files.compressed(id, temporary),
        }
    }
}
