//! What waits for one client.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use bytes::{Buf, Bytes};
use gantry_keeper_proto::shm::Stream;
use gantry_rt::fd::AsyncFd;

use crate::mux::{self, HEADER_BYTES};
use crate::piece::Piece;
use crate::signal::Signal;
use crate::splice;
use crate::subscription::SubscribeOptions;

/// What a waiting piece counts for beside its bytes: many small ones must not take more memory than few large ones.
const PIECE_BYTES: usize = 128;
/// Slices of one send, below the kernel's limit (1024).
const SEND_SLICES: usize = 512;

/// What [`crate::Subscription::flush`] left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing.
    All,
    /// The socket is full.
    Blocked,
}

/// Where the bytes of a waiting piece are.
#[derive(Debug)]
enum Body {
    /// In memory, perhaps shared with other clients.
    Bytes(Bytes),
    /// As many next bytes of the client's pipe.
    Piped(usize),
}

/// A piece that waits, with the head of its frame.
#[derive(Debug)]
struct Queued {
    stream: Stream,
    body: Body,
    head: [u8; HEADER_BYTES],
    /// Bytes of the head that are sent, or all where there is none.
    head_sent: usize,
}

impl Queued {
    fn len(&self) -> usize {
        match &self.body {
            Body::Bytes(bytes) => bytes.len(),
            Body::Piped(bytes) => *bytes,
        }
    }

    /// What it counts for in the backlog.
    fn cost(&self) -> usize {
        self.len() + PIECE_BYTES
    }

    fn put_head(&mut self) {
        self.head = mux::encode_header(self.stream as u8, len_u32(self.len()));
        self.head_sent = 0;
    }
}

/// Where a client's output goes without a task of its own, while it takes all.
#[derive(Debug)]
struct Outlet {
    sock: Rc<AsyncFd>,
    multiplexed: bool,
}

/// The queue between a container and one client.
#[derive(Debug)]
pub(crate) struct Queue {
    options: SubscribeOptions,
    waiting: RefCell<VecDeque<Queued>>,
    /// Sum of the pieces' costs.
    backlog: Cell<usize>,
    ended: Cell<bool>,
    outlet: RefCell<Option<Outlet>>,
    /// Read and write end of what is spliced to it. Made when it is needed.
    pipe: RefCell<Option<Rc<(OwnedFd, OwnedFd)>>>,
    /// Bytes in the pipe.
    piped: Cell<usize>,
    /// A send failed: the client is gone, and its task will say so.
    broken: Cell<Option<io::ErrorKind>>,
    signal: Signal,
}

impl Queue {
    pub(crate) fn new(options: SubscribeOptions) -> Queue {
        Queue {
            options,
            waiting: RefCell::default(),
            backlog: Cell::new(0),
            ended: Cell::new(false),
            outlet: RefCell::default(),
            pipe: RefCell::default(),
            piped: Cell::new(0),
            broken: Cell::default(),
            signal: Signal::default(),
        }
    }

