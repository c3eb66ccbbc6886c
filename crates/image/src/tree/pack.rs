//! From a tree to an archive, in order of names, with one descriptor per level. What vanishes or changes its kind meanwhile
//! is left out; a file that becomes shorter is filled up with zeros, what it gains meanwhile is cut off.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::tar::{Entry, Kind, Writer};

/// Deepest tree.
pub const MAX_DEPTH: usize = 1024;
/// Names of one directory that are sorted at once; more come in several sorted runs.
const MAX_SORTED: usize = 1 << 18;
/// Files with several names that are remembered; further ones are written as files of their own.
const MAX_LINKED: usize = 1 << 20;
/// Bytes of a file copied at once.
const COPY_BYTES: usize = 128 * 1024;
/// Longest list of names of extended attributes (the kernel's limit).
const MAX_XATTR_BYTES: usize = 64 << 10;

/// User and group as the archive has them, of those on disk.
pub type OwnerMap<'a> = &'a dyn Fn(u32, u32) -> (u32, u32);

/// What the marks of an overlay's upper directory become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// The tree has none.
    None,
    /// Entries of a layer (`.wh.NAME`, `.wh..wh..opq`).
    Layer,
}

/// Writes trees into one archive.
pub struct Packer<'a> {
    writer: Writer<'a>,
    owner: OwnerMap<'a>,
    whiteouts: Whiteouts,
    /// First name of every file with several, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

/// A directory that is being read.
struct Level {
    dir: OwnedFd,
    entries: Dir,
    /// Last first.
    names: Vec<CString>,
    prefix: Vec<u8>,
}

fn named(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match parent {
        b"" => name.to_vec(),
        // The root is named by its slash alone.
        parent if parent.ends_with(b"/") => [parent, name].concat(),
        parent => [parent, b"/", name].concat(),
    }
}

/// Whether it is gone, or no longer what it was: no reason to stop.
fn vanished(e: &io::Error) -> bool {
    let errno = e.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE)
    )
}

impl<'a> Packer<'a> {
    /// An archive at its start.
    pub fn new(to: &'a mut dyn Write, owner: OwnerMap<'a>, whiteouts: Whiteouts) -> Self {
        Self {
            writer: Writer::new(to),
            owner,
            whiteouts,
            linked: HashMap::new(),
            buffer: vec![0; COPY_BYTES],
        }
    }

