//! A level that tasks of one shard wait for to change.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Counts changes. A waiter says which count it knows, so no change is missed between look and wait.
#[derive(Debug, Default)]
pub struct Signal {
    count: Cell<u64>,
    wakers: RefCell<Vec<Waker>>,
}

impl Signal {
    /// The changes so far.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// Tells every waiter.
    pub fn raise(&self) {
        self.count.set(self.count.get() + 1);
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        for waker in wakers {
            waker.wake();
        }
    }

    /// Waits for a change after `known`.
    pub async fn changed(&self, known: u64) {
        poll_fn(|cx| {
            if self.count.get() != known {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|w| w.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
