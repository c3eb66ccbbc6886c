//! Calls for programs that the child runs itself.

use std::os::fd::RawFd;

use super::{SysResult, call};

/// A child of the calling process, a copy of it, and its pidfd; pid 0 in the new process.
pub fn fork() -> SysResult<(i32, RawFd)> {
    let mut pidfd: RawFd = -1;
    let flags = (libc::CLONE_PIDFD | libc::SIGCHLD) as usize;
    let args = [flags, 0, &raw mut pidfd as usize, 0, 0];
    call(libc::SYS_clone, &args).map(|pid| (pid as i32, pidfd))
}

/// Waits until a file can be read, at most so many ms; false if it cannot.
pub fn wait_readable(fd: RawFd, ms: u32) -> SysResult<bool> {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let time = [i64::from(ms / 1000), i64::from(ms % 1000) * 1_000_000];
    let (poll, time) = (&raw mut poll as usize, time.as_ptr() as usize);
    call(libc::SYS_ppoll, &[poll, 1, time, 0, 0]).map(|n| n > 0)
}

/// Collects an ended child and says its wait status.
pub fn wait_for(pid: i32) -> SysResult<i32> {
    let mut status = 0i32;
    let args = [pid as usize, &raw mut status as usize, 0, 0];
    call(libc::SYS_wait4, &args).map(|_| status)
}

/// Sends a signal; to a process group by its negative number.
pub fn kill(pid: i32, signo: i32) -> SysResult {
    call(libc::SYS_kill, &[pid as usize, signo as usize]).map(drop)
}

/// Sends on a socket, without a signal when nobody is there any more.
pub fn send(fd: RawFd, bytes: &[u8]) -> SysResult {
    let flags = libc::MSG_NOSIGNAL as usize;
    let args = [
        fd as usize,
        bytes.as_ptr() as usize,
        bytes.len(),
        flags,
        0,
        0,
    ];
    call(libc::SYS_sendto, &args).map(drop)
}

/// Sets the position of an open file, or says it.
pub fn seek(fd: RawFd, to: i64, whence: i32) -> SysResult<usize> {
    call(
        libc::SYS_lseek,
        &[fd as usize, to as usize, whence as usize],
    )
}

/// Reads at a position.
pub fn read_at(fd: RawFd, buf: &mut [u8], offset: usize) -> SysResult<usize> {
    let args = [fd as usize, buf.as_mut_ptr() as usize, buf.len(), offset];
    call(libc::SYS_pread64, &args)
}

/// Reads what is there.
pub fn read(fd: RawFd, buf: &mut [u8]) -> SysResult<usize> {
    let args = [fd as usize, buf.as_mut_ptr() as usize, buf.len()];
    call(libc::SYS_read, &args)
}
