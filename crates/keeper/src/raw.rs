//! System calls as the child may make them: no heap, no locks, no libc wrapper that talks to other threads.
//!
//! The child of a vfork-like clone shares the keeper's memory (and `errno`) while the keeper is stopped, so the plain
//! `syscall(2)` function is safe there; wrappers that keep state of their own (setuid, fork handlers) are not.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicI32;

mod process;

pub use process::{fork, kill, read, read_at, seek, send, wait_for, wait_readable};

/// An errno.
pub type Errno = i32;
/// What a call returns.
pub type SysResult<T = ()> = Result<T, Errno>;

const EMPTY: &CStr = c"";

fn errno() -> Errno {
    // SAFETY: glibc always returns a valid pointer.
    unsafe { *libc::__errno_location() }
}

/// # Safety
/// As for the system call: pointers among the arguments must be valid for what the kernel does with them.
pub unsafe fn sys(number: libc::c_long, args: &[usize]) -> SysResult<usize> {
    let arg = |i: usize| args.get(i).copied().unwrap_or(0);
    // SAFETY: the caller's promise; unused arguments are ignored by the kernel.
    let result = unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    if result < 0 {
        Err(errno())
    } else {
        Ok(result as usize)
    }
}

fn path(s: &CStr) -> usize {
    s.as_ptr() as usize
}

/// A call whose arguments are only numbers and C strings that live through it.
fn call(number: libc::c_long, args: &[usize]) -> SysResult<usize> {
    // SAFETY: private; every caller in this file passes only numbers, or addresses of live objects of the size the
    // kernel expects there.
    unsafe { sys(number, args) }
}

pub fn openat2(dir: RawFd, at: &CStr, flags: i32, resolve: u64) -> SysResult<RawFd> {
    let how: [u64; 3] = [flags as u64, 0, resolve];
    let fd = call(
        libc::SYS_openat2,
        &[
            dir as usize,
            path(at),
            how.as_ptr() as usize,
            size_of_val(&how),
        ],
    )?;
    Ok(fd as RawFd)
}

/// Resolution inside the working directory as if it were the root.
pub const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;

/// The object at a path of the container.
pub fn resolve(at: &CStr, no_symlinks: bool) -> SysResult<RawFd> {
    let resolve = if no_symlinks {
        IN_ROOT | libc::RESOLVE_NO_SYMLINKS
    } else {
        IN_ROOT
    };
    openat2(libc::AT_FDCWD, at, libc::O_PATH | libc::O_CLOEXEC, resolve)
}

pub fn close(fd: RawFd) {
    // Nothing can be done about an error, and none is possible for the descriptors closed here.
    let _ = call(libc::SYS_close, &[fd as usize]);
}

pub fn close_range(first: u32, last: u32, flags: u32) -> SysResult {
    call(
        libc::SYS_close_range,
        &[first as usize, last as usize, flags as usize],
    )
    .map(drop)
}

pub fn dup3(from: RawFd, to: RawFd, flags: i32) -> SysResult {
    call(
        libc::SYS_dup3,
        &[from as usize, to as usize, flags as usize],
    )
    .map(drop)
}

pub fn write(fd: RawFd, bytes: &[u8]) -> SysResult<usize> {
    call(
        libc::SYS_write,
        &[fd as usize, bytes.as_ptr() as usize, bytes.len()],
    )
}

pub fn unshare(flags: i32) -> SysResult {
    call(libc::SYS_unshare, &[flags as usize]).map(drop)
}

pub fn setns(fd: RawFd, kind: i32) -> SysResult {
    call(libc::SYS_setns, &[fd as usize, kind as usize]).map(drop)
}

pub fn setsid() -> SysResult {
    call(libc::SYS_setsid, &[]).map(drop)
}

pub fn ioctl(fd: RawFd, request: u64, arg: usize) -> SysResult {
    call(libc::SYS_ioctl, &[fd as usize, request as usize, arg]).map(drop)
}

pub fn socket(domain: i32, kind: i32) -> SysResult<RawFd> {
    call(libc::SYS_socket, &[domain as usize, kind as usize, 0]).map(|fd| fd as RawFd)
}

