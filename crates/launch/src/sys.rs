//! Kernel calls this crate needs and `rustix` lacks, and paths inside a root file system.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use gantry_keeper_proto::process::Stat;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

/// Symbolic links followed on the way to one path, as the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Path resolution that cannot leave the root.
pub(crate) const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// What a mount target must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// Sets `MOUNT_ATTR_*` bits of a mount.
pub(crate) fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    set: u64,
    recursive: bool,
) -> io::Result<()> {
    mount_setattr(mount, attributes(set, 0, 0), recursive)
}

/// Shows the owners of a detached mount by the maps of a user namespace.
pub(crate) fn set_id_map(mount: BorrowedFd<'_>, user_namespace: &OwnedFd) -> io::Result<()> {
    let namespace = user_namespace.as_raw_fd() as u64;
    let set = u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits());
    mount_setattr(
        mount,
        libc::mount_attr {
            userns_fd: namespace,
            ..attributes(set, 0, 0)
        },
        false,
    )
}

/// Sets and clears `MOUNT_ATTR_*` bits of a mount.
pub(crate) fn change_mount_attributes(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
) -> io::Result<()> {
    mount_setattr(mount, attributes(set, clear, 0), false)
}

/// Takes a copy of a host's mount out of its peer group, and sets `MOUNT_ATTR_*` bits, all in one call: a mount made below
/// it in the container must not appear on the host, nor the other way round.
pub(crate) fn make_private(mount: BorrowedFd<'_>, set: u64, recursive: bool) -> io::Result<()> {
    mount_setattr(mount, attributes(set, 0, libc::MS_PRIVATE), recursive)
}

/// Sets the propagation of a mount: one of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`.
pub(crate) fn set_mount_propagation(
    mount: BorrowedFd<'_>,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    mount_setattr(mount, attributes(0, 0, propagation), recursive)
}

fn attributes(set: u64, clear: u64, propagation: u64) -> libc::mount_attr {
    // How access times are kept is one choice: the old one goes.
    let times = [libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR_STRICTATIME];
    let old_time = match times.iter().any(|bit| set & bit != 0) {
        true => libc::MOUNT_ATTR__ATIME,
        false => 0,
    };
    libc::mount_attr {
        attr_set: set,
        attr_clr: clear | old_time,
        propagation,
        userns_fd: 0,
    }
}

fn mount_setattr(
    mount: BorrowedFd<'_>,
    attributes: libc::mount_attr,
    recursive: bool,
) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated and the struct lives through the call, which reads it only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Makes sure that `path` exists below `root`, as a mount target: directories 0755, files 0644 are made where they are
/// missing. Symbolic links are followed inside the root, dangling ones to where they point.
pub(crate) fn ensure(root: BorrowedFd<'_>, path: &str, kind: Kind) -> io::Result<()> {
    ensure_limited(root, path, kind, MAX_LINKS).map_err(io::Error::from)
}

fn ensure_limited(
    root: BorrowedFd<'_>,
    path: &str,
    kind: Kind,
    links: usize,
) -> rustix::io::Result<()> {
    let open = |path: &str| {
        rustix::fs::openat2(
            root,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            IN_ROOT,
        )
    };
    let parts: Vec<&str> = path
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    if parts.is_empty() {
        return Ok(());
    }
    let whole = parts.join("/");
    match open(&whole) {
        Ok(_) => return Ok(()),
        Err(Errno::NOENT) => {}
        Err(e) => return Err(e),
    }
    let mut parent: OwnedFd = open("/")?;
    for i in 0..parts.len() {
        let prefix = parts[..=i].join("/");
        let last = i + 1 == parts.len();
        match open(&prefix) {
            Ok(fd) => {
                parent = fd;
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
        match make(
            parent.as_fd(),
            parts[i],
            if last { kind } else { Kind::Directory },
        ) {
            Ok(()) => parent = open(&prefix)?,
            Err(Errno::EXIST) => {
                // A dangling link (or someone was faster): go where it points.
                let left = links.checked_sub(1).ok_or(Errno::LOOP)?;
                let target = match rustix::fs::readlinkat(&parent, parts[i], Vec::new()) {
                    Ok(target) => target.to_string_lossy().into_owned(),
                    Err(Errno::INVAL) => return ensure_limited(root, path, kind, left),
                    Err(e) => return Err(e),
                };
                let base = if target.starts_with('/') {
                    String::new()
                } else {
                    parts[..i].join("/")
                };
                let next = format!("{base}/{target}/{}", parts[i + 1..].join("/"));
                return ensure_limited(root, &next, kind, left);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn make(parent: BorrowedFd<'_>, name: &str, kind: Kind) -> rustix::io::Result<()> {
    match kind {
        Kind::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    }
}

/// Opens a directory below `root`, making what is missing on the way.
pub(crate) fn ensure_dir(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    ensure(root, path, Kind::Directory)?;
    let path = if path.is_empty() { "." } else { path };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        IN_ROOT,
    )?)
}

/// Makes a device node with exactly this mode, whatever the umask.
pub(crate) fn make_node(
    dir: BorrowedFd<'_>,
    name: &str,
    kind: FileType,
    mode: u32,
    device: u64,
) -> io::Result<()> {
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::mknodat(dir, name, kind, mode, device)?;
    Ok(rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?)
}

/// Field 22 of /proc/PID/stat: with the pid it names a process for good.
pub fn process_start_time_ticks(pid: i32) -> io::Result<u64> {
    let file = std::fs::File::open(format!("/proc/{pid}/stat"))?;
    Ok(Stat::read_file(file)?.start_time_ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().expect("tempdir");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir.path(), flags, Mode::empty()).expect("open");
        (dir, fd)
    }

    #[test]
    fn targets_are_made_inside_the_root() {
        let (dir, root) = dir();
        ensure(root.as_fd(), "/a/b/c", Kind::Directory).expect("directories");
        ensure(root.as_fd(), "/a/b/f", Kind::File).expect("file");
        ensure(root.as_fd(), "/a/b/f", Kind::File).expect("again");
        assert!(dir.path().join("a/b/c").is_dir());
        assert!(dir.path().join("a/b/f").is_file());
    }

    #[test]
    fn dangling_links_are_followed_inside_the_root() {
        let (dir, root) = dir();
        let link =
            |target: &str, name: &str| std::os::unix::fs::symlink(target, dir.path().join(name));
        std::fs::create_dir(dir.path().join("etc")).expect("mkdir");
        link("../run/systemd/resolv.conf", "etc/resolv.conf").expect("symlink");
        link("/../../escape", "out").expect("symlink");
        link("loop", "loop").expect("symlink");
        ensure(root.as_fd(), "/etc/resolv.conf", Kind::File).expect("relative");
        assert!(dir.path().join("run/systemd/resolv.conf").is_file());
        ensure(root.as_fd(), "/out/x", Kind::Directory).expect("absolute");
        assert!(dir.path().join("escape/x").is_dir());
        assert!(ensure(root.as_fd(), "/loop/x", Kind::File).is_err());
    }

    #[test]
    fn a_process_has_a_start_time() {
        let own = process_start_time_ticks(std::process::id() as i32).expect("own stat");
        assert!(own > 0);
    }
}
