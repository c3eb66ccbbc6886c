//! What long operations give back: something to wait on or to read from.

use std::os::fd::OwnedFd;

use bytes::Bytes;

use crate::EngineError;
use crate::model::WaitResult;

/// A registered wait; the response head may go out before it ends.
pub struct WaitHandle {}

impl WaitHandle {
    /// Waits for the condition.
    pub async fn wait(self) -> Result<WaitResult, EngineError> {
        Err(EngineError::Unavailable("not connected".to_owned()))
    }
}

/// A checked attach; give it the connection.
pub struct AttachTicket {
    pub(crate) tty: bool,
}

impl AttachTicket {
    /// Whether the container has a terminal (raw stream) or not (multiplexed frames).
    pub fn tty(&self) -> bool {
        self.tty
    }

    /// Serves the connection in the background, on the shard of the container. `over_read` is what
    /// had been read past the request's head.
    pub fn serve(self, _socket: OwnedFd, _over_read: Bytes) {}
}

/// Log records, as multiplexed frames or (terminal) raw bytes.
pub struct LogStream {
    pub(crate) tty: bool,
}

impl LogStream {
    /// Whether the container has a terminal (raw stream) or not (multiplexed frames).
    pub fn tty(&self) -> bool {
        self.tty
    }

    /// The next chunk; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, EngineError>> {
        None
    }
}
