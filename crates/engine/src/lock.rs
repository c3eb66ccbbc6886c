//! A lock for tasks of one shard that may be held across awaits.

use std::cell::Cell;
use std::rc::Rc;

use gantry_rt::sync::Notify;

/// Serialises the operations on one container.
#[derive(Default)]
pub(crate) struct LocalLock {
    held: Rc<Cell<bool>>,
    freed: Rc<Notify>,
}

/// Holding it; dropping frees it.
pub(crate) struct LocalGuard {
    held: Rc<Cell<bool>>,
    freed: Rc<Notify>,
}

impl LocalLock {
    pub(crate) fn is_held(&self) -> bool {
        self.held.get()
    }

    pub(crate) async fn lock(&self) -> LocalGuard {
        while self.held.get() {
            self.freed.notified().await;
        }
        self.take()
    }

    /// The lock, if nobody holds it.
    pub(crate) fn try_lock(&self) -> Option<LocalGuard> {
        (!self.held.get()).then(|| self.take())
    }

    fn take(&self) -> LocalGuard {
        self.held.set(true);
        LocalGuard {
            held: self.held.clone(),
            freed: self.freed.clone(),
        }
    }
}

impl Drop for LocalGuard {
    fn drop(&mut self) {
        self.held.set(false);
        self.freed.notify_one();
    }
}
