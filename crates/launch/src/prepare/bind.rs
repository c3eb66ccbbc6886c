//! Bind mounts of the client, as detached trees.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags};

use super::{rootfs, rootfs_old};
use crate::error::LaunchError;
use crate::remap::Remap;
use crate::spec::{BindMount, Propagation, Readonly};
use crate::sys::{Kind, set_mount_attributes, set_mount_propagation};

/// What may be mounted over below /proc (the OCI runtime's list).
const PROC_FILES: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Makes the tree, with its attributes.
pub(crate) fn mount(
    bind: &BindMount,
    remap: Option<&Remap>,
) -> Result<(OwnedFd, Kind), LaunchError> {
    // A private mount that becomes a slave stays private.
    if !(bind.propagation_optional && bind.propagation == Propagation::Slave) {
        check_propagation(bind)?;
    }
    let about = bind.source.display().to_string();
    let failed = |step: &'static str| {
        let about = about.clone();
        move |e: io::Error| LaunchError::prepare(step, about, e)
    };
    let tree = clone(bind, remap)?;
    let propagation = match bind.propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => libc::MS_SHARED,
    };
    set_mount_propagation(tree.as_fd(), propagation, !bind.propagation_top_only)
        .map_err(failed("set the propagation of"))?;
    set_readonly(&tree, bind.readonly).map_err(failed("make read-only"))?;
    if bind.attributes != 0 {
        set_mount_attributes(tree.as_fd(), bind.attributes, false)
            .map_err(failed("set the attributes of"))?;
    }
    let kind = kind_of(&tree).map_err(failed("stat"))?;
    Ok((tree, kind))
}

pub(crate) fn kind_of(tree: &OwnedFd) -> io::Result<Kind> {
    let stat = rustix::fs::fstat(tree)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        _ => Kind::File,
    })
}

/// Docker's words for a directory on a file, or a file on a directory.
pub(crate) fn kinds_differ(bind: &BindMount) -> LaunchError {
    let (source, target) = (bind.source.display(), &bind.target);
    LaunchError::MountKind {
        what: format!(
            "error mounting \"{source}\" to rootfs at \"{target}\": mount src={source}, dst={target}, flags=MS_BIND|MS_REC"
        ),
    }
}

/// Of an image the owners are the container's.
fn clone(bind: &BindMount, remap: Option<&Remap>) -> Result<OwnedFd, LaunchError> {
    let about = bind.source.display().to_string();
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if !bind.non_recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let Some(subpath) = bind.subpath.as_deref().filter(|s| !s.is_empty()) else {
        if !bind.layers.is_empty() {
            return rootfs::union(&bind.layers, remap, &about);
        }
        let tree = rustix::mount::open_tree(rustix::fs::CWD, &bind.source, flags);
        return tree.map_err(|e| match e {
            rustix::io::Errno::NOTDIR => LaunchError::MountKind {
                what: format!("failed to fulfil mount request: open {about}"),
            },
            _ => LaunchError::prepare("bind", about, e),
        });
    };
    let not_there = |e: io::Error| LaunchError::Subpath {
        base: about.clone(),
        subpath: subpath.to_owned(),
        source: e,
    };
    let find = |top: &OwnedFd| -> io::Result<OwnedFd> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let path = OFlags::PATH | OFlags::CLOEXEC;
        let inner = rustix::fs::openat2(top, subpath, path, Mode::empty(), beneath)?;
        Ok(inner)
    };
    // Where owners can be mapped, or layers are mounts that are attached nowhere, another such mount can be copied in
    // part too (6.15).
    let detached = remap.is_some() || bind.layers.iter().any(|l| l.mount().is_some());
    let top = match (bind.layers.is_empty(), detached) {
        (true, _) => {
            let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(&bind.source, directory, Mode::empty())
                .map_err(|e| LaunchError::prepare("bind", &about, e))?
        }
        (false, true) => rootfs::union(&bind.layers, remap, &about)?,
        (false, false) => {
            return rootfs_old::part_of_union(&bind.layers, find).map_err(|(step, e)| match step {
                rootfs_old::FIND => not_there(e),
                _ => LaunchError::prepare(step, &about, e),
            });
        }
    };
    let inner = find(&top).map_err(not_there)?;
    rustix::mount::open_tree(&inner, "", flags | OpenTreeFlags::AT_EMPTY_PATH)
        .map_err(|e| LaunchError::prepare("bind", &about, e))
}

