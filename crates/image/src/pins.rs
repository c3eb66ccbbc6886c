//! What loads and imports under way work on.

use std::collections::BTreeSet;

use gantry_store::Batch;

use crate::ImageStore;

/// Layers and blobs that no removal takes. When the last pin of one goes and no image has it, it goes too: a load
/// that failed leaves nothing.
pub(crate) struct Pins<'a> {
    store: &'a ImageStore,
    digests: BTreeSet<String>,
}

impl<'a> Pins<'a> {
    pub(crate) fn new(store: &'a ImageStore) -> Self {
        Self {
            store,
            digests: BTreeSet::new(),
        }
    }

    /// Pins the content of a digest (a diff id, or a blob). Before its layer or blob is looked for or put in place.
    pub(crate) fn add(&mut self, digest: &str) {
        if self.digests.insert(digest.to_owned()) {
            pin(self.store, digest);
        }
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        unpin(self.store, &self.digests);
    }
}

pub(crate) fn pin(store: &ImageStore, digest: &str) {
    let mut state = store.lock();
    *state.pinned.entry(digest.to_owned()).or_default() += 1;
}

/// Takes one pin of each away; what nobody holds any more goes.
pub(crate) fn unpin(store: &ImageStore, digests: &BTreeSet<String>) {
    let mut state = store.lock();
    for digest in digests {
        if let Some(count) = state.pinned.get_mut(digest) {
            *count -= 1;
            if *count == 0 {
                state.pinned.remove(digest);
            }
        }
    }
    let snapshot = store.snapshot();
    let collected = store.collect(&mut state, &snapshot, Batch::new(), digests);
    drop(state);
    if let Err(error) = collected {
        tracing::warn!(%error, "what a load left behind cannot be removed now; it goes at the next start");
    }
}
