//! Files of one log: rotation, and going back to what was committed.
//!
//! A batch may be cut over any number of files, but it is committed as a whole. Until then the file that the last commit
//! names is kept: among the rotated ones, or, when it would be removed, under a name of its own. So recovery can undo
//! the rotations of a batch that was not committed.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::segment::{rotated, with_suffix};

/// The files of one log.
#[derive(Debug)]
pub(crate) struct Files {
    path: PathBuf,
    keep: u32,
    /// Rotated files there are, at most `keep` - 1.
    rotated: u32,
    /// A committed file waits under its own name for the next commit.
    has_base: bool,
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn inode(path: &Path) -> io::Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(stat) => Ok(Some(stat.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens or makes a log file.
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

impl Files {
    pub(crate) fn new(path: &Path, keep: u32) -> io::Result<Files> {
        let mut files = Files {
            path: path.to_owned(),
            keep: keep.max(1),
            rotated: 0,
            has_base: false,
        };
        files.count()?;
        Ok(files)
    }

    fn base(&self) -> PathBuf {
        with_suffix(&self.path, "base")
    }

    /// A kill in the middle of a rotation may have left one number free.
    fn count(&mut self) -> io::Result<()> {
        self.rotated = 0;
        for n in 1..self.keep {
            if inode(&rotated(&self.path, n))?.is_some() {
                self.rotated = n;
            } else if n > self.rotated + 1 {
                break;
            }
        }
        Ok(())
    }

    /// Makes room for a new current file; `committed_id` is not removed. True if a rotated file went away.
    pub(crate) fn rotate(&mut self, committed_id: u64) -> io::Result<bool> {
        let last = rotated(&self.path, self.keep - 1);
        let full = self.rotated + 1 >= self.keep;
        if full && inode(&last)? == Some(committed_id) {
            std::fs::rename(&last, self.base())?;
            self.has_base = true;
        } else if full && self.keep == 1 {
            ignore_missing(std::fs::remove_file(&last))?;
        }
        let highest = (self.rotated + 1).min(self.keep - 1);
        for n in (1..=highest).rev() {
            let (from, to) = (rotated(&self.path, n - 1), rotated(&self.path, n));
            ignore_missing(std::fs::rename(from, to))?;
        }
        self.rotated = highest;
        Ok(full)
    }

    /// The batch is committed: the file of the commit before is a rotated-out one like any other.
    pub(crate) fn committed(&mut self) {
        if std::mem::take(&mut self.has_base)
            && let Err(error) = std::fs::remove_file(self.base())
        {
            tracing::warn!(path = %self.path.display(), %error, "a rotated log file is left");
        }
    }

    /// Undoes rotations after the commit that names `id`: that file is the current one again. False if it is nowhere.
    pub(crate) fn go_back_to(&mut self, id: u64) -> io::Result<bool> {
        let base = self.base();
        let mut found = None;
        for n in 0..self.keep {
            if inode(&rotated(&self.path, n))? == Some(id) {
                found = Some(n);
                break;
            }
        }
        let from = match found {
            Some(0) => {
                ignore_missing(std::fs::remove_file(base))?;
                return Ok(true);
            }
            Some(n) => rotated(&self.path, n),
            None if inode(&base)? == Some(id) => base,
            None => return Ok(false),
        };
        // What is newer was written after the commit.
        for n in 0..found.unwrap_or(self.keep) {
            ignore_missing(std::fs::remove_file(rotated(&self.path, n)))?;
        }
        std::fs::rename(from, &self.path)?;
        if let Some(shift) = found {
            for n in shift + 1..self.keep {
                let (from, to) = (rotated(&self.path, n), rotated(&self.path, n - shift));
                ignore_missing(std::fs::rename(from, to))?;
            }
        }
        self.count()?;
        Ok(true)
    }
}
