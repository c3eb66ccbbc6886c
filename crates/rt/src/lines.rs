//! Lines of a response body from a task of another thread that must not block: progress of work in the guest lane.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use bytes::Bytes;

use crate::reply::wake_on;
use crate::shard::{self, ShardId};

/// Lines that wait for a slow client before those that may be left out are.
pub const LOSSY_LINES: usize = 32;

/// Lines that wait for a client; one that is further behind is given up.
pub const MAX_LINES: usize = 16 * 1024;

#[derive(Default)]
struct State {
    lines: VecDeque<Bytes>,
    /// No more will come.
    ended: bool,
    receiver_gone: bool,
    /// The task on the shard.
    receiver: Option<Waker>,
    /// The task that waits for the client's end.
    sender: Option<Waker>,
}

struct Shared {
    shard: ShardId,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of ours can panic while it holds the lock.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The side that sends, on any thread. Dropped, the body ends.
pub struct LineSender(Arc<Shared>);

/// The side of the shard it was made on.
pub struct LineReceiver(Arc<Shared>);

/// Lines for a body of the current shard.
///
/// # Panics
/// When called off-shard.
pub fn channel() -> (LineSender, LineReceiver) {
    let shared = Arc::new(Shared {
        shard: shard::current_shard(),
        state: Mutex::default(),
    });
    (LineSender(shared.clone()), LineReceiver(shared))
}

impl LineSender {
    /// Adds a line; never blocks. One that is `lossy` is left out while the client is behind.
    pub fn send(&self, line: Bytes, lossy: bool) {
        let waker = {
            let mut state = self.0.lock();
            if state.receiver_gone || (lossy && state.lines.len() >= LOSSY_LINES) {
                return;
            }
            if state.lines.len() >= MAX_LINES {
                state.receiver_gone = true;
                state.lines.clear();
            } else {
                state.lines.push_back(line);
            }
            state.receiver.take()
        };
        if let Some(waker) = waker {
            wake_on(self.0.shard, waker);
        }
    }

    /// Waits until the client is gone. One task at a time.
    pub async fn closed(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.receiver_gone {
                return Poll::Ready(());
            }
            state.sender = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for LineSender {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.lock();
            state.ended = true;
            state.receiver.take()
        };
        if let Some(waker) = waker {
            wake_on(self.0.shard, waker);
        }
    }
}

impl LineReceiver {
    /// The next line; `None` when no more will come.
    pub async fn next(&mut self) -> Option<Bytes> {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if let Some(line) = state.lines.pop_front() {
                return Poll::Ready(Some(line));
            }
            if state.ended || state.receiver_gone {
                return Poll::Ready(None);
            }
            state.receiver = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for LineReceiver {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.lock();
            state.receiver_gone = true;
            state.lines.clear();
            state.sender.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_shard;

    #[test]
    fn lines_come_in_order_and_end() {
        let got = on_shard(|| async {
            let (tx, mut rx) = channel();
            std::thread::spawn(move || {
                for i in 0..100u8 {
                    tx.send(Bytes::from(vec![i]), false);
                }
            });
            let mut got = Vec::new();
            while let Some(line) = rx.next().await {
                got.extend_from_slice(&line);
            }
            got
        });
        assert_eq!(got, (0..100u8).collect::<Vec<_>>());
    }

    #[test]
    fn a_client_that_is_behind_misses_only_what_may_be_missed() {
        let got = on_shard(|| async {
            let (tx, mut rx) = channel();
            for i in 0..(2 * LOSSY_LINES) {
                tx.send(Bytes::from(vec![0; i + 1]), true);
            }
            tx.send(Bytes::from_static(b"end"), false);
            drop(tx);
            let mut got = Vec::new();
            while let Some(line) = rx.next().await {
                got.push(line.len());
            }
            got
        });
        assert_eq!(got.len(), LOSSY_LINES + 1);
        assert_eq!(got.last(), Some(&3));
    }

    #[test]
    fn the_sender_hears_that_the_client_is_gone() {
        on_shard(|| async {
            let (tx, rx) = channel();
            drop(rx);
            tx.closed().await;
        });
    }
}