pub fn fchdir(fd: RawFd) -> SysResult {
    call(libc::SYS_fchdir, &[fd as usize]).map(drop)
}

/// A timer that is readable after so many ms, at least one.
pub fn timer(ms: u32) -> SysResult<RawFd> {
    let flags = (libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) as usize;
    let fd = call(
        libc::SYS_timerfd_create,
        &[libc::CLOCK_MONOTONIC as usize, flags],
    )?;
    // Interval and first time, each seconds and nanoseconds.
    let ms = i64::from(ms.max(1));
    let once: [i64; 4] = [0, 0, ms / 1000, ms % 1000 * 1_000_000];
    let args = [fd, 0, once.as_ptr() as usize, 0];
    match call(libc::SYS_timerfd_settime, &args) {
        Ok(_) => Ok(fd as RawFd),
        Err(errno) => {
            close(fd as RawFd);
            Err(errno)
        }
    }
}

/// The size of a terminal.
pub fn set_window_size(terminal: RawFd, rows: u16, columns: u16) -> SysResult {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    ioctl(terminal, libc::TIOCSWINSZ, &raw const size as usize)
}

pub fn chroot(at: &CStr) -> SysResult {
    call(libc::SYS_chroot, &[path(at)]).map(drop)
}

/// Makes the mount at `at` and all below it private.
pub fn make_private(at: &CStr) -> SysResult {
    let flags = (libc::MS_REC | libc::MS_PRIVATE) as usize;
    call(libc::SYS_mount, &[0, path(at), 0, flags, 0]).map(drop)
}

/// Whether the process is a child of the caller, so that its end can be waited for.
pub fn is_child(pidfd: RawFd) -> SysResult {
    let flags = (libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) as usize;
    call(
        libc::SYS_waitid,
        &[libc::P_PIDFD as usize, pidfd as usize, 0, flags, 0],
    )
    .map(drop)
}

pub fn chdir(at: &CStr) -> SysResult {
    call(libc::SYS_chdir, &[path(at)]).map(drop)
}

pub fn mkdir(at: &CStr, mode: u32) -> SysResult {
    call(
        libc::SYS_mkdirat,
        &[libc::AT_FDCWD as usize, path(at), mode as usize],
    )
    .map(drop)
}

/// A character device below a directory; the process' umask takes from the mode.
pub fn make_char_device(dir: RawFd, at: &CStr, mode: u32, device: libc::dev_t) -> SysResult {
    let mode = (libc::S_IFCHR | mode) as usize;
    let args = [dir as usize, path(at), mode, device as usize];
    call(libc::SYS_mknodat, &args).map(drop)
}

/// First byte of the working directory's path: `/` unless it cannot be reached from the root.
pub fn cwd_start() -> SysResult<u8> {
    let mut buf = [0u8; 4096];
    call(libc::SYS_getcwd, &[buf.as_mut_ptr() as usize, buf.len()])?;
    Ok(buf.first().copied().unwrap_or(0))
}

pub fn pivot_root(new: &CStr, old: &CStr) -> SysResult {
    call(libc::SYS_pivot_root, &[path(new), path(old)]).map(drop)
}

pub fn umount(at: &CStr, flags: i32) -> SysResult {
    call(libc::SYS_umount2, &[path(at), flags as usize]).map(drop)
}

/// Attaches a detached tree at what `target` refers to.
pub fn move_mount(tree: RawFd, target: RawFd) -> SysResult {
    const F_EMPTY_PATH: usize = 4;
    const T_EMPTY_PATH: usize = 0x40;
    let flags = F_EMPTY_PATH | T_EMPTY_PATH;
    call(
        libc::SYS_move_mount,
        &[
            tree as usize,
            path(EMPTY),
            target as usize,
            path(EMPTY),
            flags,
        ],
    )
    .map(drop)
}

