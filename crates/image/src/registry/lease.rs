//! Content that a task holds on to, across threads.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ImageStore;
use crate::pins;

/// Keeps layers and blobs from being removed. Dropping it may delete files: not on a thread that must not block.
pub struct ContentLease {
    store: Arc<ImageStore>,
    digests: Mutex<BTreeSet<String>>,
}

impl ImageStore {
    /// A lease without content yet.
    pub fn lease(self: &Arc<Self>) -> ContentLease {
        ContentLease {
            store: self.clone(),
            digests: Mutex::default(),
        }
    }
}

impl ContentLease {
    /// Holds the content of a digest (a diff id, or a blob) from now on. Before it is looked for.
    pub fn add(&self, digest: &str) {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if digests.insert(digest.to_owned()) {
            pins::pin(&self.store, digest);
        }
    }
}

impl Drop for ContentLease {
    fn drop(&mut self) {
        let digests = self
            .digests
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        pins::unpin(&self.store, digests);
    }
}
