//! Removal, with Docker's rules and words.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_store::{Batch, Table};

use crate::holds::Condemned;
use crate::store::{Collected, State, to_json};
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

/// What a removal did.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The image it was about, as it was.
    pub image: Arc<Image>,
    /// In order.
    pub done: Vec<Deleted>,
    /// Sizes of the layers that went.
    pub freed_bytes: u64,
}

/// Under the lock; the trees of [`Collected`] go after it.
struct Step<'a> {
    image: &'a Arc<Image>,
    condemned: &'a Condemned,
    used_by: UsedBy<'a>,
    force: bool,
    done: Vec<Deleted>,
    freed_bytes: u64,
    collected: Option<Collected>,
}

impl ImageStore {
    /// Removes a name, and the image with its last name. An image that only ended containers use goes with `force`:
    /// nobody sees it then but they, until the last of them is removed. (Docker's `noprune` has nothing to keep:
    /// there are no parents.)
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        used_by: UsedBy<'_>,
    ) -> Result<Removal, ImageError> {
        let mut state = self.lock();
        let image = self.snapshot().resolve(name)?;
        let condemned = self.holds.condemn(&image.id);
        let mut step = Step {
            image: &image,
            condemned: &condemned,
            used_by,
            force,
            done: Vec::new(),
            freed_bytes: 0,
            collected: None,
        };
        let result = self.remove_step(&mut state, name, &mut step);
        drop(state);
        let Step {
            done,
            freed_bytes,
            collected,
            ..
        } = step;
        // Deleting the trees takes as long as it takes; nobody else waits for it.
        drop(collected);
        result.map(|()| Removal {
            image: image.clone(),
            done,
            freed_bytes,
        })
    }

    fn remove_step(
        &self,
        state: &mut State,
        name: &str,
        step: &mut Step<'_>,
    ) -> Result<(), ImageError> {
        let id = step.image.id.as_str();
        let all = references(&self.snapshot(), id);
        let hex = id.strip_prefix("sha256:").unwrap_or(id);
        let by_id = id.starts_with(name) || hex.starts_with(name);
        if by_id {
            if !is_single(&all) && !step.force {
                self.check_use(step, true)?;
                return Err(conflict(
                    id,
                    false,
                    "image is referenced in multiple repositories",
                ));
            }
            self.check_use(step, step.force)?;
        } else {
            if !step.force
                && is_single(&all)
                && let Some((container, _)) = (step.used_by)(&step.image.id)
            {
                return Err(ImageError::Conflict(format!(
                    "conflict: unable to remove repository reference {name:?} (must force) - container {} is using its \
                     referenced image {}",
                    short(&container),
                    short(id)
                )));
            }
            let gone = names_that_go(&Reference::parse(name)?.or_latest(), &all);
            self.untag(&gone, &mut step.done)?;
            if all.iter().any(|r| !gone.contains(r)) || self.check_use(step, step.force).is_err() {
                // Another name, or a container, still holds the image.
                return Ok(());
            }
        }
        self.untag(&references(&self.snapshot(), id), &mut step.done)?;
        self.delete(state, step)
    }

    fn check_use(&self, step: &Step<'_>, force: bool) -> Result<(), ImageError> {
        let id = &step.image.id;
        match (step.used_by)(id) {
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
            None if step.condemned.held && !force => Err(conflict(
                id,
                false,
                "a container is being created from the image",
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
    fn delete(&self, state: &mut State, step: &mut Step<'_>) -> Result<(), ImageError> {
        let image = step.image;
        if step.condemned.held || (step.used_by)(&image.id).is_some() {
            self.hide(state, image)?;
            step.done.push(Deleted::Deleted(image.id.clone()));
            return Ok(());
        }
        let collected = self.take_out(state, image)?;
        step.done.push(Deleted::Deleted(image.id.clone()));
        let sizes = image.diff_ids.iter().zip(&image.layer_sizes_bytes);
        let sizes: BTreeMap<_, _> = sizes.collect();
        let freed = |diff_id| sizes.get(diff_id).copied().copied().unwrap_or(0);
        step.freed_bytes += collected.layers.iter().map(freed).sum::<u64>();
        // Docker names layers by all that is below them.
        let kept: BTreeSet<String> = self
            .snapshot()
            .everything()
            .flat_map(|other| crate::oci::chain_ids(&other.diff_ids))
            .collect();
        let chain = crate::oci::chain_ids(&image.diff_ids).into_iter().rev();
        step.done
            .extend(chain.filter(|c| !kept.contains(c)).map(Deleted::Deleted));
        step.collected = Some(collected);
        Ok(())
    }

    fn hide(&self, state: &mut State, image: &Arc<Image>) -> Result<(), ImageError> {
        let mut record = state.images.get(&image.id).cloned().unwrap_or_default();
        record.hidden = true;
        let mut batch = Batch::new();
        batch.put(Table::Images, &image.id, to_json(&record)?);
        self.store.commit_blocking(batch)?;
        state.images.insert(image.id.clone(), record);
        let mut snapshot = (*self.snapshot()).clone();
        snapshot.put((**image).clone(), true);
        self.publish(snapshot);
        Ok(())
    }

    fn take_out(&self, state: &mut State, image: &Image) -> Result<Collected, ImageError> {
        let mut snapshot = (*self.snapshot()).clone();
        snapshot.take(&image.id);
        let record = state.images.remove(&image.id).unwrap_or_default();
        let mut candidates: BTreeSet<String> = image.diff_ids.iter().cloned().collect();
        candidates.insert(image.id.clone());
        candidates.extend(record.blobs.iter().cloned());
        let mut batch = Batch::new();
        batch.delete(Table::Images, &image.id);
        let collected = self.collect(state, &snapshot, batch, &candidates);
        if collected.is_err() && self.snapshot().of_container(&image.id).is_some() {
            // The commit failed: it is still there.
            state.images.insert(image.id.clone(), record);
        }
        collected
    }

    /// Deletes removed images whose last container is gone.
    pub fn reap(&self, used_by: UsedBy<'_>) -> Result<(), ImageError> {
        for id in self.snapshot().hidden.keys() {
            let mut state = self.lock();
            let condemned = self.holds.condemn(id);
            let snapshot = self.snapshot();
            let Some(image) = snapshot.hidden.get(id) else {
                continue;
            };
            if condemned.held || used_by(id).is_some() {
                continue;
            }
            let collected = self.take_out(&mut state, image)?;
            drop(state);
            drop(collected);
        }
        Ok(())
    }
}

/// The names that go with this one: the last tag of a repository takes its digests along.
fn names_that_go(given: &Reference, all: &[Reference]) -> Vec<Reference> {
    let mut gone = vec![given.clone()];
    let rest: Vec<_> = all
        .iter()
        .filter(|r| *r != given && r.name() == given.name())
        .cloned()
        .collect();
    if given.digest().is_none() && rest.iter().all(|r| r.digest().is_some()) {
        gone.extend(rest);
    }
    gone
}