fn set_readonly(tree: &OwnedFd, readonly: Readonly) -> io::Result<()> {
    let bit = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    let set = |recursive| set_mount_attributes(tree.as_fd(), bit, recursive);
    match readonly {
        Readonly::No => Ok(()),
        Readonly::TopOnly => set(false),
        Readonly::ForceRecursive => set(true),
        Readonly::Recursive => set(true).or_else(|_| set(false)),
    }
}

/// Nothing is mounted over the kernel's view of processes, except the files that tools of containers replace. `found` is
/// where links lead the target to.
pub(crate) fn check_target(
    source: &dyn std::fmt::Display,
    target: &str,
    found: &str,
) -> Result<(), LaunchError> {
    let inside = found == "/proc" || found.starts_with("/proc/");
    if inside && !PROC_FILES.contains(&found) {
        return Err(LaunchError::Mount {
            source_name: source.to_string(),
            target: target.to_owned(),
            reason: format!(
                "create mountpoint for {target} mount: check proc-safety of {target} mount: {found:?} cannot be \
                 mounted because it is inside /proc"
            ),
        });
    }
    Ok(())
}

/// A mount that is to share with the host needs a source that does.
fn check_propagation(bind: &BindMount) -> Result<(), LaunchError> {
    let (needed, text): (&[&str], &str) = match bind.propagation {
        Propagation::Private => return Ok(()),
        Propagation::Slave => (&["shared:", "master:"], "a shared or slave mount"),
        Propagation::Shared => (&["shared:"], "a shared mount"),
    };
    let about = bind.source.display().to_string();
    let failed = |e: io::Error| LaunchError::prepare("find the mount of", about.clone(), e);
    let real = bind.source.canonicalize().map_err(failed)?;
    let table = std::fs::read("/proc/self/mountinfo").map_err(failed)?;
    let Some((point, fields)) = mount_of(&table, &real) else {
        return Err(failed(io::ErrorKind::NotFound.into()));
    };
    let has = |field: &[u8]| needed.iter().any(|n| field.starts_with(n.as_bytes()));
    if fields.iter().any(|f| has(f)) {
        return Ok(());
    }
    Err(LaunchError::Propagation {
        path: about,
        mount: point.display().to_string(),
        needed: text.to_owned(),
    })
}

/// The mount a path lies on, and its optional fields.
fn mount_of<'t>(table: &'t [u8], path: &Path) -> Option<(PathBuf, Vec<&'t [u8]>)> {
    let mut best: Option<(PathBuf, Vec<&[u8]>)> = None;
    for line in table.split(|b| *b == b'\n') {
        let mut words = line.split(|b| *b == b' ');
        let Some(point) = words.nth(4) else { continue };
        let point = unescape(point);
        let fields = words.skip(1).take_while(|w| *w != b"-").collect();
        let deeper = best.as_ref().is_none_or(|(old, _)| {
            point.as_os_str().as_bytes().len() >= old.as_os_str().as_bytes().len()
        });
        if deeper && path.starts_with(&point) {
            best = Some((point, fields));
        }
    }
    best
}

/// Undoes the octal escapes of the mount table.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let digits = text.get(at + 1..at + 4).filter(|_| byte == b'\\');
        let code = digits
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        out.push(code.unwrap_or(byte));
        at += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"1 0 8:1 / / rw - ext4 /dev/a rw\n\
        2 1 8:1 / /a\\040b rw,relatime shared:7 master:3 - ext4 /dev/b rw\n";

    #[test]
    fn mounts_of_paths() {
        let (point, fields) = mount_of(TABLE, Path::new("/a b/c")).expect("found");
        assert_eq!(point, Path::new("/a b"));
        assert_eq!(fields, [&b"shared:7"[..], b"master:3"]);
        let (point, fields) = mount_of(TABLE, Path::new("/a bc")).expect("found");
        assert_eq!((point.as_path(), fields.len()), (Path::new("/"), 0));
    }

    #[test]
    fn proc_is_left_alone() {
        let check = |found: &str| check_target(&"volume", "/x", found);
        assert!(check("/proc").is_err());
        assert!(check("/proc/sys/kernel").is_err());
        assert!(check("/proc/cpuinfo").is_ok());
        assert!(check("/process").is_ok());
    }
}
