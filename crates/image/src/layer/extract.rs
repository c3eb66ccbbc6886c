//! Unpacks the entries of one layer below its root. Nothing is reached by a path of the archive except through
//! `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`, and the last component is never followed.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
    makedev,
};
use rustix::io::Errno;

use super::path::clean;
use super::remove::remove_tree;
use crate::ImageError;
use crate::error::IoContext;
use crate::space::SpaceGuard;
use crate::tar::{Entry, Kind};

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// What the overlay itself writes; a layer that brings it would steer the mount.
const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";

/// Tries to open what the kernel says to try again.
const MAX_OPEN_TRIES: u32 = 1000;

/// Bytes of a file copied at once.
const COPY_BYTES: usize = 64 * 1024;

pub(super) struct Extractor<'a> {
    root: BorrowedFd<'a>,
    /// Directories whose times wait for their content.
    dirs: Vec<(CString, Timestamps)>,
    /// The last parent and its fd.
    parent: Option<(CString, OwnedFd)>,
    size_bytes: u64,
    space: SpaceGuard,
    buffer: Vec<u8>,
}

impl<'a> Extractor<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Result<Self, ImageError> {
        rustix::fs::fchmod(root, Mode::from_raw_mode(0o755)).context(|| "layer root".into())?;
        Ok(Self {
            root,
            dirs: Vec::new(),
            parent: None,
            size_bytes: 0,
            space: SpaceGuard::new(),
            buffer: vec![0; COPY_BYTES],
        })
    }

    /// Unpacks one entry; the content comes from `content`.
    pub(super) fn add(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), ImageError> {
        let parts = clean(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else {
            if entry.kind == Kind::Dir {
                set_metadata(self.root, entry).context(|| "layer root".into())?;
                self.dirs.push((c".".to_owned(), times(entry)));
            }
            return Ok(());
        };
        let what = || format!("layer entry {:?}", String::from_utf8_lossy(&entry.path));
        self.enter(parents).map_err(|e| blame(e, what()))?;
        let Some((_, parent)) = self.parent.take() else {
            return Err(io::Error::from(io::ErrorKind::NotFound)).context(what);
        };
        let keep = self
            .add_in(parent.as_fd(), name, &parts, entry, content)
            .map_err(|e| blame(e, what()))?;
        if keep {
            self.parent = Some((joined(parents).context(what)?, parent));
        }
        Ok(())
    }

    /// Applies what directories waited for; the sum of the sizes of the files and links.
    pub(super) fn finish(self) -> Result<u64, ImageError> {
        // Of a directory that is declared more than once the last entry counts.
        for (path, times) in &self.dirs {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match open_in(self.root, path, flags) {
                Ok(dir) => {
                    rustix::fs::futimens(&dir, times).context(|| "layer directory".into())?;
                }
                // A later entry took its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(e).context(|| "layer directory".into()),
            }
        }
        Ok(self.size_bytes)
    }

    /// Opens (makes) the parent directory of the next entry.
    fn enter(&mut self, parents: &[&[u8]]) -> io::Result<()> {
        let path = joined(parents)?;
        if self
            .parent
            .as_ref()
            .is_some_and(|(known, _)| *known == path)
        {
            return Ok(());
        }
        let fd = match open_in(self.root, &path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                for depth in 1..=parents.len() {
                    make_dir(self.root, &parents[..depth])?;
                }
                open_in(self.root, &path, OFlags::PATH | OFlags::DIRECTORY)?
            }
            opened => opened?,
        };
        self.parent = Some((path, fd));
        Ok(())
    }

    /// Whether the parent's fd is still good for its path.
    fn add_in(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        parts: &[&[u8]],
        entry: &Entry,
        content: &mut dyn Read,
    ) -> io::Result<bool> {
        if name.starts_with(WHITEOUT) {
            whiteout(parent, name)?;
            return Ok(true);
        }
        let name = CString::new(name)?;
        let mut replaced = false;
        let mut over_whiteout = false;
        match rustix::fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
            Ok(stat) => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                if kind != FileType::Directory || entry.kind != Kind::Dir {
                    over_whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
                    if matches!(kind, FileType::RegularFile | FileType::Symlink)
                        && stat.st_nlink == 1
                    {
                        let gone = u64::try_from(stat.st_size).unwrap_or(0);
                        self.size_bytes = self.size_bytes.saturating_sub(gone);
                    }
                    remove_tree(parent, &name)?;
                    replaced = true;
                }
            }
        }
        match entry.kind {
            Kind::Dir => {
                match rustix::fs::mkdirat(parent, &name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let dir = open_in(parent, &name, flags)?;
                if over_whiteout {
                    // The directory below was deleted before this one was made.
                    rustix::fs::fsetxattr(&dir, OPAQUE_XATTR, b"y", XattrFlags::empty())?;
                }
                set_metadata(dir.as_fd(), entry)?;
                self.dirs.push((joined(parts)?, times(entry)));
            }
            Kind::File => self.file(parent, &name, entry, content)?,
            Kind::HardLink => self.hard_link(parent, &name, entry)?,
            Kind::Symlink => {
                rustix::fs::symlinkat(CString::new(entry.link.as_slice())?, parent, &name)?;
                set_metadata_at(parent, &name, entry)?;
                self.size_bytes += entry.link.len() as u64;
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let kind = match entry.kind {
                    Kind::CharDevice => FileType::CharacterDevice,
                    Kind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = makedev(entry.device.0, entry.device.1);
                rustix::fs::mknodat(parent, &name, kind, Mode::from_raw_mode(0o600), device)?;
                set_metadata_at(parent, &name, entry)?;
            }
        }
        Ok(!replaced)
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CString,
        entry: &Entry,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(
            parent,
            name,
            flags,
            Mode::from_raw_mode(0o600),
        )?);
        let mut left = entry.size;
        while left > 0 {
            let want = usize::try_from(left).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
            let n = match content.read(&mut self.buffer[..want]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.space.take(&file, n as u64)?;
            file.write_all(&self.buffer[..n])?;
            left -= n as u64;
        }
        self.size_bytes += entry.size;
        set_metadata(file.as_fd(), entry)
    }

    fn hard_link(&self, parent: BorrowedFd<'_>, name: &CString, entry: &Entry) -> io::Result<()> {
        let target = clean(&entry.link).map_err(|e| io::Error::other(e.to_string()))?;
        let Some((target_name, target_parents)) = target.split_last() else {
            return Err(io::Error::other("hard link to the root"));
        };
        let dir = open_in(
            self.root,
            &joined(target_parents)?,
            OFlags::PATH | OFlags::DIRECTORY,
        )?;
        // Without AT_SYMLINK_FOLLOW a symlink is linked itself, never what it points to.
        rustix::fs::linkat(
            &dir,
            CString::new(*target_name)?,
            parent,
            name,
            AtFlags::empty(),
        )?;
        Ok(())
    }
}

