//! A signal many tasks can wait for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct Waiter {
    notified: Cell<bool>,
    /// Woken by `notify_one`: if the waiter is dropped before it sees that, the signal goes to the next one.
    single: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// `notify_all` wakes those who wait now; `notify_one` wakes one, or is kept for the next to wait.
#[derive(Default)]
pub struct Notify {
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
    permit: Cell<bool>,
}

impl Notify {
    /// Nobody waits, nothing is signalled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes everyone whose `notified()` future exists now, polled or not.
    pub fn notify_all(&self) {
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for waiter in waiters {
            wake(&waiter, false);
        }
    }

    /// Wakes the one that waits longest; with none waiting the next `notified()` is ready at once (kept once, not counted).
    pub fn notify_one(&self) {
        let first = self.waiters.borrow_mut().pop_front();
        match first {
            Some(waiter) => wake(&waiter, true),
            None => self.permit.set(true),
        }
    }

    /// Waits for a signal given after this call (not after the first poll).
    pub fn notified(&self) -> Notified<'_> {
        let ready = self.permit.take();
        let waiter = Rc::new(Waiter {
            notified: Cell::new(ready),
            single: Cell::new(ready),
            waker: RefCell::new(None),
        });
        if !ready {
            self.waiters.borrow_mut().push_back(waiter.clone());
        }
        Notified {
            notify: self,
            waiter,
            done: false,
        }
    }
}

fn wake(waiter: &Waiter, single: bool) {
    waiter.notified.set(true);
    waiter.single.set(single);
    let waker = waiter.waker.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Future of [`Notify::notified`].
pub struct Notified<'a> {
    notify: &'a Notify,
    waiter: Rc<Waiter>,
    done: bool,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiter.notified.get() {
            self.done = true;
            return Poll::Ready(());
        }
        *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if !self.waiter.notified.get() {
            self.notify
                .waiters
                .borrow_mut()
                .retain(|w| !Rc::ptr_eq(w, &self.waiter));
        } else if self.waiter.single.get() {
            self.notify.notify_one();
        }
    }
}
