//! An answer from any thread to a task of a shard.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use crate::mailbox;
use crate::shard::{self, ShardId};

/// the other side was dropped without an answer
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other side was dropped without an answer")]
pub struct Dropped;

struct State<T> {
    value: Option<T>,
    closed: bool,
    waker: Option<Waker>,
}

struct Shared<T> {
    origin: ShardId,
    state: Mutex<State<T>>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code of ours can panic while it holds the lock.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The half that goes to the other thread. Dropping it unanswered is an answer too ([`Dropped`]).
pub struct ReplySender<T: Send + 'static> {
    shared: Option<Arc<Shared<T>>>,
}

/// The half that waits on the shard it was made on.
pub struct ReplyReceiver<T> {
    shared: Arc<Shared<T>>,
}

/// A reply channel whose receiver lives on the current shard.
///
/// # Panics
/// When called off-shard.
pub fn channel<T: Send + 'static>() -> (ReplySender<T>, ReplyReceiver<T>) {
    let shared = Arc::new(Shared {
        origin: shard::current_shard(),
        state: Mutex::new(State {
            value: None,
            closed: false,
            waker: None,
        }),
    });
    (
        ReplySender {
            shared: Some(shared.clone()),
        },
        ReplyReceiver { shared },
    )
}

impl<T: Send + 'static> ReplySender<T> {
    /// Answers. If the receiver is gone the value is dropped.
    pub fn send(mut self, value: T) {
        if let Some(shared) = self.shared.take() {
            finish(&shared, Some(value));
        }
    }

    /// The receiver is gone: nobody waits for the answer.
    pub fn is_abandoned(&self) -> bool {
        self.shared
            .as_ref()
            .is_none_or(|shared| Arc::strong_count(shared) == 1)
    }
}

impl<T: Send + 'static> Drop for ReplySender<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            finish(&shared, None);
        }
    }
}

fn finish<T>(shared: &Shared<T>, value: Option<T>) {
    let waker = {
        let mut state = shared.lock();
        state.value = value;
        state.closed = true;
        state.waker.take()
    };
    if let Some(waker) = waker {
        wake_on(shared.origin, waker);
    }
}

/// Wakes a task of shard `to` by its mailbox, which batches wake-ups; when the mailbox is full, directly.
pub(crate) fn wake_on(to: ShardId, waker: Waker) {
    if shard::try_current_shard() == Some(to) {
        waker.wake();
        return;
    }
    let direct = waker.clone();
    if mailbox::post(to, move || waker.wake()).is_err() {
        direct.wake();
    }
}

impl<T> Future for ReplyReceiver<T> {
    type Output = Result<T, Dropped>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.lock();
        if let Some(value) = state.value.take() {
            return Poll::Ready(Ok(value));
        }
        if state.closed {
            return Poll::Ready(Err(Dropped));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
