//! Live output for one client.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::{Rc, Weak};

use bytes::{Buf, Bytes};
use gantry_keeper_proto::shm::Stream;
use gantry_rt::fd::AsyncFd;

use crate::io::ContainerIo;
use crate::mux::{self, HEADER_BYTES};
use crate::signal::Signal;

/// Unsent output of one client past which the container's reads stop.
pub const SUBSCRIPTION_HIGH_BYTES: usize = 1024 * 1024;
/// Unsent output below which they go on.
pub const SUBSCRIPTION_LOW_BYTES: usize = 256 * 1024;
/// What a waiting piece counts for beside its bytes: many small ones must not take more memory than few large ones.
const PIECE_BYTES: usize = 128;
/// Slices of one send, below the kernel's limit (1024).
const SEND_SLICES: usize = 512;
/// Pieces shorter than this are joined with their neighbours: one frame for the client instead of many.
const JOIN_BYTES: usize = 4096;
/// Longest piece that joining makes.
const JOINED_BYTES: usize = 32 * 1024;

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it came from.
    pub stream: Stream,
    /// Shared with the other consumers.
    pub bytes: Bytes,
}

/// What a client wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// Output that still lies where the pump read it. It is copied when a client cannot take it at once, and then once for
/// all of them.
pub(crate) struct Piece<'a> {
    stream: Stream,
    data: Cow<'a, [u8]>,
    copy: OnceCell<Bytes>,
}

impl<'a> Piece<'a> {
    /// The pieces of a batch in order, small ones joined.
    pub(crate) fn gather(batch: impl Iterator<Item = (Stream, &'a [u8])>) -> Vec<Piece<'a>> {
        let mut pieces: Vec<Piece<'a>> = Vec::new();
        for (stream, data) in batch {
            match pieces.last_mut() {
                Some(last) if last.joins(stream, data) => {
                    last.data.to_mut().extend_from_slice(data)
                }
                _ => pieces.push(Piece {
                    stream,
                    data: Cow::Borrowed(data),
                    copy: OnceCell::new(),
                }),
            }
        }
        pieces
    }

    fn joins(&self, stream: Stream, data: &[u8]) -> bool {
        let grows = matches!(self.data, Cow::Owned(_)) || self.data.len() < JOIN_BYTES;
        grows
            && self.stream == stream
            && data.len() < JOIN_BYTES
            && self.data.len() + data.len() <= JOINED_BYTES
    }

    fn bytes(&self) -> &Bytes {
        self.copy.get_or_init(|| Bytes::copy_from_slice(&self.data))
    }
}

/// A piece in a client's queue; the head of its frame is made when it is sent.
#[derive(Debug)]
struct Queued {
    stream: Stream,
    bytes: Bytes,
    head: [u8; HEADER_BYTES],
    /// Bytes of the head that are sent, or all where there is none.
    head_sent: usize,
}

impl Queued {
    /// What it counts for in the backlog.
    fn cost(&self) -> usize {
        self.bytes.len() + PIECE_BYTES
    }
}

/// Where a client's output goes without a task of its own, while it takes all.
#[derive(Debug)]
struct Outlet {
    sock: Rc<AsyncFd>,
    multiplexed: bool,
}

/// What [`Subscription::flush`] left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing.
    All,
    /// The socket is full.
    Blocked,
}

#[derive(Debug)]
pub(crate) struct Queue {
    options: SubscribeOptions,
    frames: RefCell<VecDeque<Queued>>,
    /// Sum of the pieces' costs.
    backlog: Cell<usize>,
    ended: Cell<bool>,
    outlet: RefCell<Option<Outlet>>,
    /// A send failed: the client is gone, and its task will say so.
    broken: Cell<Option<io::ErrorKind>>,
    signal: Signal,
}

impl Queue {
    pub(crate) fn new(options: SubscribeOptions) -> Queue {
        Queue {
            options,
            frames: RefCell::default(),
            backlog: Cell::new(0),
            ended: Cell::new(false),
            outlet: RefCell::default(),
            broken: Cell::default(),
            signal: Signal::default(),
        }
    }

    fn wants(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.options.stdout,
            Stream::Stderr => self.options.stderr,
        }
    }

