//! A client's connection as a WebSocket (RFC 6455), from the end of its handshake.
//!
//! Messages of the client are input, of any opcode and in any pieces; output of either stream goes to it in messages of its
//! own, as dockerd sends it: they do not say which stream they are of. Stricter than dockerd are the rules of the frames:
//! what breaks the RFC ends the connection with status 1002.

mod frame;

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use gantry_rt::fd::AsyncFd;
use gantry_rt::{Either, race, timeout};
use rustix::net::Shutdown;

pub use frame::{
    BadFrame, CLOSE_NORMAL, CLOSE_PROTOCOL_ERROR, Control, Event, MAX_CONTROL_BYTES,
    MAX_OWN_HEAD_BYTES, Opcode, Reader, put_head,
};

use crate::attach::{AttachEnd, AttachOptions, Typed, input_ended};
use crate::io::ContainerIo;
use crate::signal::Signal;
use crate::subscription::Subscription;

/// Most bytes taken from a client at once.
const INPUT_BYTES: usize = 32 * 1024;
/// Longest message to a client: what dockerd copies at once.
const MESSAGE_BYTES: usize = 32 * 1024;
/// Messages that wait to be sent together.
const BATCH_MESSAGES: usize = 256;
/// Pieces of one send, below the kernel's limit (1024).
const SEND_SLICES: usize = 512;
/// How long the client may take to read our last frame and to close its side.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// What the input side wants to be sent between two messages. One of each is enough: a pong may answer several pings.
#[derive(Default)]
struct Wanted {
    pong: Cell<Option<Control>>,
    close: Cell<Option<u16>>,
    signal: Signal,
}

impl Wanted {
    fn pong(&self, payload: Control) {
        self.pong.set(Some(payload));
        self.signal.raise();
    }

    fn close(&self, status: u16) {
        self.close.set(Some(status));
        self.signal.raise();
    }

    async fn any(&self) {
        loop {
            let known = self.signal.count();
            if self.close.get().is_some() || self.pong.get().is_some() {
                return;
            }
            self.signal.changed(known).await;
        }
    }
}

/// A client after its handshake.
pub struct Client {
    /// Its connection.
    pub socket: AsyncFd,
    /// What it had sent behind the handshake.
    pub over_read: Bytes,
    /// Of the messages it is sent.
    pub opcode: Opcode,
}

/// As [`crate::attach::serve`], in messages of this opcode. The client's close frame ends its input; the container's end,
/// and what detaches the client, is told by a close frame.
pub async fn serve(
    subscription: Subscription,
    client: Client,
    io: Rc<ContainerIo>,
    options: AttachOptions,
    input_closed: impl FnOnce(),
) -> AttachEnd {
    let Client {
        socket: sock,
        over_read,
        opcode,
    } = client;
    let ends_stdin = options.stdin && options.stdin_once && !options.tty;
    let closer = RefCell::new(Some(input_closed).filter(|_| ends_stdin));
    let close_input = || {
        if let Some(f) = closer.borrow_mut().take() {
            io.close_stdin();
            f();
        }
    };
    let wanted = Wanted::default();
    let end = Cell::new(AttachEnd::Eof);
    let client = async {
        let asked = input(&sock, over_read, &io, &options, &wanted).await;
        close_input();
        let status = match asked {
            Asked::Close if ends_stdin => {
                // Output goes on, and a close frame follows it.
                drain(&sock).await;
                None
            }
            Asked::Gone => None,
            Asked::Close => Some(CLOSE_NORMAL),
            Asked::Detach => Some(CLOSE_NORMAL),
            Asked::Refuse(error) => {
                tracing::debug!(%error, "a client's WebSocket is closed");
                Some(CLOSE_PROTOCOL_ERROR)
            }
        };
        end.set(match asked {
            Asked::Detach => AttachEnd::Detached,
            _ => AttachEnd::ClientGone,
        });
        if let Some(status) = status {
            // It goes out behind the message that is under way.
            wanted.close(status);
            let _limit = timeout(CLOSE_LIMIT, drain(&sock)).await;
        }
    };
    let output = output(&sock, &subscription, opcode, &wanted);
    match race(output, client).await {
        Either::Left(Ok(())) => finish(&sock).await,
        Either::Left(Err(_)) => {
            close_input();
            end.set(AttachEnd::ClientGone);
        }
        Either::Right(()) => {}
    }
    end.get()
}

/// Ends a connection on which nothing is under way.
pub async fn close(sock: &AsyncFd) {
    let mut batch = Batch::default();
    batch.close(CLOSE_NORMAL);
    match timeout(CLOSE_LIMIT, batch.send(sock)).await {
        Ok(Ok(())) => finish(sock).await,
        _ => tracing::debug!("a client left before its WebSocket was closed"),
    }
}

/// Sends bytes as messages.
pub async fn send(sock: &AsyncFd, opcode: Opcode, bytes: Bytes) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.message(opcode, bytes);
    batch.send(sock).await
}

