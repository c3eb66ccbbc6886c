//! Images that a container is being made from, and images that are being removed: never both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::{ImageError, ImageId, ImageStore};

#[derive(Default)]
struct State {
    held: BTreeMap<ImageId, usize>,
    condemned: BTreeSet<ImageId>,
}

/// The lock is never held across a wait or a system call: shards take it.
#[derive(Clone, Default)]
pub(crate) struct Holds(Arc<Mutex<State>>);

/// Keeps an image from being removed until the container that is made from it is visible.
pub struct ImageHold {
    holds: Holds,
    id: ImageId,
}

/// Keeps an image from being held while it is removed.
pub(crate) struct Condemned {
    holds: Holds,
    id: ImageId,
    /// Someone holds it: a container of it is about to be.
    pub(crate) held: bool,
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts and names stay right whatever panicked.
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn condemn(&self, id: &ImageId) -> Condemned {
        let mut state = self.lock();
        state.condemned.insert(id.clone());
        Condemned {
            holds: self.clone(),
            id: id.clone(),
            held: state.held.contains_key(id),
        }
    }
}

impl Drop for Condemned {
    fn drop(&mut self) {
        self.holds.lock().condemned.remove(&self.id);
    }
}

impl Drop for ImageHold {
    fn drop(&mut self) {
        let mut state = self.holds.lock();
        if let Some(count) = state.held.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.id);
            }
        }
    }
}

impl ImageStore {
    /// Holds an image for a container that is being made; refused if it is gone or going. Does not block.
    pub fn hold(&self, id: &ImageId) -> Result<ImageHold, ImageError> {
        let mut state = self.holds.lock();
        if state.condemned.contains(id) {
            return Err(ImageError::NotFound(id.clone()));
        }
        *state.held.entry(id.clone()).or_default() += 1;
        drop(state);
        let hold = ImageHold {
            holds: self.holds.clone(),
            id: id.clone(),
        };
        // A removal that ended before the hold took it out of the snapshot.
        match self.snapshot().get(id) {
            Some(_) => Ok(hold),
            None => Err(ImageError::NotFound(id.clone())),
        }
    }
}