    pub(crate) fn wants(&self, stream: Stream) -> bool {
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
        if self.is_multiplexed() {
            let head = |p: &Piece<'_>| mux::encode_header(p.stream as u8, len_u32(p.data.len()));
            heads.extend(wanted().map(head));
        }
        let outlet = self.outlet.borrow();
        if let (true, Some(outlet)) = (direct && self.waiting.borrow().is_empty(), &*outlet) {
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
                    body: Body::Bytes(piece.bytes().slice(gone.saturating_sub(head_bytes)..)),
                    head: head.unwrap_or_default(),
                    head_sent: head.map_or(HEADER_BYTES, |_| gone.min(HEADER_BYTES)),
                });
            }
        }
        if left {
            self.signal.raise();
        }
    }

    /// The next `bytes` are in the client's pipe. Sends them at once if `direct`.
    pub(crate) fn offer_piped(&self, stream: Stream, bytes: usize, direct: bool) {
        let mut piece = Queued {
            stream,
            body: Body::Piped(bytes),
            head: [0; HEADER_BYTES],
            head_sent: HEADER_BYTES,
        };
        if self.is_multiplexed() {
            piece.put_head();
        }
        self.push(piece);
        self.piped.set(self.piped.get() + bytes);
        match direct.then(|| self.flush()) {
            Some(Ok(Flushed::All)) => {}
            Some(Err(error)) => self.break_off(&error),
            Some(Ok(Flushed::Blocked)) | None => self.signal.raise(),
        }
    }

    /// The pipe for what is spliced to this client; `None` as long as something waits in it, or when the client has no
    /// socket or is gone.
    pub(crate) fn empty_pipe(&self) -> io::Result<Option<Rc<(OwnedFd, OwnedFd)>>> {
        if self.piped.get() > 0 || !self.can_be_piped() {
            return Ok(None);
        }
        let mut pipe = self.pipe.borrow_mut();
        if pipe.is_none() {
            *pipe = Some(Rc::new(splice::pipe()?));
        }
        Ok(pipe.clone())
    }

    /// Whether it has a socket to splice to.
    pub(crate) fn can_be_piped(&self) -> bool {
        self.outlet.borrow().is_some() && self.broken.get().is_none()
    }

    fn is_multiplexed(&self) -> bool {
        self.outlet.borrow().as_ref().is_some_and(|o| o.multiplexed)
    }

    fn push(&self, piece: Queued) {
        self.backlog.set(self.backlog.get() + piece.cost());
        self.waiting.borrow_mut().push_back(piece);
    }

    /// What is offered from now on goes to this socket; what waits already gets its heads.
    pub(crate) fn connect(&self, sock: Rc<AsyncFd>, multiplexed: bool) {
        if multiplexed {
            self.waiting
                .borrow_mut()
                .iter_mut()
                .for_each(Queued::put_head);
        }
        *self.outlet.borrow_mut() = Some(Outlet { sock, multiplexed });
    }

    /// The client cannot be served any more.
    pub(crate) fn break_off(&self, error: &io::Error) {
        self.broken.set(Some(error.kind()));
        self.signal.raise();
    }

    /// Sends what waits until the socket is full.
    pub(crate) fn flush(&self) -> io::Result<Flushed> {
        if let Some(kind) = self.broken.get() {
            return Err(kind.into());
        }
        let outlet = self.outlet.borrow();
        let outlet = outlet.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let mut waiting = self.waiting.borrow_mut();
        while let Some(first) = waiting.front() {
            let all = match first.body {
                Body::Bytes(_) => self.send_bytes(&outlet.sock, &mut waiting)?,
                Body::Piped(_) => self.send_piped(&outlet.sock, &mut waiting)?,
            };
            if !all {
                return Ok(Flushed::Blocked);
            }
        }
        Ok(Flushed::All)
    }

    /// Sends pieces that are in memory, in one call; false if the socket is full.
    fn send_bytes(&self, sock: &AsyncFd, waiting: &mut VecDeque<Queued>) -> io::Result<bool> {
        let mut slices = Vec::with_capacity(SEND_SLICES.min(2 * waiting.len()));
        let mut asked = 0;
        for piece in waiting.iter().take(SEND_SLICES / 2) {
            let Body::Bytes(bytes) = &piece.body else {
                break;
            };
            slices.push(IoSlice::new(&piece.head[piece.head_sent..]));
            slices.push(IoSlice::new(bytes));
            asked += HEADER_BYTES - piece.head_sent + bytes.len();
        }
        let sent = send_slices(sock, &mut slices)?;
        self.count_sent(waiting, sent);
        Ok(sent == asked)
    }

    /// Sends the first piece out of the client's pipe; false if the socket is full.
    fn send_piped(&self, sock: &AsyncFd, waiting: &mut VecDeque<Queued>) -> io::Result<bool> {
        let pipe = self.pipe.borrow().clone();
        let (Some(pipe), Some(first)) = (pipe, waiting.front()) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let head = &first.head[first.head_sent..];
        if !head.is_empty() {
            let Some(sent) = splice::send_more(sock.as_fd(), head)? else {
                return Ok(false);
            };
            let whole = sent == head.len();
            self.count_sent(waiting, sent);
            return Ok(whole);
        }
        let Some(sent) = splice::splice(pipe.0.as_fd(), sock.as_fd(), first.len())? else {
            return Ok(false);
        };
        if sent == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.piped.set(self.piped.get() - sent);
        self.count_sent(waiting, sent);
        Ok(true)
    }

    /// Takes `sent` bytes off the queue, heads included.
    fn count_sent(&self, waiting: &mut VecDeque<Queued>, mut sent: usize) {
        while let Some(piece) = waiting.front_mut() {
            let before = piece.cost();
            let head = sent.min(HEADER_BYTES - piece.head_sent);
            piece.head_sent += head;
            let data = (sent - head).min(piece.len());
            sent -= head + data;
            match &mut piece.body {
                Body::Bytes(bytes) => bytes.advance(data),
                Body::Piped(bytes) => *bytes -= data,
            }
            if piece.head_sent < HEADER_BYTES || piece.len() > 0 {
                self.backlog
                    .set(self.backlog.get() - (before - piece.cost()));
                return;
            }
            self.backlog.set(self.backlog.get() - before);
            waiting.pop_front();
        }
    }

    /// The first piece that waits, as bytes; only where nothing is piped: a client without a socket.
    pub(crate) fn pop(&self) -> Option<(Stream, Bytes)> {
        let piece = self.waiting.borrow_mut().pop_front()?;
        self.backlog.set(self.backlog.get() - piece.cost());
        match piece.body {
            Body::Bytes(bytes) => Some((piece.stream, bytes)),
            Body::Piped(_) => None,
        }
    }

    /// Waits until there is something to do; false when nothing will be any more.
    pub(crate) async fn more(&self) -> bool {
        loop {
            let known = self.signal.count();
            if !self.waiting.borrow().is_empty() || self.broken.get().is_some() {
                return true;
            }
            if self.ended.get() {
                return false;
            }
            self.signal.changed(known).await;
        }
    }

    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.signal.raise();
    }

    /// What waits, in bytes, see [`PIECE_BYTES`].
    pub(crate) fn backlog(&self) -> usize {
        self.backlog.get()
    }

    /// Bytes in its pipe.
    pub(crate) fn piped(&self) -> usize {
        self.piped.get()
    }
}

/// A frame is no longer than a buffer of the pump, a record of a spill, or what is spliced at once.
fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("a piece of output is short")
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
