//! Readiness of any fd, and sockets on top of it.
//!
//! The ring is asked for readiness only (POLL_ADD through monoio's unix stream, which takes any fd); data moves by plain
//! system calls with MSG_DONTWAIT. So no buffer is owned by the kernel while a future waits, and dropping a future is
//! always legal: a cancelled POLL_ADD owns its reference to the fd until the kernel is done with it.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use monoio::net::UnixStream;
use rustix::fs::OFlags;
use rustix::net::{RecvFlags, SendFlags};

/// An fd whose readiness can be awaited on its shard.
#[derive(Debug)]
pub struct AsyncFd {
    stream: UnixStream,
    /// POLL_ADDs that were dropped before they completed: the kernel may still hold a reference.
    cancelled: Cell<bool>,
}

impl AsyncFd {
    /// Wraps an fd; its flags stay as they are.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the fd is owned and passed on; the std type is only the carrier monoio accepts, no socket call is
        // made by it.
        let carrier = unsafe { std::os::unix::net::UnixStream::from_raw_fd(fd.into_raw_fd()) };
        Ok(AsyncFd {
            stream: UnixStream::from_std(carrier)?,
            cancelled: Cell::new(false),
        })
    }

    /// Wraps an fd and sets O_NONBLOCK. Only for fds whose file description nobody else shares (sockets, eventfds).
    pub fn new_nonblocking(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Self::new(fd)
    }

    /// Waits until the fd is readable, at its end, or in error. Ready means ready now: level-triggered.
    pub async fn readable(&self) -> io::Result<()> {
        let mut guard = PollGuard::new(&self.cancelled);
        let result = self.stream.readable(true).await;
        guard.done = true;
        result
    }

    /// Waits until the fd is writable or in error.
    pub async fn writable(&self) -> io::Result<()> {
        let mut guard = PollGuard::new(&self.cancelled);
        let result = self.stream.writable(true).await;
        guard.done = true;
        result
    }

    /// Takes the fd back. If a cancelled wait may still be known to the kernel, a duplicate is returned and the original
    /// goes away with that wait.
    pub fn into_inner(self) -> io::Result<OwnedFd> {
        if self.cancelled.get() {
            return Ok(rustix::io::fcntl_dupfd_cloexec(self.as_fd(), 3)?);
        }
        // SAFETY: into_raw_fd gives up ownership, which is taken here. It cannot panic: `self` is owned, so no wait
        // borrows it, and none was cancelled, so the stream holds the only reference.
        Ok(unsafe { OwnedFd::from_raw_fd(self.stream.into_raw_fd()) })
    }

    /// Socket: receives without waiting; `WouldBlock` when there is nothing.
    pub fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        let (n, _) = retry(|| rustix::net::recv(self, &mut *buf, RecvFlags::DONTWAIT))?;
        Ok(n)
    }

    /// Socket: receives into memory that need not be initialised.
    pub fn try_recv_uninit(&self, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        let filled = retry(|| {
            rustix::net::recv(self, &mut *buf, RecvFlags::DONTWAIT)
                .map(|((filled, _), _)| filled.len())
        })?;
        Ok(filled)
    }

    /// Socket: sends without waiting.
    pub fn try_send(&self, buf: &[u8]) -> io::Result<usize> {
        Ok(retry(|| {
            rustix::net::send(self, buf, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        })?)
    }

    /// Socket: sends several buffers in one call without waiting.
    pub fn try_send_vectored(&self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let mut control = rustix::net::SendAncillaryBuffer::default();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(retry(|| {
            rustix::net::sendmsg(self, bufs, &mut control, flags)
        })?)
    }

    /// Socket: receives, waiting for data. 0 is the end.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.try_recv(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                result => return result,
            }
        }
    }

    /// Socket: sends some of `buf`, waiting for room.
    pub async fn send(&self, buf: &[u8]) -> io::Result<usize> {
        loop {
            match self.try_send(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                result => return result,
            }
        }
    }

    /// Socket: sends all of `buf`.
    pub async fn send_all(&self, mut buf: &[u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let n = self.send(buf).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            buf = &buf[n..];
        }
        Ok(())
    }

    /// Eventfd (O_NONBLOCK): waits until it is signalled and returns its count.
    pub async fn read_eventfd(&self) -> io::Result<u64> {
        loop {
            // Asked first: it is seldom signalled already, and a read that finds nothing is a system call for nothing.
            self.readable().await?;
            let mut count = [0u8; 8];
            match retry(|| rustix::io::read(self, &mut count)) {
                Ok(8) => return Ok(u64::from_ne_bytes(count)),
                Ok(n) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("eventfd read of {n} bytes"),
                    ));
                }
                Err(rustix::io::Errno::AGAIN) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn retry<T>(mut f: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match f() {
            Err(rustix::io::Errno::INTR) => {}
            result => return result,
        }
    }
}

impl AsFd for AsyncFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the fd for at least the life of this borrow.
        unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }
    }
}

struct PollGuard<'a> {
    cancelled: &'a Cell<bool>,
    done: bool,
}

impl<'a> PollGuard<'a> {
    fn new(cancelled: &'a Cell<bool>) -> Self {
        PollGuard {
            cancelled,
            done: false,
        }
    }
}

impl Drop for PollGuard<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.cancelled.set(true);
        }
    }
}
