//! From an archive into a directory of a container, as `docker cp` has it: what is there is replaced, directories are
//! merged, and whiteouts mean nothing. No path leads out of the directory: links on the way are followed as if it were the
//! root (dockerd changes its root to it), the last part of a path never.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
    makedev,
};
use rustix::io::Errno;

use super::remove::remove;
use crate::ImageError;
use crate::archive::decompress;
use crate::error::IoContext;
use crate::layer::MAX_COMPONENTS;
use crate::tar::{Entry, Kind, Reader, TarError};

/// Bytes of a file copied at once.
const COPY_BYTES: usize = 64 * 1024;
/// Bytes of the names of directories whose times wait for their content; then they are set early.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// What the overlay itself writes; an archive that brings it would steer the mount.
const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";
/// Links to nowhere that are followed to make a directory.
const MAX_LINKS: usize = 8;
/// Tries of a path that a container renames meanwhile.
const MAX_TRIES: usize = 16;

/// How an archive is unpacked.
pub struct Unpack<'a> {
    /// A directory takes no other file's place, nor the other way round.
    pub no_overwrite_dir_non_dir: bool,
    /// User and group on disk, of those in the archive; `None` if there is no such one.
    pub owner: &'a dyn Fn(u32, u32) -> Option<(u32, u32)>,
    /// Owner on disk of directories that the archive does not name.
    pub root: (u32, u32),
    /// The directory as errors name it.
    pub shown: &'a str,
}

/// Unpacks an archive (plain, gzip, bzip2, xz or zstd) into a directory, and reads it to its end.
///
/// # Errors
/// `InvalidReference` with Docker's text for an entry that is refused, `InvalidArchive` for what is no archive, `Io` for the
/// file system's. What came before stays.
pub fn unpack(
    root: BorrowedFd<'_>,
    archive: impl Read,
    options: &Unpack<'_>,
) -> Result<(), ImageError> {
    let mut reader = Reader::new(decompress(archive)?);
    let mut unpacker = Unpacker {
        root,
        options,
        waiting: Vec::new(),
        waiting_bytes: 0,
        buffer: vec![0; COPY_BYTES],
    };
    while let Some(entry) = reader.next_entry().map_err(in_dockers_words)? {
        unpacker.add(&entry, &mut reader)?;
    }
    unpacker.set_times()?;
    // The client is still writing the padding; it must not see a closed pipe.
    io::copy(&mut reader.into_inner(), &mut io::sink()).map_err(ImageError::reading)?;
    Ok(())
}

fn in_dockers_words(e: TarError) -> ImageError {
    match e {
        TarError::Header(_) => refused("archive/tar: invalid tar header".into()),
        e => e.into(),
    }
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    options: &'a Unpack<'a>,
    /// Directories whose times wait for their content.
    waiting: Vec<(CString, Timestamps)>,
    waiting_bytes: usize,
    buffer: Vec<u8>,
}

/// The parts of a path, without `.` and `..`; `None` if it leads out.
fn parts(path: &[u8]) -> Option<Vec<&[u8]>> {
    let rooted = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() && !rooted {
                    return None;
                }
            }
            part => parts.push(part),
        }
    }
    Some(parts)
}

fn joined(parts: &[&[u8]]) -> io::Result<CString> {
    match parts {
        [] => Ok(c".".to_owned()),
        parts => Ok(CString::new(parts.join(&b'/'))?),
    }
}