    /// Adds `name` in `dir` (a link itself, never what it points to) as `shown`; of a directory all that is in it too.
    /// With an empty `shown` the directory itself is left out, and what is in it has no prefix.
    pub fn add(&mut self, dir: BorrowedFd<'_>, name: &CStr, shown: &[u8]) -> io::Result<()> {
        let mut levels: Vec<Level> = Vec::new();
        levels.extend(self.one(dir, name, shown.to_vec())?);
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.next_name()? else {
                levels.pop();
                continue;
            };
            let shown = named(&level.prefix, name.to_bytes());
            let below = match self.one(level.dir.as_fd(), &name, shown) {
                Err(e) if vanished(&e) => continue,
                other => other?,
            };
            if levels.len() >= MAX_DEPTH && below.is_some() {
                return Err(io::Error::other(format!(
                    "more than {MAX_DEPTH} directories deep"
                )));
            }
            levels.extend(below);
        }
        Ok(())
    }

    /// The mark of the end.
    pub fn finish(self) -> io::Result<()> {
        self.writer.finish()
    }

    /// One entry; the directory to go on in, if it is one.
    fn one(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        shown: Vec<u8>,
    ) -> io::Result<Option<Level>> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mut entry = self.entry(&stat, shown);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return self.directory(dir, name, entry).map(Some),
            FileType::RegularFile => {
                entry.kind = Kind::File;
                self.file(dir, name, &stat, entry)?;
            }
            FileType::Symlink => {
                entry.kind = Kind::Symlink;
                entry.mode = 0o777;
                entry.link = rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes();
                self.linked_or(&stat, entry)?;
            }
            FileType::CharacterDevice if self.is_whiteout(&stat) => self.whiteout(entry)?,
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                entry.kind = match kind {
                    FileType::CharacterDevice => Kind::CharDevice,
                    _ => Kind::BlockDevice,
                };
                let device = stat.st_rdev;
                entry.device = (rustix::fs::major(device), rustix::fs::minor(device));
                self.linked_or(&stat, entry)?;
            }
            FileType::Fifo => {
                entry.kind = Kind::Fifo;
                self.linked_or(&stat, entry)?;
            }
            // An archive has no sockets.
            _ => {}
        }
        Ok(None)
    }

    fn entry(&self, stat: &Stat, path: Vec<u8>) -> Entry {
        let (uid, gid) = (self.owner)(stat.st_uid, stat.st_gid);
        Entry {
            path,
            link: Vec::new(),
            kind: Kind::Dir,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            size: 0,
            // Whole seconds, as dockerd.
            mtime_s: stat.st_mtime,
            mtime_ns: 0,
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        mut entry: Entry,
    ) -> io::Result<Level> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let prefix = entry.path.clone();
        if !prefix.is_empty() {
            entry.xattrs = xattrs(&dir)?;
            self.writer.entry(&entry)?;
        }
        if self.whiteouts == Whiteouts::Layer && is_opaque(&dir) {
            self.writer.entry(&Entry {
                path: named(&prefix, b".wh..wh..opq"),
                kind: Kind::File,
                mode: entry.mode & 0o777,
                xattrs: Vec::new(),
                ..entry
            })?;
        }
        let entries = Dir::read_from(&dir)?;
        Ok(Level {
            dir,
            entries,
            names: Vec::new(),
            prefix,
        })
    }

    fn is_whiteout(&self, stat: &Stat) -> bool {
        self.whiteouts == Whiteouts::Layer && stat.st_rdev == 0
    }

    fn whiteout(&mut self, mut entry: Entry) -> io::Result<()> {
        let at = entry
            .path
            .iter()
            .rposition(|b| *b == b'/')
            .map_or(0, |at| at + 1);
        entry.path.splice(at..at, *b".wh.");
        entry.kind = Kind::File;
        entry.mode = 0o600;
        self.writer.entry(&entry)
    }

    /// The entry, or a link to the name that was written first.
    fn linked_or(&mut self, stat: &Stat, mut entry: Entry) -> io::Result<()> {
        self.is_linked(stat, &mut entry);
        self.writer.entry(&entry)
    }

    fn is_linked(&mut self, stat: &Stat, entry: &mut Entry) -> bool {
        if stat.st_nlink < 2 {
            return false;
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.linked.get(&key) {
            entry.kind = Kind::HardLink;
            entry.size = 0;
            entry.link.clone_from(first);
            return true;
        }
        if self.linked.len() < MAX_LINKED {
            self.linked.insert(key, entry.path.clone());
        }
        false
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        mut entry: Entry,
    ) -> io::Result<()> {
        if self.is_linked(stat, &mut entry) {
            return self.writer.entry(&entry);
        }
        // Should a fifo or a device have taken its place, nothing waits for it or wakes it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(dir, name, flags, Mode::empty())
            .and_then(|fd| Ok((rustix::fs::fstat(&fd)?, fd)));
        let (now, fd) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                self.linked.remove(&(stat.st_dev, stat.st_ino));
                return Err(e.into());
            }
        };
        if FileType::from_raw_mode(now.st_mode) != FileType::RegularFile {
            return Err(Errno::NOENT.into());
        }
        entry.size = u64::try_from(now.st_size).unwrap_or(0);
        entry.xattrs = xattrs(&fd)?;
        self.writer.entry(&entry)?;
        self.content(std::fs::File::from(fd), entry.size)?;
        self.writer.end_file()
    }

    fn content(&mut self, mut file: std::fs::File, size: u64) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
            let n = match file.read(&mut self.buffer[..want]) {
                Ok(0) => {
                    // Shorter than it was.
                    self.buffer[..want].fill(0);
                    want
                }
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.writer.write_content(&self.buffer[..n])?;
            left -= n as u64;
        }
        Ok(())
    }
}

impl Level {
    fn next_name(&mut self) -> io::Result<Option<CString>> {
        if self.names.is_empty() {
            while self.names.len() < MAX_SORTED {
                match self.entries.next() {
                    None => break,
                    Some(entry) => {
                        let entry = entry?;
                        let name = entry.file_name();
                        if name != c"." && name != c".." {
                            self.names.push(name.to_owned());
                        }
                    }
                }
            }
            self.names.sort_unstable_by(|a, b| b.cmp(a));
        }
        Ok(self.names.pop())
    }
}

/// Whether a directory of an upper layer hides what is below.
fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0; 1];
    // No such attribute, or a file system without any: not opaque.
    matches!(
        rustix::fs::fgetxattr(dir, "trusted.overlay.opaque", &mut value),
        Ok(1)
    ) && value == *b"y"
}

/// The attributes that belong to the file: capabilities and what users set.
fn is_wanted(name: &[u8]) -> bool {
    name == CAPABILITY || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

const CAPABILITY: &[u8] = b"security.capability";
/// Where an attribute of capabilities has its version; the third one adds a user namespace's root at the end.
const CAPABILITY_VERSION_AT: usize = 3;
const CAPABILITY_V2_BYTES: usize = 20;

fn xattrs(fd: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let length = match rustix::fs::flistxattr_query(fd) {
        // Almost always.
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = vec![0u8; length.max(MAX_XATTR_BYTES)];
    let length = rustix::fs::flistxattr(fd, &mut names)?;
    let mut found = Vec::new();
    let mut value = vec![0u8; MAX_XATTR_BYTES];
    for name in names[..length]
        .split(|b| *b == 0)
        .filter(|name| is_wanted(name))
    {
        let size = match rustix::fs::fgetxattr(fd, name, &mut value) {
            Ok(size) => size,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            Err(e) => return Err(e.into()),
        };
        let mut value = value[..size].to_vec();
        if name == CAPABILITY && value.get(CAPABILITY_VERSION_AT) == Some(&3) {
            // The root of a user namespace means nothing outside of it.
            value[CAPABILITY_VERSION_AT] = 2;
            value.truncate(CAPABILITY_V2_BYTES);
        }
        found.push((name.to_vec(), value));
    }
    Ok(found)
}