    /// Takes pieces: sends them at once if `direct` and nothing waits, and keeps what is left.
    pub(crate) fn offer(&self, pieces: &[Piece<'_>], direct: bool) {
        if self.broken.get().is_some() {
            return;
        }
        let wanted = || pieces.iter().filter(|p| self.wants(p.stream));
        let mut heads = Vec::new();
        let mut sent = 0;
        let outlet = self.outlet.borrow();
        let multiplexed = outlet.as_ref().is_some_and(|o| o.multiplexed);
        if multiplexed {
            heads.extend(wanted().map(|p| mux::encode_header(p.stream as u8, len_u32(&p.data))));
        }
        if let (true, Some(outlet)) = (direct && self.frames.borrow().is_empty(), &*outlet) {
            let mut slices = Vec::with_capacity(2 * pieces.len());
            for (n, piece) in wanted().enumerate() {
                slices.extend(heads.get(n).map(|head| IoSlice::new(head)));
                slices.push(IoSlice::new(&piece.data));
            }
            match send_slices(&outlet.sock, &mut slices) {
                Ok(n) => sent = n,
                Err(error) => return self.break_off(&error),
            }
        }
        let mut left = false;
        for (n, piece) in wanted().enumerate() {
            let head = heads.get(n).copied();
            let head_bytes = head.map_or(0, |_| HEADER_BYTES);
            let gone = sent.min(head_bytes + piece.data.len());
            sent -= gone;
            if gone < head_bytes + piece.data.len() {
                left = true;
                self.push(Queued {
                    stream: piece.stream,
                    bytes: piece.bytes().slice(gone.saturating_sub(head_bytes)..),
                    head: head.unwrap_or_default(),
                    head_sent: head.map_or(HEADER_BYTES, |_| gone.min(HEADER_BYTES)),
                });
            }
        }
        if left {
            self.signal.raise();
        }
    }

    fn push(&self, piece: Queued) {
        self.backlog.set(self.backlog.get() + piece.cost());
        self.frames.borrow_mut().push_back(piece);
    }

    fn break_off(&self, error: &io::Error) {
        self.broken.set(Some(error.kind()));
        self.signal.raise();
    }

    /// Sends what waits until the socket is full.
    fn flush(&self, outlet: &Outlet) -> io::Result<Flushed> {
        let mut frames = self.frames.borrow_mut();
        while !frames.is_empty() {
            let mut slices = Vec::with_capacity(SEND_SLICES.min(2 * frames.len()));
            let mut asked = 0;
            for piece in frames.iter().take(SEND_SLICES / 2) {
                slices.push(IoSlice::new(&piece.head[piece.head_sent..]));
                slices.push(IoSlice::new(&piece.bytes));
                asked += HEADER_BYTES - piece.head_sent + piece.bytes.len();
            }
            let mut sent = send_slices(&outlet.sock, &mut slices)?;
            let blocked = sent < asked;
            while let Some(piece) = frames.front_mut() {
                let head = sent.min(HEADER_BYTES - piece.head_sent);
                piece.head_sent += head;
                let data = (sent - head).min(piece.bytes.len());
                sent -= head + data;
                let before = piece.cost();
                if piece.head_sent < HEADER_BYTES || data < piece.bytes.len() {
                    piece.bytes.advance(data);
                    self.backlog
                        .set(self.backlog.get() - (before - piece.cost()));
                    break;
                }
                self.backlog.set(self.backlog.get() - before);
                frames.pop_front();
            }
            if blocked {
                return Ok(Flushed::Blocked);
            }
        }
        Ok(Flushed::All)
    }

    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.signal.raise();
    }

    /// What waits, in bytes, see [`PIECE_BYTES`].
    pub(crate) fn backlog(&self) -> usize {
        self.backlog.get()
    }
}

/// A frame is no longer than a buffer of the pump or a record of a spill.
fn len_u32(data: &[u8]) -> u32 {
    u32::try_from(data.len()).expect("a piece of output is short")
}

/// Sends as much as the socket takes now, and says how much that was.
fn send_slices(sock: &AsyncFd, slices: &mut [IoSlice<'_>]) -> io::Result<usize> {
    let (mut rest, mut sent) = (slices, 0);
    IoSlice::advance_slices(&mut rest, 0); // drops empty ones at the front
    while !rest.is_empty() {
        let count = rest.len().min(SEND_SLICES);
        match sock.try_send_vectored(&rest[..count]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                sent += n;
                IoSlice::advance_slices(&mut rest, n);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(sent)
}

/// A client's view of the output from the moment it subscribed. Dropping it frees the container from waiting for it.
#[derive(Debug)]
pub struct Subscription {
    pub(crate) queue: Rc<Queue>,
    pub(crate) io: Weak<ContainerIo>,
}

impl Subscription {
    /// From now on the output goes to this socket, as far as it takes it at once; the rest waits for
    /// [`Subscription::flush`].
    pub fn connect(&self, sock: Rc<AsyncFd>, multiplexed: bool) {
        if multiplexed {
            for piece in self.queue.frames.borrow_mut().iter_mut() {
                piece.head = mux::encode_header(piece.stream as u8, len_u32(&piece.bytes));
                piece.head_sent = 0;
            }
        }
        *self.queue.outlet.borrow_mut() = Some(Outlet { sock, multiplexed });
    }

    /// Sends what waits, as far as the socket takes it. An error says that the client is gone.
    pub fn flush(&self) -> io::Result<Flushed> {
        if let Some(kind) = self.queue.broken.get() {
            return Err(kind.into());
        }
        let before = self.queue.backlog();
        let flushed = match &*self.queue.outlet.borrow() {
            Some(outlet) => self.queue.flush(outlet),
            None => return Err(io::ErrorKind::NotConnected.into()),
        };
        self.taken(before);
        flushed
    }

    /// Waits until something waits to be sent; false when nothing will any more.
    pub async fn more(&self) -> bool {
        loop {
            let known = self.queue.signal.count();
            if !self.queue.frames.borrow().is_empty() || self.queue.broken.get().is_some() {
                return true;
            }
            if self.queue.ended.get() {
                return false;
            }
            self.queue.signal.changed(known).await;
        }
    }

    /// The next piece; `None` after the last one, when the output has ended.
    pub async fn next(&self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.try_next() {
                return Some(frame);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next piece if there is one now.
    pub fn try_next(&self) -> Option<Frame> {
        let piece = self.queue.frames.borrow_mut().pop_front()?;
        let before = self.queue.backlog();
        self.queue.backlog.set(before - piece.cost());
        self.taken(before);
        Some(Frame {
            stream: piece.stream,
            bytes: piece.bytes,
        })
    }

    /// Lets reads go on when the backlog, which was `before` bytes, is small again.
    fn taken(&self, before: usize) {
        if before > SUBSCRIPTION_LOW_BYTES
            && self.queue.backlog() <= SUBSCRIPTION_LOW_BYTES
            && let Some(io) = self.io.upgrade()
        {
            io.consumers_changed();
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(io) = self.io.upgrade() {
            io.unsubscribe(&self.queue);
        }
    }
}
