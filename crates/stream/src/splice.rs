//! Moving pages instead of copying bytes: splice(2), tee(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::pipe::{PipeFlags, SpliceFlags};

/// Size of a pipe that bulk goes through (the kernel's limit for those without privileges).
pub const BULK_PIPE_BYTES: usize = 1024 * 1024;

/// A pipe of [`BULK_PIPE_BYTES`]: read end, write end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    rustix::pipe::fcntl_setpipe_size(&write, BULK_PIPE_BYTES)?;
    Ok((read, write))
}

/// Moves up to `bytes`, without waiting; `None` if nothing can be moved now. One of the two must be a pipe.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: usize) -> io::Result<Option<usize>> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    now(|| rustix::pipe::splice(from, None, to, None, bytes, flags))
}

/// Makes up to `bytes` of one pipe appear in another one too, without waiting.
pub fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: usize) -> io::Result<Option<usize>> {
    now(|| rustix::pipe::tee(from, to, bytes, SpliceFlags::NONBLOCK))
}

/// Sends what more follows at once.
pub fn send_more(sock: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<Option<usize>> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL | SendFlags::MORE;
    now(|| rustix::net::send(sock, bytes, flags))
}

/// Bytes that a pipe holds.
pub fn held(pipe: impl AsFd) -> io::Result<usize> {
    let bytes = rustix::io::ioctl_fionread(pipe)?;
    usize::try_from(bytes).map_err(io::Error::other)
}

fn now(mut f: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match f() {
            Ok(n) => return Ok(Some(n)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}
