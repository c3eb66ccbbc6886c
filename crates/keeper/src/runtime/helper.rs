//! What a child of the keeper does before it is a command of an external runtime: it goes back to the daemon's mounts,
//! into a copy of them, and attaches there what only the runtime is to see. The host's mount table does not change.
//!
//! **Invariants**: no heap, no locks, no panics: as the child of a launch.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use gantry_keeper_proto::plan::{FdIndex, Step};

use crate::child::{Done, Status, at, at_detail};
use crate::raw::{self, SysResult};

/// Everything it needs, laid out before the fork.
pub struct Context<'a> {
    /// Where to say why it failed.
    pub status: &'a Status,
    /// Program and arguments, null-terminated; the first is `program`.
    pub argv: &'a [*const libc::c_char],
    /// The program.
    pub program: &'a CStr,
    /// Environment, null-terminated.
    pub env: &'a [*const libc::c_char],
    /// The daemon's mount namespace.
    pub mount_namespace: RawFd,
    /// The daemon's root directory.
    pub root: RawFd,
    /// Working directory.
    pub cwd: &'a CStr,
    /// Detached trees and where they are attached.
    pub trees: &'a [(FdIndex, CString)],
    /// Descriptors by their position in the plan.
    pub fds: &'a [RawFd],
    /// Directories that are covered.
    pub hidden: &'a [CString],
    /// `cgroup.procs` of a group that the process it makes is to be born in.
    pub cgroup_procs: Option<RawFd>,
    /// Standard streams.
    pub stdio: [RawFd; 3],
    /// Limit of open files.
    pub nofile: (u64, u64),
    /// Signals that the keeper ignores.
    pub ignored_signals: u64,
}

/// Entry of the child.
pub extern "C" fn entry(context: *const libc::c_void) -> ! {
    // SAFETY: the child has a copy of the keeper's memory, in which the context lives on.
    let context = unsafe { &*context.cast::<Context<'_>>() };
    if let Err(failed) = run(context) {
        context.status.set(failed);
    }
    raw::exit(1)
}

fn run(context: &Context<'_>) -> Done {
    raw::umask(0o022);
    at(
        Step::Signals,
        raw::reset_signal_actions(context.ignored_signals),
    )?;
    at(Step::Session, raw::setsid())?;
    if let Some(procs) = context.cgroup_procs {
        at(Step::CgroupAttach, raw::write(procs, b"0"))?;
    }
    private_mounts(context)?;
    for (i, path) in context.hidden.iter().enumerate() {
        let cover = at_detail(Step::RuntimeMount, i, raw::new_fs(c"tmpfs", 0))?;
        attach(cover, path, i)?;
    }
    for (i, (index, path)) in context.trees.iter().enumerate() {
        // Checked when the plan was decoded; -1 gives EBADF.
        let tree = context.fds.get(usize::from(*index)).copied();
        attach(tree.unwrap_or(-1), path, i)?;
        at_detail(Step::RuntimeMount, i, renew(path))?;
    }
    standard_streams(context)?;
    at(Step::RuntimeRoot, raw::chdir(context.cwd))?;
    let (soft, hard) = context.nofile;
    at(
        Step::Rlimit,
        raw::set_rlimit(libc::RLIMIT_NOFILE, soft, hard),
    )?;
    let close_on_exec = libc::CLOSE_RANGE_CLOEXEC;
    at(
        Step::CloseFiles,
        raw::close_range(3, u32::MAX, close_on_exec),
    )?;
    // SAFETY: both lists were made null-terminated from strings that the keeper keeps, and this is a copy of its memory.
    let errno = unsafe { raw::execve(context.program, context.argv, context.env) };
    at(Step::RuntimeExec, Err(errno))
}

fn standard_streams(context: &Context<'_>) -> Done {
    let mut null = None;
    for (to, from) in context.stdio.into_iter().enumerate() {
        let from = match null {
            _ if from > 1 => from,
            Some(null) => null,
            // The keeper's own, the host's /dev/null.
            None => *null.insert(at_detail(Step::Stdio, to, own_null())?),
        };
        if from != to as RawFd {
            at_detail(Step::Stdio, to, raw::dup3(from, to as RawFd, 0))?;
        }
    }
    Ok(())
}

/// A /dev/null of this process alone: crun gives its standard streams to the container's user, and the host's would be
/// that user's from then on.
fn own_null() -> SysResult<RawFd> {
    let dir = raw::new_fs(c"tmpfs", 0)?;
    raw::umask(0);
    let made = raw::make_char_device(dir, c"null", 0o666, libc::makedev(1, 3));
    raw::umask(0o022);
    made?;
    let null = raw::openat2(dir, c"null", libc::O_RDWR | libc::O_CLOEXEC, 0)?;
    raw::close(dir);
    Ok(null)
}

/// A copy of the daemon's mounts from which nothing travels back.
fn private_mounts(context: &Context<'_>) -> Done {
    let entered = raw::setns(context.mount_namespace, libc::CLONE_NEWNS)
        .and_then(|()| raw::fchdir(context.root))
        .and_then(|()| raw::chroot(c"."))
        .and_then(|()| raw::unshare(libc::CLONE_NEWNS))
        .and_then(|()| raw::make_private(c"/"));
    at(Step::RuntimeRoot, entered)
}

/// Puts a copy in the place of the tree just attached. The tree is older than this namespace, so the kernel lists it first,
/// and a runtime that looks for the host's control groups would find those that lie in a client's bind mount of `/`.
fn renew(path: &CStr) -> SysResult {
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    let old = raw::openat2(libc::AT_FDCWD, path, flags, 0)?;
    let copy = raw::clone_tree(old, true)?;
    raw::close(old);
    // What is mounted in a tree that shares with the host would go from the host as well.
    raw::make_private(path)?;
    raw::umount(path, libc::MNT_DETACH)?;
    let place = raw::openat2(libc::AT_FDCWD, path, flags, 0)?;
    raw::move_mount(copy, place)
}

fn attach(tree: RawFd, path: &CStr, number: usize) -> Done {
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    let attached = raw::openat2(libc::AT_FDCWD, path, flags, 0)
        .and_then(|target| raw::move_mount(tree, target));
    at_detail(Step::RuntimeMount, number, attached)
}
