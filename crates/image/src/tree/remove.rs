//! Removal of a tree in a container's files. What something is mounted on stays: the kernel only asks about mounts of the
//! caller's own namespace, and would take the others away with it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::MAX_DEPTH;

/// A directory that is being emptied.
struct Level {
    dir: OwnedFd,
    entries: Dir,
    /// Its name in the one above.
    name: CString,
}

/// Removes `name` in `parent` with everything below it; gone already is no error.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let mut levels: Vec<Level> = Vec::new();
    levels.extend(one(parent, name)?);
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            let Some(done) = levels.pop() else { break };
            let above = levels.last().map_or(parent, |level| level.dir.as_fd());
            rustix::fs::unlinkat(above, &done.name, AtFlags::REMOVEDIR)?;
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let below = one(level.dir.as_fd(), name)?;
        if levels.len() >= MAX_DEPTH && below.is_some() {
            return Err(Errno::NAMETOOLONG.into());
        }
        levels.extend(below);
    }
    Ok(())
}

/// Removes what is no directory; a directory is given back to be emptied first.
fn one(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Level>> {
    let stat = rustix::fs::statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
    let stat = match stat {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(Errno::BUSY.into());
    }
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory {
        return match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        };
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let entries = Dir::read_from(&dir)?;
    let name = name.to_owned();
    Ok(Some(Level { dir, entries, name }))
}
