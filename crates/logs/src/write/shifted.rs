//! Files of `json-file`: as Docker's, `name` and behind it `name.1`, `name.2`, compressed or not.
//!
//! A batch may be cut over any number of files, but it is committed as a whole. Until then the file that the last commit
//! names is kept: among the rotated ones, or, when it would be removed, under a name of its own. So recovery can undo
//! the rotations of a batch that was not committed. A file is compressed only when its batch is committed.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::segment::{compressed, rotated, with_suffix};

use super::files::{ignore_missing, open_file};

/// The files of one log.
#[derive(Debug)]
pub(crate) struct Shifted {
    path: PathBuf,
    keep: u32,
    /// Rotated files there are, at most `keep` - 1.
    rotated: u32,
    /// A committed file waits under its own name for the next commit.
    has_base: bool,
}

fn inode(path: &Path) -> io::Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(stat) => Ok(Some(stat.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Shifted {
    pub(crate) fn new(path: &Path, keep: u32) -> io::Result<Shifted> {
        let mut files = Shifted {
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

    fn exists(&self, n: u32) -> io::Result<bool> {
        Ok(inode(&rotated(&self.path, n))?.is_some()
            || inode(&compressed(&self.path, n))?.is_some())
    }

    /// A kill in the middle of a rotation may have left one number free.
    fn count(&mut self) -> io::Result<()> {
        self.rotated = 0;
        for n in 1..self.keep {
            if self.exists(n)? {
                self.rotated = n;
            } else if n > self.rotated + 1 {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn open(&self) -> io::Result<(File, u64)> {
        open_file(&self.path)
    }

    /// File `from`, in either form, becomes `to`.
    fn shift(&self, from: u32, to: u32) -> io::Result<()> {
        let (old, new) = (rotated(&self.path, from), rotated(&self.path, to));
        let moved = std::fs::rename(old, new);
        let is_plain = moved.is_ok();
        ignore_missing(moved)?;
        if is_plain {
            // What is compressed under this name is the file that it replaces.
            return ignore_missing(std::fs::remove_file(compressed(&self.path, to)));
        }
        if from == 0 {
            return Ok(());
        }
        let moved = std::fs::rename(compressed(&self.path, from), compressed(&self.path, to));
        let is_compressed = moved.is_ok();
        ignore_missing(moved)?;
        if is_compressed {
            return ignore_missing(std::fs::remove_file(rotated(&self.path, to)));
        }
        Ok(())
    }

    fn remove(&self, n: u32) -> io::Result<()> {
        ignore_missing(std::fs::remove_file(rotated(&self.path, n)))?;
        ignore_missing(std::fs::remove_file(compressed(&self.path, n)))
    }

    /// Makes room for a new current file; `committed_id` is not removed.
    pub(crate) fn rotate(&mut self, committed_id: u64) -> io::Result<()> {
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
            self.shift(n - 1, n)?;
        }
        self.rotated = highest;
        Ok(())
    }

    /// The batch is committed: the file of the commit before is a rotated-out one like any other.
    pub(crate) fn committed(&mut self) {
        if std::mem::take(&mut self.has_base)
            && let Err(error) = std::fs::remove_file(self.base())
        {
            tracing::warn!(path = %self.path.display(), %error, "a rotated log file is left");
        }
    }

    /// Past the last number that a file may have; `keep` may be any number.
    fn end(&self) -> u32 {
        self.keep.min(self.rotated.saturating_add(2))
    }

    /// Which of the files that are not compressed it is.
    fn find(&self, id: u64) -> io::Result<Option<u32>> {
        for n in 0..self.end() {
            if inode(&rotated(&self.path, n))? == Some(id) {
                return Ok(Some(n));
            }
        }
        Ok(None)
    }

    pub(crate) fn go_back_to(&mut self, id: u64) -> io::Result<bool> {
        let base = self.base();
        let found = self.find(id)?;
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
        let end = self.end();
        for n in 0..found.unwrap_or(end) {
            self.remove(n)?;
        }
        std::fs::rename(from, &self.path)?;
        if let Some(shift) = found {
            for n in shift + 1..end {
                self.shift(n, n - shift)?;
            }
        }
        self.count()?;
        Ok(true)
    }

    /// The newest rotated file that is not compressed.
    pub(crate) fn to_compress(&self) -> io::Result<Option<(u64, PathBuf)>> {
        for n in 1..=self.rotated {
            let path = rotated(&self.path, n);
            if let Some(id) = inode(&path)? {
                return Ok(Some((id, path)));
            }
        }
        Ok(None)
    }

    pub(crate) fn compressed(&mut self, id: u64, temporary: &Path) -> io::Result<()> {
        match self.find(id)? {
            None | Some(0) => ignore_missing(std::fs::remove_file(temporary)),
            Some(n) => {
                std::fs::rename(temporary, compressed(&self.path, n))?;
                ignore_missing(std::fs::remove_file(rotated(&self.path, n)))
            }
        }
    }
}
