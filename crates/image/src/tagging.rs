//! Tagging, with Docker's rules and words.

use std::sync::Arc;

use gantry_store::{Batch, Table};

use crate::store::{State, now_unix_ns, to_json};
use crate::{Image, ImageError, ImageId, ImageStore, Reference};

impl ImageStore {
    /// Gives the image `name` also this name. An image that had it loses it.
    pub fn tag(&self, name: &str, target: &Reference) -> Result<Arc<Image>, ImageError> {
        let mut state = self.lock();
        let image = self.snapshot().resolve(name)?;
        self.set_tag(&mut state, &image.id, target, Some(now_unix_ns()))?;
        Ok(image)
    }

    /// The id that had this name before, if it was another. A load is no tagging: its time stays as it was.
    pub(crate) fn set_tag(
        &self,
        state: &mut State,
        id: &str,
        to: &Reference,
        tagged_unix_ns: Option<i64>,
    ) -> Result<Option<ImageId>, ImageError> {
        let mut snapshot = (*self.snapshot()).clone();
        let mut record = state
            .images
            .get(id)
            .cloned()
            .ok_or_else(|| ImageError::NotFound(id.to_owned()))?;
        record.last_tagged_unix_ns = tagged_unix_ns.unwrap_or(record.last_tagged_unix_ns);
        let mut batch = Batch::new();
        batch
            .put(Table::Tags, to.full(), id)
            .put(Table::Images, id, to_json(&record)?);
        self.store.commit_blocking(batch)?;
        if let Some(image) = snapshot.images.get_mut(id) {
            Arc::make_mut(image).last_tagged_unix_ns = record.last_tagged_unix_ns;
        }
        let old = snapshot.tags.insert(to.full(), id.to_owned());
        state.images.insert(id.to_owned(), record);
        self.publish(snapshot);
        Ok(old.filter(|old| old != id))
    }
}
