//! Removal of trees of any depth with a bounded number of open directories.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// Directories open at once; deeper ones are first moved up.
const MAX_DEPTH: usize = 64;
/// Names tried for a directory that is moved up.
const MAX_NAME_TRIES: u32 = 1_000_000;

/// Removes `name` in `parent` with everything below it. A name that is not there is no error.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let mut moved = vec![name.to_owned()];
    let mut serial = 0;
    while let Some(name) = moved.pop() {
        match rustix::fs::unlinkat(parent, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
        let dir = open_dir(parent, &name)?;
        empty(parent, dir.as_fd(), 1, &mut moved, &mut serial)?;
        rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn empty(
    top: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    depth: usize,
    moved: &mut Vec<CString>,
    serial: &mut u32,
) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if depth >= MAX_DEPTH {
            moved.push(move_up(dir, name, top, serial)?);
            continue;
        }
        let child = open_dir(dir, name)?;
        empty(top, child.as_fd(), depth + 1, moved, serial)?;
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn move_up(
    dir: BorrowedFd<'_>,
    name: &CStr,
    top: BorrowedFd<'_>,
    serial: &mut u32,
) -> io::Result<CString> {
    while *serial < MAX_NAME_TRIES {
        *serial += 1;
        let new = CString::new(format!(".gantry-removed-{serial}"))?;
        match rustix::fs::renameat_with(dir, name, top, &new, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(new),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::other(
        "no free name for a directory that is being removed",
    ))
}