/// A detached copy of the mount at an open file; with the mounts below it if `recursive`.
pub fn clone_tree(fd: RawFd, recursive: bool) -> SysResult<RawFd> {
    let mut flags =
        libc::OPEN_TREE_CLONE as i32 | libc::OPEN_TREE_CLOEXEC as i32 | libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    call(
        libc::SYS_open_tree,
        &[fd as usize, path(EMPTY), flags as usize],
    )
    .map(|fd| fd as RawFd)
}

pub const MOUNT_ATTR_RDONLY: u64 = 1;

pub fn mount_readonly(fd: RawFd) -> SysResult {
    let attributes: [u64; 4] = [MOUNT_ATTR_RDONLY, 0, 0, 0];
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let args = [
        fd as usize,
        path(EMPTY),
        flags as usize,
        attributes.as_ptr() as usize,
        size_of_val(&attributes),
    ];
    call(libc::SYS_mount_setattr, &args).map(drop)
}

/// A new, detached file system.
pub fn new_fs(kind: &CStr, attributes: u64) -> SysResult<RawFd> {
    const FSOPEN_CLOEXEC: usize = 1;
    const FSCONFIG_SET_FLAG: usize = 0;
    const FSCONFIG_SET_STRING: usize = 1;
    const FSCONFIG_CMD_CREATE: usize = 6;
    const FSMOUNT_CLOEXEC: usize = 1;
    let fs = call(libc::SYS_fsopen, &[path(kind), FSOPEN_CLOEXEC])?;
    let source = [fs, FSCONFIG_SET_STRING, path(c"source"), path(kind), 0];
    // What nobody may write to is read-only itself, not just where it is mounted.
    let readonly = [fs, FSCONFIG_SET_FLAG, path(c"ro"), 0, 0];
    let mount = call(libc::SYS_fsconfig, &source)
        .and_then(|n| match attributes & libc::MOUNT_ATTR_RDONLY {
            0 => Ok(n),
            _ => call(libc::SYS_fsconfig, &readonly),
        })
        .and_then(|_| call(libc::SYS_fsconfig, &[fs, FSCONFIG_CMD_CREATE, 0, 0, 0]))
        .and_then(|_| {
            call(
                libc::SYS_fsmount,
                &[fs, FSMOUNT_CLOEXEC, attributes as usize],
            )
        });
    close(fs as RawFd);
    mount.map(|fd| fd as RawFd)
}

/// What an open file is.
pub fn stat_of(fd: RawFd) -> SysResult<libc::stat> {
    // SAFETY: all-zero is a valid `stat`.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let args = [
        fd as usize,
        path(EMPTY),
        &raw mut stat as usize,
        libc::AT_EMPTY_PATH as usize,
    ];
    call(libc::SYS_newfstatat, &args)?;
    Ok(stat)
}

/// Type and permissions of what a path leads to.
pub fn mode_at(at: &CStr) -> SysResult<u32> {
    // SAFETY: all-zero is a valid `stat`.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    call(
        libc::SYS_newfstatat,
        &[libc::AT_FDCWD as usize, path(at), &raw mut stat as usize, 0],
    )?;
    Ok(stat.st_mode)
}

/// Whether the effective user may execute it.
pub fn may_execute(at: &CStr) -> SysResult {
    let flags = libc::AT_EACCESS as usize;
    call(
        libc::SYS_faccessat2,
        &[
            libc::AT_FDCWD as usize,
            path(at),
            libc::X_OK as usize,
            flags,
        ],
    )
    .map(drop)
}

/// A copy of the calling process as its sibling: a child of its parent, in the new namespaces that are asked for
/// (`CLONE_NEW*`), born into the process ids that were joined. Its pid as the caller sees it, which is in `pid` before the
/// copy runs; 0 in the new process.
pub fn fork_sibling(namespaces: i32, pid: &AtomicI32) -> SysResult<i32> {
    let flags = (libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID | libc::SIGCHLD) as usize;
    let args = [flags | namespaces as usize, 0, pid.as_ptr() as usize, 0, 0];
    call(libc::SYS_clone, &args).map(|pid| pid as i32)
}

/// Both ends of a pipe, reading end first; they close on exec.
pub fn pipe() -> SysResult<[RawFd; 2]> {
    let mut ends: [RawFd; 2] = [-1; 2];
    let args = [ends.as_mut_ptr() as usize, libc::O_CLOEXEC as usize];
    call(libc::SYS_pipe2, &args).map(|_| ends)
}

