//! Live output for one client.

use std::io;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use gantry_keeper_proto::shm::Stream;
use gantry_rt::fd::AsyncFd;

use crate::io::ContainerIo;
use crate::queue::{Flushed, Queue};

/// Unsent output of one client past which the container's reads stop.
pub const SUBSCRIPTION_HIGH_BYTES: usize = 1024 * 1024;
/// Unsent output below which they go on.
pub const SUBSCRIPTION_LOW_BYTES: usize = 256 * 1024;

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
        self.queue.connect(sock, multiplexed);
        if let Some(io) = self.io.upgrade() {
            io.clients_changed();
        }
    }

    /// Sends what waits, as far as the socket takes it. An error says that the client is gone.
    pub fn flush(&self) -> io::Result<Flushed> {
        let before = (self.queue.backlog(), self.queue.piped());
        let flushed = self.queue.flush();
        self.taken(before);
        flushed
    }

    /// Waits until something waits to be sent; false when nothing will any more.
    pub async fn more(&self) -> bool {
        self.queue.more().await
    }

    /// The next piece; `None` after the last one, when the output has ended. For clients that are not connected to a
    /// socket.
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
        let before = (self.queue.backlog(), self.queue.piped());
        let (stream, bytes) = self.queue.pop()?;
        self.taken(before);
        Some(Frame { stream, bytes })
    }

    /// Lets reads go on when what waited, `before` and in its pipe, is little again.
    fn taken(&self, before: (usize, usize)) {
        let (backlog, piped) = before;
        let low =
            backlog > SUBSCRIPTION_LOW_BYTES && self.queue.backlog() <= SUBSCRIPTION_LOW_BYTES;
        let empty = piped > 0 && self.queue.piped() == 0;
        if let (true, Some(io)) = (low || empty, self.io.upgrade()) {
            if low {
                io.consumers_changed();
            }
            if empty {
                io.clients_changed();
            }
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
