//! Bulk: output that nothing logs goes from the container's pipe to its clients' sockets without being copied.
//!
//! Where the ring would fill one buffer after the other, its read is cancelled, and what the container's pipe holds is
//! moved into a pipe of each client (tee(2) for all but the last, splice(2) for the last one) and from there to the
//! client's socket. Bytes that nothing logs need not be recoverable: who would have got them is gone with the daemon. The
//! end of the output, and everything unusual, is left to the ring.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::{Rc, Weak};

use gantry_keeper_proto::shm::{RING_BUFFER_BYTES, Stream};
use gantry_rt::fd::AsyncFd;
use gantry_rt::{Either, race};

use super::{ContainerIo, output::DIRECT_CLIENTS};
use crate::queue::Queue;
use crate::signal::Signal;
use crate::splice;

/// Full buffers in a row after which a stream is bulk.
const BULK_AFTER: u32 = 8;
/// Each time it turns out that it was not, twice as many are asked for, up to this.
const BULK_AFTER_MOST: u32 = 512;
/// Most bytes moved at once. Less than what stops a container's reads, so that its other stream goes on.
pub const BULK_BYTES: usize = 512 * 1024;
/// Clients that share a bulk stream: each has a pipe meanwhile.
pub const BULK_CLIENTS: usize = 128;
/// Moves in a row of less than a buffer, after which a stream is not bulk any more: there the ring is cheaper.
const SMALL_MOVES: u32 = 16;

/// How a stream is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// By the pump's ring.
    #[default]
    Ring,
    /// By the ring until its read has ended.
    Leaving,
    /// By a task that moves pages.
    Bulk,
}

/// When to change between the two.
#[derive(Debug)]
pub(super) struct Pace {
    full: u32,
    after: u32,
}

impl Default for Pace {
    fn default() -> Self {
        let (full, after) = (0, BULK_AFTER);
        Pace { full, after }
    }
}

impl Pace {
    /// Takes note of a read; true if there were many full ones in a row.
    pub(super) fn note(&mut self, bytes: usize) -> bool {
        self.full = if bytes == RING_BUFFER_BYTES {
            self.full.saturating_add(1)
        } else {
            0
        };
        self.full >= self.after
    }

    /// Bulk has ended; `early` because it was none.
    fn ended(&mut self, early: bool) {
        self.full = 0;
        if early {
            self.after = (self.after * 2).min(BULK_AFTER_MOST);
        }
    }
}

/// What a step found.
enum Next {
    Moved,
    /// The container has printed nothing.
    Output,
    /// A client has not taken what was moved before.
    Clients,
    Leave,
}

/// State of the task.
#[derive(Default)]
struct Moves {
    small: u32,
    /// The pipe was said to be readable.
    awaited: bool,
}

impl ContainerIo {
    /// Whether a stream could be bulk: nothing logs it, and everybody who wants it has a socket.
    pub(super) fn may_be_bulk(&self, stream: Stream) -> bool {
        !self.tty && self.sink.borrow().is_none() && self.bulk_clients(stream).is_some()
    }

    fn bulk_clients(&self, stream: Stream) -> Option<Vec<Rc<Queue>>> {
        let clients = self.clients.borrow();
        let wanting: Vec<_> = clients
            .iter()
            .filter(|c| c.wants(stream))
            .cloned()
            .collect();
        let fit =
            (1..=BULK_CLIENTS).contains(&wanting.len()) && wanting.iter().all(|c| c.can_be_piped());
        fit.then_some(wanting)
    }

    /// The ring's read of this stream has ended: a task goes on, or the ring if that cannot be.
    pub(super) fn start_bulk(&self, stream: Stream, fd: &OwnedFd) -> Mode {
        if let Err(error) = rustix::pipe::fcntl_setpipe_size(fd, splice::BULK_PIPE_BYTES) {
            tracing::debug!(slot = self.slot, %error, "the pipe of a container in bulk stays as small as it is");
        }
        match fd.try_clone().and_then(AsyncFd::new) {
            Ok(source) => {
                let (io, changed) = (self.me.clone(), self.clients_signal.clone());
                gantry_rt::spawn("stream.bulk", run(io, changed, stream, source));
                Mode::Bulk
            }
            Err(error) => {
                tracing::warn!(slot = self.slot, %error, "output can't be moved in bulk; it is read");
                Mode::Ring
            }
        }
    }