fn quoted(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

fn refused(text: String) -> ImageError {
    ImageError::InvalidReference(text)
}

impl Unpacker<'_> {
    fn add(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), ImageError> {
        let breaks_out = || refused(format!("invalid entry name {}", quoted(&entry.path)));
        let parts = parts(&entry.path).ok_or_else(breaks_out)?;
        if parts.len() > MAX_COMPONENTS {
            return Err(ImageError::archive(format_args!(
                "a path has more than {MAX_COMPONENTS} components"
            )));
        }
        let Some((name, parents)) = parts.split_last() else {
            // The directory itself stays as it is.
            return Ok(());
        };
        let what = || format!("unpack {}", quoted(&entry.path));
        let parent = self.enter(parents).context(what)?;
        let name = CString::new(*name).context(what)?;
        self.make_room(parent.as_fd(), &name, entry)?;
        let owner = (self.options.owner)(entry.uid, entry.gid).ok_or_else(|| {
            refused(format!(
                "failed to Lchown {}: container ID {} cannot be mapped to a host ID",
                quoted(&entry.path),
                entry.uid
            ))
        })?;
        let made = Made { entry, owner };
        match entry.kind {
            Kind::Dir => {
                let times = directory(parent.as_fd(), &name, &made).context(what)?;
                let path = joined(&parts).context(what)?;
                self.waiting_bytes += path.as_bytes().len();
                self.waiting.push((path, times));
                if self.waiting_bytes > MAX_WAITING_BYTES {
                    self.set_times()?;
                }
                Ok(())
            }
            Kind::File => self.file(parent.as_fd(), &name, &made, content),
            Kind::HardLink => self.hard_link(parent.as_fd(), &name, entry),
            Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                special(parent.as_fd(), &name, &made).context(what)
            }
        }
    }

    /// Opens (makes) the parent directory of an entry.
    fn enter(&self, parents: &[&[u8]]) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match open_in(self.root, &joined(parents)?, flags) {
            Err(Errno::NOENT) => {
                self.make_parents(parents, MAX_LINKS)?;
                Ok(open_in(self.root, &joined(parents)?, flags)?)
            }
            opened => Ok(opened?),
        }
    }

    fn make_parents(&self, parents: &[&[u8]], links: usize) -> io::Result<()> {
        for (depth, name) in parents.iter().enumerate() {
            let above = &parents[..depth];
            let Some(link) = self.make_parent(above, name)? else {
                continue;
            };
            // A link to nowhere: the directory is made where it points to.
            let links = links.checked_sub(1).ok_or(Errno::LOOP)?;
            let mut there: Vec<&[u8]> = match link.starts_with(b"/") {
                true => Vec::new(),
                false => above.to_vec(),
            };
            for part in link.split(|b| *b == b'/') {
                match part {
                    b"" | b"." => {}
                    b".." => drop(there.pop()),
                    part => there.push(part),
                }
            }
            self.make_parents(&there, links)?;
        }
        Ok(())
    }

    /// Makes one directory; what it says, if a link to nowhere is there.
    fn make_parent(&self, above: &[&[u8]], name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let above = open_in(self.root, &joined(above)?, OFlags::PATH | OFlags::DIRECTORY)?;
        let name = CString::new(name)?;
        match rustix::fs::mkdirat(&above, &name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                // What is there now may be another's; it is changed by descriptor, and no link of a container's is followed.
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = rustix::fs::openat(&above, &name, flags, Mode::empty())?;
                let (uid, gid) = ids(self.options.root);
                rustix::fs::fchown(&dir, uid, gid)?;
                rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?;
                Ok(None)
            }
            Err(Errno::EXIST) => match rustix::fs::readlinkat(&above, &name, Vec::new()) {
                Ok(link) => Ok(Some(link.into_bytes())),
                // No link.
                Err(Errno::INVAL | Errno::NOENT) => Ok(None),
                Err(e) => Err(e.into()),
            },
            Err(e) => Err(e.into()),
        }
    }

    /// Removes what an entry replaces.
    fn make_room(
        &self,
        parent: BorrowedFd<'_>,
        name: &CString,
        entry: &Entry,
    ) -> Result<(), ImageError> {
        let what = || format!("unlinkat {}", quoted(&entry.path));
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.context(what)?,
        };
        let there = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let new = entry.kind == Kind::Dir;
        if there && new {
            return Ok(());
        }
        if self.options.no_overwrite_dir_non_dir && (there || new) {
            let path = String::from_utf8_lossy(&entry.path);
            let (path, shown) = (path.trim_end_matches('/'), self.options.shown);
            let (old, new) = match there {
                true => ("directory", "non-directory"),
                false => ("non-directory", "directory"),
            };
            return Err(refused(format!(
                "cannot overwrite {old} {path:?} with {new} {shown:?}"
            )));
        }
        remove(parent, name).context(what)
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CString,
        made: &Made<'_>,
        content: &mut dyn Read,
    ) -> Result<(), ImageError> {
        let entry = made.entry;
        let what = || format!("unpack {}", quoted(&entry.path));
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(file.context(what)?);
        let mut left = entry.size;
        while left > 0 {
            let want = usize::try_from(left).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
            let n = match content.read(&mut self.buffer[..want]) {
                Ok(0) => return Err(ImageError::truncated()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(ImageError::reading(e)),
            };
            file.write_all(&self.buffer[..n]).context(what)?;
            left -= n as u64;
        }
        set_metadata(file.as_fd(), made).context(what)
    }

    fn hard_link(
        &self,
        parent: BorrowedFd<'_>,
        name: &CString,
        entry: &Entry,
    ) -> Result<(), ImageError> {
        let breaks_out = || refused(format!("invalid hardlink target {}", quoted(&entry.link)));
        let target = parts(&entry.link).ok_or_else(breaks_out)?;
        let (target_name, target_parents) = target.split_last().ok_or_else(breaks_out)?;
        let link = || -> io::Result<()> {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let dir = open_in(self.root, &joined(target_parents)?, flags)?;
            // Without AT_SYMLINK_FOLLOW a symlink is linked itself, never what it points to.
            let target = CString::new(*target_name)?;
            Ok(rustix::fs::linkat(
                &dir,
                &target,
                parent,
                name,
                AtFlags::empty(),
            )?)
        };
        link().context(|| format!("link {}", quoted(&entry.path)))
    }

    fn set_times(&mut self) -> Result<(), ImageError> {
        self.waiting_bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        for (path, times) in waiting.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let set =
                open_in(self.root, path, flags).and_then(|dir| rustix::fs::futimens(&dir, times));
            match set {
                // A later entry took its place.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(e).context(|| "set the times of a directory".into()),
            }
        }
        Ok(())
    }
}

