//! /dev, /dev/shm and terminals, as detached trees.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, makedev};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::remap::Remap;
use crate::spec::DeviceNode;
use crate::sys::{make_node, make_private};

const NODES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
const DIRECTORIES: &[&str] = &["pts", "shm", "mqueue"];
/// Group of terminals.
const TTY_GROUP: u32 = 5;
/// Host devices a privileged container gets at most.
const MAX_HOST_DEVICES: usize = 4096;
/// Nesting of directories below the host's /dev that is followed.
const MAX_DEPTH: usize = 8;
/// Not copied from the host: the container has its own.
const OWN: &[&str] = &[
    "pts", "shm", "fd", "mqueue", "console", "ptmx", "null", "zero", "full", "random", "urandom",
    "tty",
];

/// A new, detached file system; `source` is what mount tables call it.
pub(crate) fn new_fs(
    kind: &str,
    source: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, "source", source)?;
    for (key, value) in options {
        match value.is_empty() {
            true => rustix::mount::fsconfig_set_flag(&fs, *key)?,
            false => rustix::mount::fsconfig_set_string(&fs, *key, *value)?,
        }
    }
    rustix::mount::fsconfig_create(&fs)?;
    Ok(rustix::mount::fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// /dev with the usual nodes and links; for a privileged container with every device of the host.
pub(crate) fn dev(tty: bool, privileged: bool, with_shm: bool) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let dev = new_fs(
        "tmpfs",
        "tmpfs",
        &[("mode", "755"), ("size", "65536k")],
        attributes,
    )?;
    for (name, major, minor) in NODES {
        make_node(
            dev.as_fd(),
            name,
            FileType::CharacterDevice,
            0o666,
            makedev(*major, *minor),
        )?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(*target, &dev, *name)?;
    }
    if Path::new("/proc/kcore").exists() {
        rustix::fs::symlinkat("/proc/kcore", &dev, "core")?;
    }
    let directories = DIRECTORIES.iter().filter(|d| with_shm || **d != "shm");
    for name in directories {
        rustix::fs::mkdirat(&dev, *name, Mode::from_raw_mode(0o755))?;
    }
    if tty {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&dev, "console", flags, Mode::from_raw_mode(0o600))?;
    }
    if privileged {
        let mut left = MAX_HOST_DEVICES;
        copy_devices(Path::new("/dev"), dev.as_fd(), MAX_DEPTH, &mut left)?;
    }
    Ok(dev)
}

fn copy_devices(from: &Path, to: BorrowedFd<'_>, depth: usize, left: &mut usize) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let top = depth == MAX_DEPTH;
        if name.starts_with('.') || (top && OWN.contains(&name.as_str())) {
            continue;
        }
        let meta = match entry.path().symlink_metadata() {
            Ok(meta) => meta,
            // Unplugged meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let kind = meta.file_type();
        if kind.is_dir() && depth > 0 {
            rustix::fs::mkdirat(to, name.as_str(), Mode::from_raw_mode(0o755))?;
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(to, name.as_str(), flags, Mode::empty())?;
            copy_devices(&entry.path(), dir.as_fd(), depth - 1, left)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| io::Error::other("too many devices in /dev"))?;
            let node = if kind.is_char_device() {
                FileType::CharacterDevice
            } else {
                FileType::BlockDevice
            };
            make_node(to, &name, node, meta.mode() & 0o7777, meta.rdev())?;
            let owner = rustix::fs::Uid::from_raw(meta.uid());
            let group = rustix::fs::Gid::from_raw(meta.gid());
            rustix::fs::chownat(
                to,
                name.as_str(),
                Some(owner),
                Some(group),
                AtFlags::empty(),
            )?;
        }
    }
    Ok(())
}

/// One device of the client below `tree`, with the owner and mode it has on the host. What is there already is used.
pub(crate) fn device(tree: BorrowedFd<'_>, rest: &str, node: &DeviceNode) -> io::Result<()> {
    let (parent, name) = rest.rsplit_once('/').unwrap_or(("", rest));
    let dir = crate::sys::ensure_dir(tree, parent)?;
    let kind = if node.block {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    match make_node(dir.as_fd(), name, kind, node.mode & 0o7777, node.device) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(e),
    }
    let owner = rustix::fs::Uid::from_raw(node.uid);
    let group = rustix::fs::Gid::from_raw(node.gid);
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::chownat(
        &dir,
        name,
        Some(owner),
        Some(group),
        flags,
    )?)
}

/// The host's /dev/shm.
pub(crate) fn host_shm() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, "/dev/shm", flags)?;
    make_private(tree.as_fd(), 0, false)?;
    Ok(tree)
}

/// /dev/shm.
pub(crate) fn shm(size_bytes: u64) -> io::Result<OwnedFd> {
    new_fs(
        "tmpfs",
        "shm",
        &[("mode", "1777"), ("size", &size_bytes.to_string())],
        nosuid_nodev_noexec(),
    )
}

pub(crate) fn nosuid_nodev_noexec() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
}

/// An own devpts. It belongs to no namespace, so it can be made here and used before the container exists.
pub(crate) fn devpts(remap: Option<&Remap>) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let gid = remap.map_or(Some(TTY_GROUP), |remap| remap.host_gid(TTY_GROUP));
    let gid = gid.ok_or(io::ErrorKind::InvalidInput)?.to_string();
    let options = [
        ("newinstance", ""),
        ("ptmxmode", "0666"),
        ("mode", "0620"),
        ("gid", gid.as_str()),
    ];
    let devpts = new_fs("devpts", "devpts", &options, attributes)?;
    if let Some((uid, gid)) = remap.map(Remap::root) {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(uid),
            rustix::fs::Gid::from_raw(gid),
        );
        for name in ["", "ptmx"] {
            let flags = AtFlags::EMPTY_PATH;
            rustix::fs::chownat(&devpts, name, Some(uid), Some(gid), flags)?;
        }
    }
    Ok(devpts)
}

/// A terminal of that devpts (its first: /dev/pts/0): master and slave.
pub(crate) fn terminal(
    devpts: BorrowedFd<'_>,
    size: Option<(u16, u16)>,
) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(devpts, "ptmx", flags, Mode::empty())?;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let open = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and returns a new descriptor.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, open) };
    if slave < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    if let Some((rows, columns)) = size {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&master, size)?;
    }
    Ok((master, slave))
}