/// Reads one byte; `None` at the end.
pub fn read_byte(fd: RawFd) -> SysResult<Option<u8>> {
    let mut byte = 0u8;
    let n = call(libc::SYS_read, &[fd as usize, &raw mut byte as usize, 1])?;
    Ok((n == 1).then_some(byte))
}

fn advise<T>(object: &T, advice: i32) -> SysResult {
    let page = std::ptr::from_ref(object) as usize;
    call(libc::SYS_madvise, &[page, size_of::<T>(), advice as usize]).map(drop)
}

/// Mappings from here on are not in forks of the calling process.
pub fn keep_pages_from_forks(start: usize, bytes: usize) -> SysResult {
    let advice = libc::MADV_DONTFORK as usize;
    call(libc::SYS_madvise, &[start, bytes, advice]).map(drop)
}

/// The object, which begins a mapping of its own, is not in forks of the calling process.
pub fn keep_from_forks<T>(object: &T) -> SysResult {
    advise(object, libc::MADV_DONTFORK)
}

/// Takes [`keep_from_forks`] back.
pub fn give_to_forks<T>(object: &T) -> SysResult {
    advise(object, libc::MADV_DOFORK)
}

pub fn sethostname(name: &CStr) -> SysResult {
    call(libc::SYS_sethostname, &[path(name), name.count_bytes()]).map(drop)
}

pub fn setdomainname(name: &CStr) -> SysResult {
    call(libc::SYS_setdomainname, &[path(name), name.count_bytes()]).map(drop)
}

pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> SysResult {
    let limit: [u64; 2] = [soft, hard];
    call(
        libc::SYS_prlimit64,
        &[0, resource as usize, limit.as_ptr() as usize, 0],
    )
    .map(drop)
}

/// Soft and hard limit of the calling process.
pub fn rlimit(resource: u32) -> SysResult<(u64, u64)> {
    let mut limit: [u64; 2] = [0; 2];
    let args = [0, resource as usize, 0, limit.as_mut_ptr() as usize];
    call(libc::SYS_prlimit64, &args)?;
    Ok((limit[0], limit[1]))
}

pub fn setgroups(groups: &[u32]) -> SysResult {
    call(
        libc::SYS_setgroups,
        &[groups.len(), groups.as_ptr() as usize],
    )
    .map(drop)
}

pub fn setresgid(gid: u32) -> SysResult {
    call(libc::SYS_setresgid, &[gid as usize; 3]).map(drop)
}

pub fn setresuid(uid: u32) -> SysResult {
    call(libc::SYS_setresuid, &[uid as usize; 3]).map(drop)
}

pub fn prctl(option: i32, args: [usize; 4]) -> SysResult<usize> {
    call(
        libc::SYS_prctl,
        &[option as usize, args[0], args[1], args[2], args[3]],
    )
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Sets the calling task's capability sets.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> SysResult {
    let header: [u32; 2] = [CAPABILITY_VERSION_3, 0];
    let low = |v: u64| v as u32;
    let high = |v: u64| (v >> 32) as u32;
    let data: [u32; 6] = [
        low(effective),
        low(permitted),
        low(inheritable),
        high(effective),
        high(permitted),
        high(inheritable),
    ];
    call(
        libc::SYS_capset,
        &[header.as_ptr() as usize, data.as_ptr() as usize],
    )
    .map(drop)
}

/// The calling task's permitted capabilities.
pub fn permitted_capabilities() -> SysResult<u64> {
    let mut header: [u32; 2] = [CAPABILITY_VERSION_3, 0];
    let mut data = [0u32; 6];
    call(
        libc::SYS_capget,
        &[header.as_mut_ptr() as usize, data.as_mut_ptr() as usize],
    )?;
    Ok(u64::from(data[1]) | u64::from(data[4]) << 32)
}