    fn move_some(&self, stream: Stream, source: &AsyncFd, moves: &mut Moves) -> io::Result<Next> {
        if self.streams.borrow()[stream.index()].ended {
            return Ok(Next::Leave);
        }
        let Some(clients) = self.bulk_clients(stream) else {
            return Ok(Next::Leave);
        };
        let mut pipes = Vec::with_capacity(clients.len());
        for client in &clients {
            match client.empty_pipe()? {
                Some(pipe) => pipes.push(pipe),
                None => return Ok(Next::Clients),
            }
        }
        let held = splice::held(source)?;
        let awaited = std::mem::take(&mut moves.awaited);
        if held == 0 {
            // Readable and empty: its end, which is the ring's to find.
            moves.awaited = true;
            return Ok(if awaited { Next::Leave } else { Next::Output });
        }
        moves.small = if held < RING_BUFFER_BYTES {
            moves.small + 1
        } else {
            0
        };
        if moves.small > SMALL_MOVES {
            return Ok(Next::Leave);
        }
        // What some have and others have not can't be given again: they hear of an error, never of wrong bytes.
        let moved = share(source, &pipes, held.min(BULK_BYTES))
            .inspect_err(|error| clients.iter().for_each(|client| client.break_off(error)))?;
        let mut raw = self.raw_bytes.get();
        raw[stream.index()] += moved as u64;
        self.raw_bytes.set(raw);
        self.pump.count(|s| s.moved_bytes += moved as u64);
        for client in &clients {
            client.offer_piped(stream, moved, clients.len() <= DIRECT_CLIENTS);
        }
        Ok(Next::Moved)
    }

    fn end_bulk(&self, stream: Stream, early: bool) {
        {
            let mut streams = self.streams.borrow_mut();
            let reading = &mut streams[stream.index()];
            reading.mode = Mode::Ring;
            reading.pace.ended(early);
        }
        let (head, _) = self.pump.with_ring(|ring| ring.pending());
        if let Err(error) = self.commit(self.pump.epoch(), head) {
            tracing::error!(slot = self.slot, %error, "what went out in bulk could not be noted");
        }
        self.consumers_changed();
    }
}

/// Moves up to `bytes` out of the source into every pipe; how many. The pipes are empty and as large as the source.
fn share(source: &AsyncFd, pipes: &[Rc<(OwnedFd, OwnedFd)>], bytes: usize) -> io::Result<usize> {
    let Some((last, others)) = pipes.split_last() else {
        return Ok(0);
    };
    let mut bytes = bytes;
    for (n, pipe) in others.iter().enumerate() {
        let copied = splice::tee(source.as_fd(), pipe.1.as_fd(), bytes)?.unwrap_or(0);
        if n == 0 && copied > 0 {
            bytes = copied;
        } else if copied != bytes {
            return Err(io::Error::other("clients' pipes differ"));
        }
    }
    let mut moved = 0;
    while moved < bytes {
        match splice::splice(source.as_fd(), last.1.as_fd(), bytes - moved)? {
            Some(n) if n > 0 => moved += n,
            _ if others.is_empty() && moved > 0 => break,
            _ => return Err(io::Error::other("a client's pipe is too small")),
        }
    }
    Ok(moved)
}

async fn run(io: Weak<ContainerIo>, changed: Rc<Signal>, stream: Stream, source: AsyncFd) {
    let mut moves = Moves::default();
    loop {
        let known = changed.count();
        let Some(next) = io
            .upgrade()
            .map(|io| io.move_some(stream, &source, &mut moves))
        else {
            return;
        };
        let waited = match next {
            Ok(Next::Moved) => {
                gantry_rt::yield_now().await;
                Ok(())
            }
            Ok(Next::Output) => match race(source.readable(), changed.changed(known)).await {
                Either::Left(result) => result,
                Either::Right(()) => {
                    moves.awaited = false;
                    Ok(())
                }
            },
            Ok(Next::Clients) => {
                changed.changed(known).await;
                Ok(())
            }
            Ok(Next::Leave) => break,
            Err(error) => Err(error),
        };
        if let Err(error) = waited {
            tracing::error!(?stream, %error, "output can't be moved in bulk; it is read again");
            break;
        }
    }
    if let Some(io) = io.upgrade() {
        io.end_bulk(stream, moves.small > SMALL_MOVES);
    }
}