/// An entry, and its owner on disk.
struct Made<'a> {
    entry: &'a Entry,
    owner: (u32, u32),
}

fn open_in(root: BorrowedFd<'_>, path: &CString, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    let open = || rustix::fs::openat2(root, path, flags, Mode::empty(), resolve);
    for _ in 1..MAX_TRIES {
        match open() {
            // Something was renamed on the way.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    open()
}

/// The kernel reads an owner of all ones as "leave it".
fn ids((uid, gid): (u32, u32)) -> (Option<Uid>, Option<Gid>) {
    let uid = (uid != u32::MAX).then(|| Uid::from_raw(uid));
    let gid = (gid != u32::MAX).then(|| Gid::from_raw(gid));
    (uid, gid)
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

/// Makes a directory or takes the one that is there; gives the times it is to have in the end.
fn directory(parent: BorrowedFd<'_>, name: &CString, made: &Made<'_>) -> io::Result<Timestamps> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    set_metadata(dir.as_fd(), made)?;
    Ok(times(made.entry))
}

fn special(parent: BorrowedFd<'_>, name: &CString, made: &Made<'_>) -> io::Result<()> {
    let entry = made.entry;
    let kind = match entry.kind {
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
        _ => FileType::Symlink,
    };
    if kind == FileType::Symlink {
        rustix::fs::symlinkat(CString::new(entry.link.as_slice())?, parent, name)?;
    } else {
        let device = makedev(entry.device.0, entry.device.1);
        rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)?;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let (uid, gid) = ids(made.owner);
    rustix::fs::chownat(&node, c"", uid, gid, AtFlags::EMPTY_PATH)?;
    // The node itself, whatever its name leads to by now.
    let path = format!("/proc/self/fd/{}", node.as_raw_fd());
    if FileType::from_raw_mode(rustix::fs::fstat(&node)?.st_mode) != FileType::Symlink {
        for (xattr, value) in xattrs(entry) {
            known(rustix::fs::setxattr(
                &path,
                xattr,
                value,
                XattrFlags::empty(),
            ))?;
        }
        rustix::fs::chmod(&path, Mode::from_raw_mode(entry.mode))?;
    }
    Ok(rustix::fs::utimensat(
        parent,
        name,
        &times(entry),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Owner first: a change of owner clears capabilities and setuid.
fn set_metadata(fd: BorrowedFd<'_>, made: &Made<'_>) -> io::Result<()> {
    let (uid, gid) = ids(made.owner);
    rustix::fs::fchown(fd, uid, gid)?;
    for (name, value) in xattrs(made.entry) {
        known(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()))?;
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(made.entry.mode))?;
    Ok(rustix::fs::futimens(fd, &times(made.entry))?)
}

fn xattrs(entry: &Entry) -> impl Iterator<Item = (&[u8], &[u8])> {
    let ours = entry
        .xattrs
        .iter()
        .filter(|(name, _)| !name.starts_with(OVERLAY_XATTRS));
    ours.map(|(name, value)| (name.as_slice(), value.as_slice()))
}

/// As dockerd: an attribute that the file system or the kind of file does not take is left out.
fn known(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
