//! What a container takes over from another that runs: its namespaces, its /dev/shm.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::sys::process_start_time_ticks;

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

/// A detached copy of what is mounted at /dev/shm of a running process.
///
/// Mounts can only be copied from inside of their namespace, and a thread that has entered one does not come back: the
/// copy is made by a thread of its own. Blocking: on a worker.
pub fn shm_of(pid: i32, start_time_ticks: u64) -> io::Result<OwnedFd> {
    let namespace = namespace_of(pid, start_time_ticks, "mnt")?;
    let thread = std::thread::Builder::new()
        .name("gantry-shm".to_owned())
        .spawn(move || copy_inside(&namespace))?;
    match thread.join() {
        Ok(copied) => copied,
        Err(_) => Err(io::Error::other(
            "the thread that copies /dev/shm has panicked",
        )),
    }
}

fn copy_inside(namespace: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: only the file system attributes (root, working directory, umask) are unshared, no descriptor table;
    // nothing else runs on this thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    // The container may have put anything there; a link could lead to a mount that is not meant.
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let shm = rustix::fs::openat2(rustix::fs::CWD, "/dev/shm", flags, Mode::empty(), resolve)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(&shm, "", clone)?)
}
