//! What a container has changed: its upper directory compared with what lies below, as dockerd does it. A file that is
//! there again with the same mode, owner, size and time is no change; a directory is one as soon as something in it is.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_launch::{Lower, LowerView};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::EngineError;
use crate::engine::Engine;
use crate::model::FixedView;
use crate::shard::Shared;

/// Changes of one container that are listed.
pub const MAX_CHANGES: usize = 4_000_000;
/// Deepest tree.
const MAX_DEPTH: usize = 1024;

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is another, or something below it is.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute path in the container.
    pub path: String,
    /// What became of it.
    pub kind: ChangeKind,
}

impl Engine {
    /// What a container has changed in its root file system, in order of paths.
    ///
    /// # Errors
    /// No such container; the kernel's.
    pub async fn changes(&self, key: &str) -> Result<Vec<Change>, EngineError> {
        let (shared, fixed) = (self.shared.clone(), self.inspect(key)?.fixed.clone());
        super::on_long_worker(move || find(&shared, &fixed)).await
    }
}

fn find(shared: &Shared, fixed: &FixedView) -> Result<Vec<Change>, EngineError> {
    let path = fixed.upper_path();
    let failed = |e: io::Error| EngineError::io(format!("compare {}", path.display()), e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = match rustix::fs::open(&path, flags, Mode::empty()) {
        // It was never started.
        Err(Errno::NOENT) => return Ok(Vec::new()),
        other => other.map_err(|e| failed(e.into()))?,
    };
    let mut spec = super::files::rootfs(shared, fixed)?;
    // An overlay has two layers at least.
    let below = shared.config.empty_layer_dirs();
    spec.lowers.extend(below.into_iter().map(Lower::from));
    let lower = LowerView::mount(&spec)?;
    compare(upper, lower.root()).map_err(failed)
}

/// A directory that is compared.
struct Level {
    dir: OwnedFd,
    below: Option<OwnedFd>,
    names: std::vec::IntoIter<CString>,
    path: String,
    /// Where its own change is in the list, and whether it stays without changes in it.
    own: Option<(usize, bool)>,
}

fn compare(upper: OwnedFd, lower: BorrowedFd<'_>) -> io::Result<Vec<Change>> {
    let below = rustix::fs::openat(lower, c".", DIRECTORY, Mode::empty())?;
    let mut list = Vec::new();
    let mut levels = vec![level(upper, Some(below), String::new(), None)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            if let Some((at, false)) = level.own
                && list.len() == at + 1
            {
                list.pop();
            }
            levels.pop();
            continue;
        };
        let next = one(level, &name, &mut list)?;
        if list.len() > MAX_CHANGES || levels.len() > MAX_DEPTH {
            return Err(io::Error::other("too many changes"));
        }
        levels.extend(next);
    }
    Ok(list)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn level(
    dir: OwnedFd,
    below: Option<OwnedFd>,
    path: String,
    own: Option<(usize, bool)>,
) -> io::Result<Level> {
    let mut names = names_in(&dir)?;
    if let Some(below) = &below
        && is_opaque(&dir)
    {
        names.extend(names_in(below)?);
    }
    names.sort();
    names.dedup();
    let names = names.into_iter();
    Ok(Level {
        dir,
        below,
        names,
        path,
        own,
    })
}

fn names_in(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0; 1];
    matches!(
        rustix::fs::fgetxattr(dir, "trusted.overlay.opaque", &mut value),
        Ok(1)
    ) && value == *b"y"
}

/// `None` where nothing is.
fn stat(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// One name; the directory to go on in, if it is one.
fn one(level: &Level, name: &CStr, list: &mut Vec<Change>) -> io::Result<Option<Level>> {
    let path = format!("{}/{}", level.path, name.to_string_lossy());
    let mut push = |kind| {
        let path = path.clone();
        list.push(Change { path, kind });
    };
    let new = stat(level.dir.as_fd(), name)?.filter(|s| !is_whiteout(s));
    let old = match &level.below {
        Some(below) => stat(below.as_fd(), name)?,
        None => None,
    };
    let Some(new) = new else {
        if old.is_some() {
            push(ChangeKind::Deleted);
        }
        return Ok(None);
    };
    let changed = match &old {
        None => true,
        Some(old) => differs(level, name, old, &new)?,
    };
    if changed || is_dir(&new) {
        push(if old.is_none() {
            ChangeKind::Added
        } else {
            ChangeKind::Modified
        });
    }
    if !is_dir(&new) {
        return Ok(None);
    }
    let own = Some((list.len() - 1, changed));
    let open = |dir: &OwnedFd| rustix::fs::openat(dir, name, DIRECTORY, Mode::empty());
    let dir = match open(&level.dir) {
        // The container has removed it meanwhile.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        other => other?,
    };
    let below = match (&level.below, &old) {
        (Some(below), Some(old)) if is_dir(old) => Some(open(below)?),
        _ => None,
    };
    self::level(dir, below, path, own).map(Some)
}

/// Whether a file is not what it was. A change of content shows in its time.
fn differs(level: &Level, name: &CStr, old: &Stat, new: &Stat) -> io::Result<bool> {
    let same = |a: (u32, u32, u32, u64), b| a == b;
    let plain = |s: &Stat| (s.st_mode, s.st_uid, s.st_gid, s.st_rdev);
    if !same(plain(old), plain(new)) {
        return Ok(true);
    }
    if is_dir(new) {
        return Ok(false);
    }
    let time = |s: &Stat| (s.st_mtime, s.st_mtime_nsec);
    // An archive may have whole seconds only.
    let rounded = old.st_mtime_nsec == 0 || new.st_mtime_nsec == 0;
    let same_time = time(old) == time(new) || (rounded && old.st_mtime == new.st_mtime);
    if !same_time || old.st_size != new.st_size {
        return Ok(true);
    }
    let Some(below) = &level.below else {
        return Ok(false);
    };
    if FileType::from_raw_mode(new.st_mode) != FileType::RegularFile {
        return Ok(false);
    }
    Ok(capability(&level.dir, name)? != capability(below, name)?)
}

fn capability(dir: &OwnedFd, name: &CStr) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => file,
        // Gone meanwhile.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut value = [0; 64];
    match rustix::fs::fgetxattr(&file, "security.capability", &mut value) {
        Ok(length) => Ok(value[..length].to_vec()),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(e) => Err(e.into()),
    }
}
