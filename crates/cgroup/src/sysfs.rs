//! Reading and writing the small files of a cgroup directory.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::CgroupError;

/// Files here are small; anything longer is not what it should be.
const MAX_FILE_BYTES: u64 = 4 << 20;

pub(crate) fn write(dir: &Path, file: &str, value: &str) -> Result<(), CgroupError> {
    let path = dir.join(file);
    write_path(&path, value).map_err(|error| CgroupError::io("write", path, error))
}

/// Writes a value that a kernel without this file simply cannot have.
pub(crate) fn write_if_there(dir: &Path, file: &str, value: &str) -> Result<bool, CgroupError> {
    let path = dir.join(file);
    match write_path(&path, value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CgroupError::io("write", path, error)),
    }
}

fn write_path(path: &Path, value: &str) -> io::Result<()> {
    // One write(2): the kernel takes each write as one whole value. Never creates the file.
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
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
    let mut text = String::new();
    File::open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
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
    let mut path = root.to_owned();
    for part in relative.iter().filter(|part| *part != OsStr::new("/")) {
        path.push(part);
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(CgroupError::io("create", path, error)),
        }
    }
    Ok(path)
}
