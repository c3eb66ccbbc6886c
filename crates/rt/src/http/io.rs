//! hyper's I/O on a shard: receive straight into hyper's buffer, one POLL_ADD when there is nothing. No buffer of ours.
//!
//! The adapter can also replace one response head: for hijacks (hyper believes in a 101 it may not send as such) and for
//! the errors hyper answers by itself (Go's net/http gives them a text).

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::ReadBufCursor;

use super::refuse::{self, Refusal};
use crate::LocalBoxFuture;
use crate::fd::AsyncFd;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing of a request has come.
    Idle,
    /// Part of a request's head has come.
    Head,
    /// The service has the request, or its response is being produced.
    InFlight,
    /// The response is complete, not all of it is sent.
    Flushing,
}

/// What adapter, service wrapper and connection task share.
pub(super) struct Shared {
    phase: Cell<Phase>,
    /// Number of phase changes. Ages are counted in ticks by the connection's task: no clock is read per request.
    changes: Cell<u64>,
    pub(super) streaming: Cell<bool>,
    write_blocked: Cell<bool>,
    writes: Cell<u64>,
    read_armed: Cell<bool>,
    /// Replaces everything hyper writes from the moment it is set.
    replacement: RefCell<Option<Bytes>>,
    errored: Cell<bool>,
}

impl Shared {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Shared {
            phase: Cell::new(Phase::Idle),
            changes: Cell::new(0),
            streaming: Cell::new(false),
            write_blocked: Cell::new(false),
            writes: Cell::new(0),
            read_armed: Cell::new(false),
            replacement: RefCell::new(None),
            errored: Cell::new(false),
        })
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.changes.set(self.changes.get() + 1);
    }

    /// Stays the same while the phase does.
    pub(super) fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// The client has taken nothing of the last thing we tried to send.
    pub(super) fn is_write_blocked(&self) -> bool {
        self.write_blocked.get()
    }

    /// Stays the same while the client takes nothing.
    pub(super) fn writes(&self) -> u64 {
        self.writes.get()
    }

    /// The adapter waits for input, so it will see a hang-up by itself.
    pub(super) fn read_armed(&self) -> bool {
        self.read_armed.get()
    }

    pub(super) fn replace_head(&self, head: Vec<u8>) {
        *self.replacement.borrow_mut() = Some(head.into());
    }

    /// Answers so in place of hyper, and ends the connection.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.errored.set(true);
        self.replace_head(refusal.bytes());
    }

    /// The request was refused below the service.
    pub(super) fn errored(&self) -> bool {
        self.errored.get()
    }
}

pub(super) struct Io {
    fd: Rc<AsyncFd>,
    shared: Rc<Shared>,
    /// Given to hyper before anything is received.
    prefix: Bytes,
    /// The last receive emptied the socket: ask for readiness before the next one.
    drained: bool,
    read_wait: Option<LocalBoxFuture<'static, io::Result<()>>>,
    write_wait: Option<LocalBoxFuture<'static, io::Result<()>>>,
}

impl Io {
    pub(super) fn new(fd: Rc<AsyncFd>, shared: Rc<Shared>, prefix: Bytes) -> Self {
        Io {
            fd,
            shared,
            prefix,
            drained: false,
            read_wait: None,
            write_wait: None,
        }
    }

    fn wait_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let fd = &self.fd;
        let wait = self.read_wait.get_or_insert_with(|| {
            let fd = fd.clone();
            Box::pin(async move { fd.readable().await })
        });
        self.shared.read_armed.set(true);
        let result = ready!(wait.as_mut().poll(cx));
        self.shared.read_armed.set(false);
        self.read_wait = None;
        self.drained = false;
        Poll::Ready(result)
    }

    fn wait_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let fd = &self.fd;
        let wait = self.write_wait.get_or_insert_with(|| {
            let fd = fd.clone();
            Box::pin(async move { fd.writable().await })
        });
        let result = ready!(wait.as_mut().poll(cx));
        self.write_wait = None;
        Poll::Ready(result)
    }

    /// Sends by `send` once there is room.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        send: impl Fn(&AsyncFd) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.write_wait.is_some() {
                ready!(self.wait_writable(cx))?;
            }
            match send(&self.fd) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.shared.write_blocked.set(true);
                    ready!(self.wait_writable(cx))?;
                }
                result => {
                    self.shared.write_blocked.set(false);
                    self.shared.writes.set(self.shared.writes.get() + 1);
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// Whether hyper's output is swallowed because a replacement head takes its place.
    fn replaces(&self, hyper_writes: &[u8]) -> bool {
        if self.shared.replacement.borrow().is_some() {
            return true;
        }
        if !matches!(self.shared.phase(), Phase::Idle | Phase::Head) {
            return false;
        }
        // No request is being answered, so this is hyper's own answer to input it does not accept.
        self.shared.refuse(refuse::unparsed(hyper_writes));
        true
    }

    fn poll_replacement(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let rest = match &*self.shared.replacement.borrow() {
                Some(rest) if !rest.is_empty() => rest.clone(),
                _ => return Poll::Ready(Ok(())),
            };
            let n = ready!(self.poll_send(cx, |fd| fd.try_send(&rest)))?;
            if let Some(rest) = &mut *self.shared.replacement.borrow_mut() {
                rest.advance(n);
            }
        }
    }

    /// Sends what hyper did not wait for. Returns the fd's handle.
    pub(super) async fn finish(mut self) -> io::Result<Rc<AsyncFd>> {
        std::future::poll_fn(|cx| self.poll_replacement(cx)).await?;
        self.read_wait = None;
        self.write_wait = None;
        Ok(self.fd)
    }
}

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.prefix.is_empty() {
            let n = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix.split_to(n));
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.drained || this.read_wait.is_some() {
                ready!(this.wait_readable(cx))?;
            }
            // SAFETY: nothing that may be initialised is de-initialised: the kernel only writes to it.
            let space = unsafe { buf.as_mut() };
            let room = space.len();
            match this.fd.try_recv_uninit(space) {
                Ok(n) => {
                    // SAFETY: the kernel has written the first `n` bytes.
                    unsafe { buf.advance(n) };
                    this.drained = n > 0 && n < room;
                    if n > 0 && this.shared.phase() == Phase::Idle {
                        this.shared.enter(Phase::Head);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => this.drained = true,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.replaces(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        self.poll_send(cx, |fd| fd.try_send(buf))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.replaces(bufs.first().map_or(&[], |first| first)) {
            return Poll::Ready(Ok(bufs.iter().map(|b| b.len()).sum()));
        }
        self.poll_send(cx, |fd| fd.try_send_vectored(bufs))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_replacement(cx))?;
        if self.shared.phase() == Phase::Flushing {
            self.shared.enter(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_replacement(cx))?;
        if self.shared.replacement.borrow().is_some() && !self.shared.errored() {
            // Hijacked: the socket goes on.
            return Poll::Ready(Ok(()));
        }
        match rustix::net::shutdown(&*self.fd, rustix::net::Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(e) => Poll::Ready(Err(e.into())),
        }
    }
}