/// Whether the archive or the machine is at fault.
pub(super) fn blame(error: io::Error, what: String) -> ImageError {
    let of_archive = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(errno) => matches!(
            errno,
            Errno::NOENT
                | Errno::NOTDIR
                | Errno::ISDIR
                | Errno::EXIST
                | Errno::NOTEMPTY
                | Errno::LOOP
                | Errno::NAMETOOLONG
                | Errno::INVAL
                | Errno::MLINK
                | Errno::PERM
                | Errno::RANGE
                | Errno::TOOBIG
        ),
        None => error.kind() != io::ErrorKind::StorageFull,
    };
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ImageError::truncated(),
        _ if of_archive => ImageError::archive(format_args!("{what}: {error}")),
        _ => ImageError::Io {
            what,
            source: error,
        },
    }
}

fn joined(parts: &[&[u8]]) -> io::Result<CString> {
    if parts.is_empty() {
        Ok(c".".to_owned())
    } else {
        Ok(CString::new(parts.join(&b'/'))?)
    }
}

fn open_in(root: BorrowedFd<'_>, path: &CString, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    let mut tries = 0;
    loop {
        // Of a path with `..` the kernel cannot tell while something is renamed or mounted, anywhere.
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < MAX_OPEN_TRIES => tries += 1,
            opened => return opened,
        }
    }
}

