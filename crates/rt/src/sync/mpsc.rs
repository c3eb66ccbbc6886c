//! A bounded queue, many senders, one receiver.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    senders: usize,
    receiver_gone: bool,
    receiver: Option<Waker>,
    /// Senders that wait for room or for the end. Woken all at once: few and on one shard.
    waiting: Vec<Waker>,
}

impl<T> State<T> {
    fn wait(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|w| w.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
    }
}

/// the receiver is gone
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receiver is gone")]
pub struct Closed;

/// Why a value was not queued; it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// No room now.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

/// Queues values.
pub struct Sender<T>(Rc<RefCell<State<T>>>);

/// Takes values.
pub struct Receiver<T>(Rc<RefCell<State<T>>>);

/// A queue of at most `capacity` values (at least 1).
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = Rc::new(RefCell::new(State {
        queue: VecDeque::new(),
        capacity: capacity.max(1),
        senders: 1,
        receiver_gone: false,
        receiver: None,
        waiting: Vec::new(),
    }));
    (Sender(state.clone()), Receiver(state))
}

impl<T> Sender<T> {
    /// Queues without waiting.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let waker = {
            let mut state = self.0.borrow_mut();
            if state.receiver_gone {
                return Err(TrySendError::Closed(value));
            }
            if state.queue.len() >= state.capacity {
                return Err(TrySendError::Full(value));
            }
            state.queue.push_back(value);
            state.receiver.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Queues, waiting for room.
    pub async fn send(&self, value: T) -> Result<(), Closed> {
        let mut value = Some(value);
        std::future::poll_fn(move |cx| {
            let Some(v) = value.take() else {
                return Poll::Ready(Ok(()));
            };
            match self.try_send(v) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(TrySendError::Closed(_)) => Poll::Ready(Err(Closed)),
                Err(TrySendError::Full(v)) => {
                    value = Some(v);
                    self.0.borrow_mut().wait(cx);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.0.borrow().receiver_gone
    }

    /// Waits until the receiver is gone.
    pub async fn closed(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.receiver_gone {
                return Poll::Ready(());
            }
            state.wait(cx);
            Poll::Pending
        })
        .await;
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.borrow_mut().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.borrow_mut();
            state.senders -= 1;
            if state.senders == 0 {
                state.receiver.take()
            } else {
                None
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// The next value; `None` when every sender is gone and the queue is empty.
    pub async fn recv(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// As `recv`, for hand-written futures.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.borrow_mut();
        if let Some(value) = state.queue.pop_front() {
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(Waker::wake);
            return Poll::Ready(Some(value));
        }
        if state.senders == 0 {
            return Poll::Ready(None);
        }
        state.receiver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The next value if there is one now.
    pub fn try_recv(&mut self) -> Option<T> {
        let (value, waiting) = {
            let mut state = self.0.borrow_mut();
            let value = state.queue.pop_front()?;
            (value, std::mem::take(&mut state.waiting))
        };
        waiting.into_iter().for_each(Waker::wake);
        Some(value)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let (queue, waiting) = {
            let mut state = self.0.borrow_mut();
            state.receiver_gone = true;
            (
                std::mem::take(&mut state.queue),
                std::mem::take(&mut state.waiting),
            )
        };
        drop(queue);
        waiting.into_iter().for_each(Waker::wake);
    }
}
