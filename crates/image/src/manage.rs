//! Tagging and removal, with Docker's rules and words.

use std::sync::Arc;

use gantry_store::{Batch, Table};

use crate::store::{State, now_unix_ns, to_json};
use crate::{Image, ImageError, ImageId, ImageSnapshot, ImageStore, Reference};

/// One thing a removal did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// A reference went.
    Untagged(String),
    /// An image (or layer) went.
    Deleted(String),
}

/// Who uses an image: id of a container and whether it runs; running ones first.
pub type UsedBy<'a> = &'a dyn Fn(&ImageId) -> Option<(String, bool)>;

fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

fn references(snapshot: &ImageSnapshot, id: &str) -> Vec<Reference> {
    let of_image = snapshot.tags.iter().filter(|(_, target)| *target == id);
    of_image
        .filter_map(|(full, _)| Reference::parse(full).ok())
        .collect()
}

/// At most one tag, and all digests of its repository.
fn is_single(references: &[Reference]) -> bool {
    if references.len() <= 1 {
        return true;
    }
    let tags = references.iter().filter(|r| r.digest().is_none()).count();
    tags <= 1 && references.iter().all(|r| r.name() == references[0].name())
}

fn conflict(id: &str, hard: bool, why: impl std::fmt::Display) -> ImageError {
    let how = if hard {
        "cannot be forced"
    } else {
        "must be forced"
    };
    ImageError::Conflict(format!(
        "conflict: unable to delete {} ({how}) - {why}",
        short(id)
    ))
}

impl ImageStore {
    /// Names the image `name` also `repo:tag` (an empty tag is `latest`). An image that had this name loses it.
    pub fn tag(&self, name: &str, repo: &str, tag: &str) -> Result<Arc<Image>, ImageError> {
        let mut target = Reference::parse(repo)?;
        if target.digest().is_some() {
            return Err(ImageError::InvalidReference(
                "refusing to create a tag with a digest reference".into(),
            ));
        }
        if !tag.is_empty() {
            target = target.with_tag(tag)?;
        }
        let mut state = self.lock();
        let image = self.snapshot().resolve(name)?;
        self.set_tag(&mut state, &image.id, &target.or_latest())?;
        Ok(self.snapshot().get(&image.id).cloned().unwrap_or(image))
    }

    /// The id that had this name before, if it was another.
    pub(crate) fn set_tag(
        &self,
        state: &mut State,
        id: &str,
        to: &Reference,
    ) -> Result<Option<ImageId>, ImageError> {
        let mut snapshot = (*self.snapshot()).clone();
        let mut record = state
            .images
            .get(id)
            .cloned()
            .ok_or_else(|| ImageError::NotFound(id.to_owned()))?;
        record.last_tagged_unix_ns = now_unix_ns();
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

    /// Removes a name, and the image with its last name. `noprune` is accepted: there are no parents to prune.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        _noprune: bool,
        used_by: UsedBy<'_>,
    ) -> Result<Vec<Deleted>, ImageError> {
        let mut state = self.lock();
        let snapshot = self.snapshot();
        let image = snapshot.resolve(name)?;
        let id = image.id.as_str();
        let all = references(&snapshot, id);
        let hex = id.strip_prefix("sha256:").unwrap_or(id);
        let mut quiet = false;
        let mut done = Vec::new();
        if !id.starts_with(name) && !hex.starts_with(name) {
            if !force
                && is_single(&all)
                && let Some((container, _)) = used_by(&image.id)
            {
                return Err(ImageError::Conflict(format!(
                    "conflict: unable to remove repository reference {name:?} (must force) - container {} is using its \
                     referenced image {}",
                    short(&container),
                    short(id)
                )));
            }
            let given = Reference::parse(name)?.or_latest();
            let mut gone = vec![given.clone()];
            let left = |gone: &[Reference]| {
                all.iter()
                    .filter(|r| !gone.contains(r))
                    .cloned()
                    .collect::<Vec<_>>()
            };
            let same_repository: Vec<_> = left(&gone)
                .into_iter()
                .filter(|r| r.name() == given.name())
                .collect();
            if given.digest().is_none() && same_repository.iter().all(|r| r.digest().is_some()) {
                // Digests alone do not hold the repository.
                gone.extend(same_repository);
            }
            let remaining = left(&gone);
            self.untag(&gone, &mut done)?;
            if !remaining.is_empty() {
                return Ok(done);
            }
            quiet = true;
        } else if !is_single(&all) && !force {
            self.check_use(&image.id, true, used_by)?;
            return Err(conflict(
                id,
                false,
                "image is referenced in multiple repositories",
            ));
        }
        match self.check_use(&image.id, force, used_by) {
            // The name went; a container still holds the image.
            Err(_) if quiet => return Ok(done),
            checked => checked?,
        }
        self.untag(&references(&self.snapshot(), id), &mut done)?;
        self.delete(&mut state, &image, &mut done)?;
        Ok(done)
    }

    fn check_use(&self, id: &ImageId, force: bool, used_by: UsedBy<'_>) -> Result<(), ImageError> {
        match used_by(id) {
            Some((container, true)) => Err(conflict(
                id,
                true,
                format_args!(
                    "image is being used by running container {}",
                    short(&container)
                ),
            )),
            Some((container, false)) if !force => Err(conflict(
                id,
                false,
                format_args!(
                    "image is being used by stopped container {}",
                    short(&container)
                ),
            )),
            _ => Ok(()),
        }
    }

    fn untag(&self, gone: &[Reference], done: &mut Vec<Deleted>) -> Result<(), ImageError> {
        let mut snapshot = (*self.snapshot()).clone();
        let mut batch = Batch::new();
        for reference in gone {
            batch.delete(Table::Tags, reference.full());
            snapshot.tags.remove(&reference.full());
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.store.commit_blocking(batch)?;
        self.publish(snapshot);
        done.extend(gone.iter().map(|r| Deleted::Untagged(r.familiar())));
        Ok(())
    }

    /// Records first, so that a crash in between leaves only what the next start sweeps.
    fn delete(
        &self,
        state: &mut State,
        image: &Image,
        done: &mut Vec<Deleted>,
    ) -> Result<(), ImageError> {
        let mut snapshot = (*self.snapshot()).clone();
        snapshot.images.remove(&image.id);
        let mut used: std::collections::BTreeSet<&String> = snapshot
            .images
            .values()
            .flat_map(|other| &other.diff_ids)
            .collect();
        used.extend(state.pinned.keys());
        let free: Vec<String> = image
            .diff_ids
            .iter()
            .filter(|d| !used.contains(d))
            .cloned()
            .collect();
        let mut batch = Batch::new();
        batch.delete(Table::Images, &image.id);
        for diff_id in &free {
            batch.delete(Table::Layers, diff_id);
        }
        self.store.commit_blocking(batch)?;
        drop(used);
        self.publish(snapshot);
        let record = state.images.remove(&image.id).unwrap_or_default();
        done.push(Deleted::Deleted(image.id.clone()));
        let chain = crate::oci::chain_ids(&image.diff_ids);
        for (diff_id, chain_id) in image.diff_ids.iter().zip(chain).rev() {
            if state.layers.contains_key(diff_id) && free.contains(diff_id) {
                state.layers.remove(diff_id);
                self.layers.remove(diff_id)?;
                done.push(Deleted::Deleted(chain_id));
            }
        }
        for blob in std::iter::once(&image.id).chain(&record.blobs) {
            if !state.images.contains_key(blob)
                && !state.images.values().any(|r| r.blobs.contains(blob))
            {
                self.blobs.remove(blob)?;
            }
        }
        Ok(())
    }
}