pub fn load_seccomp(program: &libc::sock_fprog) -> SysResult {
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    // SAFETY: the program points to `len` instructions that live through the call.
    unsafe {
        sys(
            libc::SYS_seccomp,
            &[SECCOMP_SET_MODE_FILTER, 0, &raw const *program as usize],
        )
    }
    .map(drop)
}

/// Leaves the session keyring of whoever started us.
pub fn new_session_keyring() -> SysResult {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    call(libc::SYS_keyctl, &[KEYCTL_JOIN_SESSION_KEYRING, 0]).map(drop)
}

const SIGNALS: usize = 64;
const SIGSET_BYTES: usize = 8;

/// Puts these signals (bit `n - 1` for signal `n`) at their default.
pub fn reset_signal_actions(signals: u64) -> SysResult {
    // The kernel's sigaction: handler, flags, restorer, mask.
    let default: [usize; 4] = [libc::SIG_DFL, 0, 0, 0];
    for signal in (1..=SIGNALS).filter(|signal| signals & signal_bit(*signal) != 0) {
        call(
            libc::SYS_rt_sigaction,
            &[signal, default.as_ptr() as usize, 0, SIGSET_BYTES],
        )?;
    }
    Ok(())
}

/// The signals that this process ignores.
pub fn ignored_signals() -> SysResult<u64> {
    let mut ignored = 0;
    for signal in 1..=SIGNALS {
        let mut action = [0usize; 4];
        let place = action.as_mut_ptr() as usize;
        call(libc::SYS_rt_sigaction, &[signal, 0, place, SIGSET_BYTES])?;
        if action[0] == libc::SIG_IGN {
            ignored |= signal_bit(signal);
        }
    }
    Ok(ignored)
}

fn signal_bit(signal: usize) -> u64 {
    1 << (signal - 1)
}

/// Blocks all signals, or none.
pub fn block_signals(block: bool) -> SysResult {
    let set: u64 = if block { u64::MAX } else { 0 };
    let how = libc::SIG_SETMASK as usize;
    call(
        libc::SYS_rt_sigprocmask,
        &[how, &raw const set as usize, 0, SIGSET_BYTES],
    )
    .map(drop)
}

pub fn umask(mask: u32) {
    // Cannot fail.
    let _ = call(libc::SYS_umask, &[mask as usize]);
}

/// # Safety
/// `argv` and `env` must end with a null pointer and point to live C strings.
pub unsafe fn execve(
    at: &CStr,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
) -> Errno {
    // SAFETY: the caller's promise.
    let result = unsafe {
        sys(
            libc::SYS_execve,
            &[path(at), argv.as_ptr() as usize, env.as_ptr() as usize],
        )
    };
    result.err().unwrap_or(0)
}

/// Waits for a signal.
pub fn pause() {
    // It only ever ends by one.
    let _ = call(libc::SYS_ppoll, &[0, 0, 0, 0, 0]);
}

/// Ends the calling process at once.
pub fn exit(code: i32) -> ! {
    let _ = call(libc::SYS_exit_group, &[code as usize]);
    let _ = call(libc::SYS_exit, &[code as usize]);
    // A filter forbids both, and the keeper waits: an illegal instruction ends any process, the first of its namespace
    // too, since every signal is at its default.
    // SAFETY: does not return.
    unsafe { std::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}

/// clone3. In the child `entry(arg)` runs, on the given stack, or with `stack` zero on a copy of the caller's.
///
/// # Safety
/// With CLONE_VM the stack must be free for the child and `entry` must only touch memory that the parent does not use
/// meanwhile (CLONE_VFORK stops it). `entry` must not return.
#[cfg(target_arch = "x86_64")]
pub unsafe fn clone3(
    args: &libc::clone_args,
    entry: extern "C" fn(*const libc::c_void) -> !,
    arg: *const libc::c_void,
) -> SysResult<i32> {
    let result: isize;
    // SAFETY: the parent comes back behind the call with registers as declared; the child, whose stack pointer is the
    // top of its stack (16-aligned) or a copy of ours (aligned before the call), enters `entry` and never comes back.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "and rsp, -16",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") arg,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if result < 0 {
        Err(-result as Errno)
    } else {
        Ok(result as i32)
    }
}
