//! Files of `local`: segments with numbers, so that rotation renames nothing.
//!
//! What a batch begins stays until the batch is committed, and what it makes superfluous goes only then. So recovery
//! removes what is newer than the segment that the last commit names, and that is all.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::segment::with_suffix;

use super::files::{ignore_missing, open_file};

/// Digits of a number in a file's name; more where they are needed.
const DIGITS: usize = 8;

/// No log comes so far: a file with a larger number is not ours.
const MAX_NUMBER: u64 = 1 << 48;

/// The segments of one log.
#[derive(Debug)]
pub(crate) struct Numbered {
    base: PathBuf,
    keep: u32,
    /// Those that are there, in order; the last one is the current.
    there: VecDeque<u64>,
    current: u64,
}

/// A segment's file.
pub(crate) fn data_path(base: &Path, n: u64) -> PathBuf {
    with_suffix(base, &format!("{n:0DIGITS$}"))
}

/// Its index.
pub(crate) fn index_path(base: &Path, n: u64) -> PathBuf {
    with_suffix(base, &format!("{n:0DIGITS$}.idx"))
}

/// Its file when it is compressed.
pub(crate) fn compressed_path(base: &Path, n: u64) -> PathBuf {
    with_suffix(base, &format!("{n:0DIGITS$}.gz"))
}

/// Numbers of the segments that are there, in order, compressed or not.
pub(crate) fn numbers(base: &Path) -> io::Result<Vec<u64>> {
    let (Some(dir), Some(name)) = (base.parent(), base.file_name().and_then(|n| n.to_str())) else {
        return Ok(Vec::new());
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        let file = entry?.file_name();
        let rest = file
            .to_str()
            .and_then(|f| f.strip_prefix(name)?.strip_prefix('.'));
        let number = rest.map(|rest| rest.strip_suffix(".gz").unwrap_or(rest));
        // "+1" is a number for the parser, and no name of ours.
        let number = number.filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
        let number = number.and_then(|n| n.parse::<u64>().ok());
        found.extend(number.filter(|n| (1..=MAX_NUMBER).contains(n)));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

impl Numbered {
    pub(crate) fn new(base: &Path, keep: u32) -> io::Result<Numbered> {
        let mut files = Numbered {
            base: base.to_owned(),
            keep: keep.max(1),
            there: VecDeque::new(),
            current: 1,
        };
        files.look()?;
        Ok(files)
    }

    fn look(&mut self) -> io::Result<()> {
        self.there = numbers(&self.base)?.into();
        self.current = self.there.back().copied().unwrap_or(1);
        if compressed_path(&self.base, self.current).exists()
            && !data_path(&self.base, self.current).exists()
        {
            self.current += 1;
        }
        if self.there.back() != Some(&self.current) {
            self.there.push_back(self.current);
        }
        Ok(())
    }

    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    pub(crate) fn current(&self) -> u64 {
        self.current
    }

    /// Opens the current segment and its index.
    pub(crate) fn open(&self) -> io::Result<(File, File)> {
        let (data, _) = open_file(&data_path(&self.base, self.current))?;
        let (index, _) = open_file(&index_path(&self.base, self.current))?;
        Ok((data, index))
    }

    /// The next segment is the current one.
    pub(crate) fn rotate(&mut self) -> io::Result<(File, File)> {
        self.current += 1;
        let opened = self.open();
        match &opened {
            Ok(_) => self.there.push_back(self.current),
            Err(_) => self.current -= 1,
        }
        opened
    }

    /// The batch is committed: what is too much is removed.
    pub(crate) fn committed(&mut self) {
        let excess = self.there.len().saturating_sub(self.keep as usize);
        for oldest in self.there.drain(..excess).collect::<Vec<_>>() {
            if let Err(error) = self.remove(oldest) {
                tracing::warn!(path = %self.base.display(), segment = oldest, %error, "a rotated log file is left");
            }
        }
    }

    fn remove(&self, n: u64) -> io::Result<()> {
        for path in [data_path, compressed_path, index_path] {
            ignore_missing(std::fs::remove_file(path(&self.base, n)))?;
        }
        Ok(())
    }

    /// Undoes rotations after the commit that names `id`. False if that segment is nowhere.
    pub(crate) fn go_back_to(&mut self, id: u64) -> io::Result<bool> {
        let found = numbers(&self.base)?;
        if !found.contains(&id) || !data_path(&self.base, id).exists() {
            return Ok(false);
        }
        for n in found.into_iter().filter(|n| *n > id) {
            self.remove(n)?;
        }
        self.look()?;
        Ok(true)
    }

    /// The newest complete segment that is not compressed.
    pub(crate) fn to_compress(&self) -> Option<u64> {
        let complete = self.there.iter().rev().filter(|n| **n < self.current);
        complete
            .copied()
            .find(|n| data_path(&self.base, *n).exists())
    }

    /// Puts a compressed segment in its place; the segment may have gone meanwhile.
    pub(crate) fn compressed(&self, n: u64, temporary: &Path) -> io::Result<()> {
        let data = data_path(&self.base, n);
        if !self.there.contains(&n) || !data.exists() {
            return ignore_missing(std::fs::remove_file(temporary));
        }
        std::fs::rename(temporary, compressed_path(&self.base, n))?;
        ignore_missing(std::fs::remove_file(data))
    }
}