/// After our close frame: what the client still sends must not make the kernel throw away what it has not read.
async fn finish(sock: &AsyncFd) {
    // The peer may be gone already; then there is nothing left to shut down.
    let _already_gone = rustix::net::shutdown(sock, Shutdown::Write);
    let _limit = timeout(CLOSE_LIMIT, drain(sock)).await;
}

/// Throws away what comes, until the client closes its side.
async fn drain(sock: &AsyncFd) {
    let mut sink = [0; 4096];
    while matches!(sock.recv(&mut sink).await, Ok(1..)) {}
}

/// How a client's input ended.
enum Asked {
    /// It hung up.
    Gone,
    /// It sent a close frame.
    Close,
    /// It typed the detach keys.
    Detach,
    /// It broke the protocol.
    Refuse(BadFrame),
}

/// Takes the client's input until it closes, detaches, breaks the protocol or is gone.
async fn input(
    sock: &AsyncFd,
    over_read: Bytes,
    io: &ContainerIo,
    options: &AttachOptions,
    wanted: &Wanted,
) -> Asked {
    let mut typed = Typed::new(io, options);
    let mut reader = Reader::default();
    let mut buffer = vec![0; INPUT_BYTES];
    let mut first = over_read.to_vec();
    loop {
        let mut bytes = if !first.is_empty() {
            &mut first[..]
        } else {
            match sock.recv(&mut buffer).await {
                Ok(n @ 1..) => &mut buffer[..n],
                _ => return Asked::Gone,
            }
        };
        loop {
            match reader.next(&mut bytes) {
                Ok(None) => break,
                Ok(Some(Event::Data(data))) => match typed.feed(data, input_ended(sock)).await {
                    None => {}
                    Some(AttachEnd::Detached) => return Asked::Detach,
                    Some(_) => return Asked::Gone,
                },
                Ok(Some(Event::Ping(payload))) => wanted.pong(payload),
                Ok(Some(Event::Pong)) => {}
                Ok(Some(Event::Close)) => {
                    typed.finish().await;
                    return Asked::Close;
                }
                Err(error) => return Asked::Refuse(error),
            }
        }
        first.clear();
    }
}

/// Sends output until it ends or a close frame is wanted, and that frame.
async fn output(
    sock: &AsyncFd,
    subscription: &Subscription,
    opcode: Opcode,
    wanted: &Wanted,
) -> io::Result<()> {
    let mut batch = Batch::default();
    loop {
        if let Some(payload) = wanted.pong.take() {
            batch.push(Opcode::Pong, Bytes::copy_from_slice(payload.bytes()));
        }
        if let Some(status) = wanted.close.take() {
            batch.close(status);
            return batch.send(sock).await;
        }
        if batch.payloads.is_empty() {
            match race(wanted.any(), subscription.next()).await {
                Either::Left(()) => continue,
                Either::Right(Some(frame)) => batch.message(opcode, frame.bytes),
                Either::Right(None) => {
                    batch.close(CLOSE_NORMAL);
                    return batch.send(sock).await;
                }
            }
        }
        while batch.payloads.len() < BATCH_MESSAGES
            && let Some(frame) = subscription.try_next()
        {
            batch.message(opcode, frame.bytes);
        }
        batch.send(sock).await?;
    }
}

/// Messages that go out in one call if the socket takes them.
#[derive(Default)]
struct Batch {
    heads: Vec<([u8; MAX_OWN_HEAD_BYTES], usize)>,
    payloads: Vec<Bytes>,
}

impl Batch {
    fn push(&mut self, opcode: Opcode, payload: Bytes) {
        let mut head = [0; MAX_OWN_HEAD_BYTES];
        let len = put_head(&mut head, opcode, payload.len());
        self.heads.push((head, len));
        self.payloads.push(payload);
    }

    fn message(&mut self, opcode: Opcode, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(MESSAGE_BYTES));
            self.push(opcode, piece);
        }
    }

    fn close(&mut self, status: u16) {
        self.push(Opcode::Close, Bytes::copy_from_slice(&status.to_be_bytes()));
    }

    /// Sends all of it, and is empty then.
    async fn send(&mut self, sock: &AsyncFd) -> io::Result<()> {
        let heads = self.heads.iter().map(|(head, len)| &head[..*len]);
        let pairs = heads.zip(self.payloads.iter().map(|p| &p[..]));
        let mut slices: Vec<IoSlice<'_>> = pairs
            .flat_map(|(head, payload)| [head, payload])
            .map(IoSlice::new)
            .collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let count = rest.len().min(SEND_SLICES);
            match sock.try_send_vectored(&rest[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut rest, n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => sock.writable().await?,
                Err(e) => return Err(e),
            }
        }
        self.heads.clear();
        self.payloads.clear();
        Ok(())
    }
}
