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
            let mut state = self.store.lock();
            *state.pinned.entry(digest.to_owned()).or_default() += 1;
        }
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        for digest in &self.digests {
            if let Some(count) = state.pinned.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.pinned.remove(digest);
                }
            }
        }
        let snapshot = self.store.snapshot();
        let collected = self
            .store
            .collect(&mut state, &snapshot, Batch::new(), &self.digests);
        drop(state);
        if let Err(error) = collected {
            tracing::warn!(%error, "what a load left behind cannot be removed now; it goes at the next start");
        }
    }
}
