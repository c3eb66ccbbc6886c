//! What a container takes over from another that runs: its namespaces, its /dev/shm.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::prepare::nosuid_nodev_noexec;
use crate::sys::{change_mount_attributes, process_start_time_ticks};

/// `f_type` of a proc.
const PROC_MAGIC: i64 = 0x9fa0;

/// A namespace of a running process that is still the one we mean; `kind` is its name in /proc/PID/ns.
pub fn namespace_of(pid: i32, start_time_ticks: u64, kind: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = rustix::fs::open(format!("/proc/{pid}/ns/{kind}"), flags, Mode::empty())?;
    // Looked at after the open: if it is the same process now, it was then.
    if process_start_time_ticks(pid)? != start_time_ticks {
        return Err(Errno::SRCH.into());
    }
    Ok(namespace)
}

/// A detached copy of what is mounted at /dev/shm of a running process. Blocking: on a worker.
pub fn shm_of(pid: i32, start_time_ticks: u64) -> io::Result<OwnedFd> {
    copy_of(pid, start_time_ticks, "/dev/shm")
}

/// A detached proc of the pid namespace of a running process, which is also given. Blocking: on a worker.
///
/// # Errors
/// The kernel's. Before Linux 6.18 a proc can only be had of the process itself, which may have none.
pub fn proc_of(pid: i32, start_time_ticks: u64, namespace: &OwnedFd) -> io::Result<OwnedFd> {
    match new_proc(namespace) {
        // The kernel does not know the parameter.
        Err(Errno::INVAL) => {}
        made => return Ok(made?),
    }
    copied_proc(pid, start_time_ticks)
}

fn copied_proc(pid: i32, start_time_ticks: u64) -> io::Result<OwnedFd> {
    let proc = copy_of(pid, start_time_ticks, "/proc")?;
    if rustix::fs::fstatfs(&proc)?.f_type as i64 != PROC_MAGIC {
        let text = "the container that is joined has no proc at /proc";
        return Err(io::Error::other(text));
    }
    // It may be read-only there.
    let (set, clear) = (nosuid_nodev_noexec(), MountAttrFlags::MOUNT_ATTR_RDONLY);
    change_mount_attributes(proc.as_fd(), set.bits().into(), clear.bits().into())?;
    Ok(proc)
}

fn new_proc(namespace: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, "source", "proc")?;
    rustix::mount::fsconfig_set_fd(&fs, "pidns", namespace)?;
    rustix::mount::fsconfig_create(&fs)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    rustix::mount::fsmount(&fs, flags, nosuid_nodev_noexec())
}

/// A detached copy of what is mounted at a path of a running process.
///
/// Mounts can only be copied from inside of their namespace, and a thread that has entered one does not come back: the
/// copy is made by a thread of its own.
fn copy_of(pid: i32, start_time_ticks: u64, path: &'static str) -> io::Result<OwnedFd> {
    let namespace = namespace_of(pid, start_time_ticks, "mnt")?;
    let thread = std::thread::Builder::new()
        .name("gantry-copy".to_owned())
        .spawn(move || copy_inside(&namespace, path))?;
    match thread.join() {
        Ok(copied) => copied,
        Err(_) => Err(io::Error::other(
            "the thread that copies a mount has panicked",
        )),
    }
}

fn copy_inside(namespace: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    // SAFETY: only the file system attributes (root, working directory, umask) are unshared, no descriptor table;
    // nothing else runs on this thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    // The container may have put anything there; a link could lead to a mount that is not meant.
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), resolve)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(&found, "", clone)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_a_proc_lead_to_the_processes_of_the_namespace() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let pid = std::process::id() as i32;
        let start = process_start_time_ticks(pid).expect("start time");
        let namespace = namespace_of(pid, start, "pid").expect("namespace");
        let made = new_proc(&namespace).map_err(Some);
        let copied = copied_proc(pid, start).map_err(|e| Errno::from_io_error(&e));
        for (proc, way) in [(made, "made"), (copied, "copied")] {
            let proc = match proc {
                // Before Linux 6.18 only the other way is there.
                Err(Some(Errno::INVAL)) if way == "made" => continue,
                proc => proc.expect(way),
            };
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&proc, format!("{pid}/stat"), flags, Mode::empty()).expect(way);
            let found = rustix::fs::fstatvfs(&proc).expect("statvfs").f_flag;
            let wanted =
                rustix::fs::StatVfsMountFlags::NOEXEC | rustix::fs::StatVfsMountFlags::NODEV;
            assert!(found.contains(wanted), "{way}: {found:?}");
        }
        assert!(copied_proc(pid, start + 1).is_err());
    }
}
