//! Live output for one client.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use gantry_keeper_proto::shm::Stream;

use crate::io::ContainerIo;
use crate::signal::Signal;

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

#[derive(Debug)]
pub(crate) struct Queue {
    options: SubscribeOptions,
    frames: RefCell<VecDeque<Frame>>,
    bytes: Cell<usize>,
    ended: Cell<bool>,
    signal: Signal,
}

impl Queue {
    pub(crate) fn new(options: SubscribeOptions) -> Queue {
        let (frames, bytes, ended) = (RefCell::default(), Cell::new(0), Cell::new(false));
        Queue {
            options,
            frames,
            bytes,
            ended,
            signal: Signal::default(),
        }
    }

    pub(crate) fn push(&self, frame: &Frame) {
        let wanted = match frame.stream {
            Stream::Stdout => self.options.stdout,
            Stream::Stderr => self.options.stderr,
        };
        if wanted {
            self.bytes.set(self.bytes.get() + frame.bytes.len());
            self.frames.borrow_mut().push_back(frame.clone());
            self.signal.raise();
        }
    }

    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.signal.raise();
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }
}

/// A client's view of the output from the moment it subscribed. Dropping it frees the container from waiting for it.
#[derive(Debug)]
pub struct Subscription {
    pub(crate) queue: Rc<Queue>,
    pub(crate) io: Weak<ContainerIo>,
}

impl Subscription {
    /// The next piece; `None` after the last one, when the output has ended.
    pub async fn next(&self) -> Option<Frame> {
        loop {
            let known = self.queue.signal.count();
            if let Some(frame) = self.try_next() {
                return Some(frame);
            }
            if self.queue.ended.get() {
                return None;
            }
            self.queue.signal.changed(known).await;
        }
    }

    /// The next piece if there is one now.
    pub fn try_next(&self) -> Option<Frame> {
        let frame = self.queue.frames.borrow_mut().pop_front()?;
        let before = self.queue.bytes.get();
        self.queue.bytes.set(before - frame.bytes.len());
        if before > SUBSCRIPTION_LOW_BYTES
            && self.queue.bytes.get() <= SUBSCRIPTION_LOW_BYTES
            && let Some(io) = self.io.upgrade()
        {
            io.consumers_changed();
        }
        Some(frame)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(io) = self.io.upgrade() {
            io.unsubscribe(&self.queue);
        }
    }
}
