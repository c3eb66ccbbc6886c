//! Bodies between a shard and a blocking reader or writer on a worker. Bounded by [`BRIDGE_CHUNKS`] in both directions.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use bytes::Bytes;

use crate::reply::wake_on;
use crate::shard::{self, ShardId};

/// Chunks in flight per bridge.
pub const BRIDGE_CHUNKS: usize = 8;

/// Largest chunk a writer hands over; small writes are gathered up to this.
pub const WRITE_CHUNK_BYTES: usize = 32 * 1024;

/// the other side of the bridge is gone
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other side of the bridge is gone")]
pub struct Closed;

struct State {
    chunks: VecDeque<Bytes>,
    /// How the sending side ended.
    end: Option<Result<(), io::Error>>,
    receiver_gone: bool,
    /// The shard-side task, whichever side that is.
    waker: Option<Waker>,
}

struct Shared {
    shard: ShardId,
    state: Mutex<State>,
    /// The blocking side waits here.
    changed: Condvar,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Shared {
            shard: shard::current_shard(),
            state: Mutex::new(State {
                chunks: VecDeque::new(),
                end: None,
                receiver_gone: false,
                waker: None,
            }),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(guard)
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wake_shard(&self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            wake_on(self.shard, waker);
        }
    }

    /// The blocking side changed something.
    fn change_by_blocking(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.lock();
            change(&mut state);
            state.waker.take()
        };
        self.wake_shard(waker);
    }

    /// The shard side changed something.
    fn change_by_shard(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Shard side of a request body on its way to a blocking reader. Dropping it without [`BodySender::finish`] makes the
/// reader fail with `UnexpectedEof`: a cut body must never look like a whole one.
pub struct BodySender(Arc<Shared>);

/// Blocking side; `read` blocks.
pub struct BodyReader {
    shared: Arc<Shared>,
    current: Bytes,
}

/// A request body for a blocking reader. Made on a shard.
pub fn body_to_reader() -> (BodySender, BodyReader) {
    let shared = Shared::new();
    (
        BodySender(shared.clone()),
        BodyReader {
            shared,
            current: Bytes::new(),
        },
    )
}

impl BodySender {
    /// Hands a chunk over, waiting while the reader is behind.
    pub async fn send(&self, chunk: Bytes) -> Result<(), Closed> {
        if chunk.is_empty() {
            return Ok(());
        }
        let mut chunk = Some(chunk);
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.receiver_gone {
                return Poll::Ready(Err(Closed));
            }
            if state.chunks.len() >= BRIDGE_CHUNKS {
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            state.chunks.extend(chunk.take());
            drop(state);
            self.0.changed.notify_all();
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Waits until the reader is gone.
    pub async fn closed(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.receiver_gone {
                return Poll::Ready(());
            }
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The body is complete.
    pub fn finish(self) {
        self.0.change_by_shard(|state| state.end = Some(Ok(())));
    }

    /// The body failed; the reader gets this error.
    pub fn fail(self, error: io::Error) {
        self.0.change_by_shard(|state| state.end = Some(Err(error)));
    }
}

impl Drop for BodySender {
    fn drop(&mut self) {
        self.0.change_by_shard(|state| {
            state.end.get_or_insert_with(|| {
                Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the client hung up",
                ))
            });
        });
    }
}

impl BodyReader {
    /// The next chunk without a copy; empty at the end.
    pub fn next_chunk(&mut self) -> io::Result<Bytes> {
        if !self.current.is_empty() {
            return Ok(std::mem::take(&mut self.current));
        }
        let mut state = self.shared.lock();
        loop {
            if let Some(chunk) = state.chunks.pop_front() {
                let waker = state.waker.take();
                drop(state);
                self.shared.wake_shard(waker);
                return Ok(chunk);
            }
            match &mut state.end {
                Some(Ok(())) => return Ok(Bytes::new()),
                Some(Err(e)) => {
                    let again = io::Error::new(e.kind(), e.to_string());
                    return Err(std::mem::replace(e, again));
                }
                None => state = self.shared.wait(state),
            }
        }
    }
}

impl io::Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.current.is_empty() {
            self.current = self.next_chunk()?;
        }
        let n = buf.len().min(self.current.len());
        buf[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        self.shared.change_by_blocking(|state| {
            state.receiver_gone = true;
            state.chunks.clear();
        });
    }
}

/// Blocking side of a response body; `write` blocks while the shard is behind and fails with `BrokenPipe` when the client
/// is gone. Dropped without [`BodyWriter::finish`], the body ends in an error.
pub struct BodyWriter {
    shared: Arc<Shared>,
    buffer: Vec<u8>,
}

/// Shard side of a response body.
pub struct BodyReceiver(Arc<Shared>);

/// A blocking writer whose bytes become a response body. Made on a shard.
pub fn writer_to_body() -> (BodyWriter, BodyReceiver) {
    let shared = Shared::new();
    (
        BodyWriter {
            shared: shared.clone(),
            buffer: Vec::new(),
        },
        BodyReceiver(shared),
    )
}

impl BodyWriter {
    /// Hands over a chunk without a copy.
    pub fn write_bytes(&mut self, chunk: Bytes) -> io::Result<()> {
        io::Write::flush(self)?;
        self.push(chunk)
    }

    fn push(&mut self, chunk: Bytes) -> io::Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        let mut state = self.shared.lock();
        while !state.receiver_gone && state.chunks.len() >= BRIDGE_CHUNKS {
            state = self.shared.wait(state);
        }
        if state.receiver_gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.chunks.push_back(chunk);
        let waker = state.waker.take();
        drop(state);
        self.shared.wake_shard(waker);
        Ok(())
    }

    /// The body is complete.
    pub fn finish(mut self) -> io::Result<()> {
        io::Write::flush(&mut self)?;
        self.shared
            .change_by_blocking(|state| state.end = Some(Ok(())));
        Ok(())
    }

    /// The body failed: the client sees a cut response.
    pub fn fail(self, error: io::Error) {
        self.shared
            .change_by_blocking(|state| state.end = Some(Err(error)));
    }
}

impl io::Write for BodyWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(WRITE_CHUNK_BYTES);
        self.buffer.extend_from_slice(&buf[..n]);
        if self.buffer.len() >= WRITE_CHUNK_BYTES {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        self.push(chunk)
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        self.shared.change_by_blocking(|state| {
            state.end.get_or_insert_with(|| {
                Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the writer ended early",
                ))
            });
        });
    }
}

impl BodyReceiver {
    /// The next chunk; `None` after a complete body.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if let Some(chunk) = state.chunks.pop_front() {
                drop(state);
                self.0.changed.notify_all();
                return Poll::Ready(Some(Ok(chunk)));
            }
            match state.end.take() {
                Some(Ok(())) => {
                    state.end = Some(Ok(()));
                    Poll::Ready(None)
                }
                Some(Err(e)) => {
                    state.end = Some(Ok(()));
                    Poll::Ready(Some(Err(e)))
                }
                None => {
                    state.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Drop for BodyReceiver {
    fn drop(&mut self) {
        self.0.change_by_shard(|state| {
            state.receiver_gone = true;
            state.chunks.clear();
        });
    }
}
