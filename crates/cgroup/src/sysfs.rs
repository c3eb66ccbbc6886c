//! Reading and writing the small files of a cgroup directory.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::CgroupError;

/// Files here are small; anything longer is not what it should be.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// What one read(2) of such a file gives: the kernel fills a page with whole records before it returns.
const FIRST_READ_BYTES: usize = 256;

pub(crate) fn write(dir: &Path, file: &str, value: &str) -> Result<(), CgroupError> {
    let path = dir.join(file);
    write_path(&path, value).map_err(|error| not_written(path, value, error))
}

/// Writes a value that a kernel without this file simply cannot have.
pub(crate) fn write_if_there(dir: &Path, file: &str, value: &str) -> Result<bool, CgroupError> {
    let path = dir.join(file);
    match write_path(&path, value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(not_written(path, value, error)),
    }
}

fn not_written(path: PathBuf, value: &str, source: io::Error) -> CgroupError {
    CgroupError::Write {
        value: value.to_owned(),
        path,
        source,
    }
}

fn write_path(path: &Path, value: &str) -> io::Result<()> {
    // One write(2): the kernel takes each write as one whole value. Never creates the file.
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

/// A file that takes several values, one write(2) each. Opened when the first comes.
pub(crate) struct Writer {
    path: PathBuf,
    file: Option<File>,
}

impl Writer {
    pub(crate) fn new(dir: &Path, file: &str) -> Writer {
        Writer {
            path: dir.join(file),
            file: None,
        }
    }

    pub(crate) fn write(&mut self, value: &str) -> Result<(), CgroupError> {
        let failed = |error| CgroupError::io("write", &self.path, error);
        let mut file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new()
                .write(true)
                .open(&self.path)
                .map_err(failed)?,
        };
        file.write_all(value.as_bytes()).map_err(failed)?;
        self.file = Some(file);
        Ok(())
    }
}

pub(crate) fn read(dir: &Path, file: &str) -> Result<String, CgroupError> {
    let path = dir.join(file);
    read_path(&path).map_err(|error| CgroupError::io("read", path, error))
}

pub(crate) fn read_if_there(dir: &Path, file: &str) -> Result<Option<String>, CgroupError> {
    let path = dir.join(file);
    match read_path(&path) {
        Ok(text) => Ok(Some(text)),
        // A group that was removed between open and read answers ENODEV.
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(CgroupError::io("read", path, error)),
    }
}

fn read_path(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    // Most are a line: the first read has all of it, and says so by not filling the buffer.
    let mut first = [0; FIRST_READ_BYTES];
    let count = file.read(&mut first)?;
    let mut bytes = first.get(..count).unwrap_or_default().to_vec();
    if count == FIRST_READ_BYTES {
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    }
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// A number in a file of its own; `max` is the largest.
pub(crate) fn read_number(dir: &Path, file: &str) -> Result<u64, CgroupError> {
    let text = read(dir, file)?;
    parse_number(text.trim()).ok_or_else(|| unexpected(dir.join(file), &text))
}

pub(crate) fn parse_number(text: &str) -> Option<u64> {
    match text {
        "max" => Some(u64::MAX),
        _ => text.parse().ok(),
    }
}

/// The value of `key` in a file of `key value` lines.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| parse_number(value.trim()))?
    })
}

pub(crate) fn unexpected(path: PathBuf, text: &str) -> CgroupError {
    CgroupError::Unexpected {
        path,
        content: text.chars().take(80).collect(),
    }
}

/// Directories directly below; empty if `dir` is gone.
pub(crate) fn child_dirs(dir: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(CgroupError::io("list", dir, error)),
    };
    let mut dirs = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| CgroupError::io("list", dir, error))?;
        let kind = entry
            .file_type()
            .map_err(|error| CgroupError::io("stat", entry.path(), error))?;
        if kind.is_dir() {
            dirs.push(entry.path());
        }
    }
    Ok(dirs)
}

/// Makes the directories between `root` (which exists) and `root/relative`.
pub(crate) fn make_dirs(root: &Path, relative: &Path) -> Result<PathBuf, CgroupError> {
    let parts = || relative.iter().filter(|part| *part != OsStr::new("/"));
    let mut path = root.to_owned();
    path.extend(parts());
    // Nearly always only the last one is missing.
    match fs::create_dir(&path) {
        Ok(()) => return Ok(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(CgroupError::io("create", path, error)),
    }
    let mut path = root.to_owned();
    for part in parts() {
        path.push(part);
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(CgroupError::io("create", path, error)),
        }
    }
    Ok(path)
}
