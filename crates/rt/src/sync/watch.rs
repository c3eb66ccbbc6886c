//! A value whose changes can be awaited.

use std::cell::{Cell, Ref, RefCell};

use super::Notify;

/// The latest value and a version that counts its changes.
pub struct Watch<T> {
    value: RefCell<T>,
    version: Cell<u64>,
    changed: Notify,
}

impl<T> Watch<T> {
    /// A value of version 0.
    pub fn new(value: T) -> Self {
        Watch {
            value: RefCell::new(value),
            version: Cell::new(0),
            changed: Notify::new(),
        }
    }

    /// Replaces the value and wakes everyone who waits.
    pub fn set(&self, value: T) {
        let old = self.value.replace(value);
        self.version.set(self.version.get() + 1);
        self.changed.notify_all();
        drop(old);
    }

    /// The value; do not hold it across an await.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.value.borrow()
    }

    /// Number of changes so far.
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    /// Waits until the version is above `seen`; answers the new version.
    pub async fn changed(&self, seen: u64) -> u64 {
        while self.version.get() <= seen {
            self.changed.notified().await;
        }
        self.version.get()
    }

    /// Waits until the value satisfies `test`.
    pub async fn wait_for(&self, mut test: impl FnMut(&T) -> bool) {
        loop {
            let seen = self.version.get();
            if test(&self.value.borrow()) {
                return;
            }
            self.changed(seen).await;
        }
    }
}

impl<T: Clone> Watch<T> {
    /// A copy of the value.
    pub fn get(&self) -> T {
        self.value.borrow().clone()
    }
}