fn make_dir(root: BorrowedFd<'_>, parts: &[&[u8]]) -> io::Result<()> {
    let Some((name, parents)) = parts.split_last() else {
        return Ok(());
    };
    let parent = open_in(root, &joined(parents)?, OFlags::PATH | OFlags::DIRECTORY)?;
    let name = CString::new(*name)?;
    match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            // The mode of an undeclared directory does not depend on the daemon's umask.
            rustix::fs::chmodat(&parent, &name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
            Ok(())
        }
        Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn whiteout(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    if name == WHITEOUT_OPAQUE {
        let dir = open_in(parent, &c".".to_owned(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        return Ok(rustix::fs::fsetxattr(
            &dir,
            OPAQUE_XATTR,
            b"y",
            XattrFlags::empty(),
        )?);
    }
    if name.starts_with(WHITEOUT_META) {
        return Ok(());
    }
    let hidden = &name[WHITEOUT.len()..];
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(io::Error::other("whiteout of nothing"));
    }
    let mode = Mode::empty();
    match rustix::fs::mknodat(
        parent,
        CString::new(hidden)?,
        FileType::CharacterDevice,
        mode,
        makedev(0, 0),
    ) {
        // What this layer itself brought is not hidden by its own whiteout.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec {
        tv_sec: entry.mtime_s,
        tv_nsec: entry.mtime_ns.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    // The kernel reads an owner of all ones as "leave it".
    let uid = (entry.uid != u32::MAX).then(|| Uid::from_raw(entry.uid));
    let gid = (entry.gid != u32::MAX).then(|| Gid::from_raw(entry.gid));
    (uid, gid)
}

/// Owner first: a change of owner clears capabilities and setuid.
fn set_metadata(fd: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
    let (uid, gid) = owner(entry);
    rustix::fs::fchown(fd, uid, gid)?;
    for (name, value) in wanted_xattrs(entry) {
        ignore_unsupported(
            rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            name,
        )?;
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))?;
    rustix::fs::futimens(fd, &times(entry))?;
    Ok(())
}

/// The same for what cannot be opened. `name` was just made by us.
fn set_metadata_at(parent: BorrowedFd<'_>, name: &CString, entry: &Entry) -> io::Result<()> {
    let (uid, gid) = owner(entry);
    rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    let path = CString::new(path)?;
    for (xattr, value) in wanted_xattrs(entry) {
        ignore_unsupported(
            rustix::fs::lsetxattr(&path, xattr, value, XattrFlags::empty()),
            xattr,
        )?;
    }
    if entry.kind != Kind::Symlink {
        rustix::fs::chmodat(
            parent,
            name,
            Mode::from_raw_mode(entry.mode),
            AtFlags::empty(),
        )?;
    }
    rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn wanted_xattrs(entry: &Entry) -> impl Iterator<Item = (&[u8], &[u8])> {
    entry
        .xattrs
        .iter()
        .filter(|(name, _)| !name.starts_with(OVERLAY_XATTRS))
        .map(|(n, v)| (n.as_slice(), v.as_slice()))
}

/// As Docker: an attribute that the file system or the kind of file does not take is left out.
fn ignore_unsupported(result: rustix::io::Result<()>, name: &[u8]) -> io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::PERM) => {
            tracing::warn!(name = %String::from_utf8_lossy(name), "extended attribute left out: not supported here");
            Ok(())
        }
        other => Ok(other?),
    }
}
