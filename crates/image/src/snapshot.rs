//! The immutable view readers get.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::reference::{AnyReference, parse_any};
use crate::{Image, ImageError, ImageId};

/// All images at one moment.
#[derive(Clone, Debug, Default)]
pub struct ImageSnapshot {
    pub(crate) images: BTreeMap<ImageId, Arc<Image>>,
    /// Removed, but a container uses them.
    pub(crate) hidden: BTreeMap<ImageId, Arc<Image>>,
    /// Full references to ids.
    pub(crate) tags: BTreeMap<String, ImageId>,
}

impl ImageSnapshot {
    /// Every image, newest first (then by id), as Docker lists them.
    pub fn list(&self) -> Vec<Arc<Image>> {
        let mut images: Vec<_> = self.images.values().cloned().collect();
        images.sort_by(|a, b| {
            b.created_unix_s
                .cmp(&a.created_unix_s)
                .then_with(|| a.id.cmp(&b.id))
        });
        images
    }

    /// The image of a full id.
    pub fn get(&self, id: &str) -> Option<&Arc<Image>> {
        self.images.get(id)
    }

    /// What this very name is bound to.
    pub fn id_of(&self, reference: &crate::Reference) -> Option<&ImageId> {
        self.tags.get(&reference.full())
    }

    /// The image of a container, which may be removed already.
    pub fn of_container(&self, id: &str) -> Option<&Arc<Image>> {
        self.images.get(id).or_else(|| self.hidden.get(id))
    }

    /// Images that are removed and wait for their containers.
    pub fn has_hidden(&self) -> bool {
        !self.hidden.is_empty()
    }

    /// All of them, hidden ones too.
    pub(crate) fn everything(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values().chain(self.hidden.values())
    }

    pub(crate) fn put(&mut self, image: Image, hidden: bool) {
        let (to, from) = if hidden {
            (&mut self.hidden, &mut self.images)
        } else {
            (&mut self.images, &mut self.hidden)
        };
        from.remove(&image.id);
        to.insert(image.id.clone(), Arc::new(image));
    }

    pub(crate) fn take(&mut self, id: &str) {
        self.images.remove(id);
        self.hidden.remove(id);
    }

    /// How much of each image's size other images have too (ids to bytes): layers below which all is the same.
    pub fn shared_sizes(&self) -> BTreeMap<ImageId, u64> {
        let chains: BTreeMap<&ImageId, Vec<String>> = self
            .images
            .iter()
            .map(|(id, image)| (id, crate::oci::chain_ids(&image.diff_ids)))
            .collect();
        let mut users: BTreeMap<&str, usize> = BTreeMap::new();
        for chain_id in chains.values().flatten() {
            *users.entry(chain_id).or_default() += 1;
        }
        let shared = |id: &ImageId, image: &Image| {
            let sizes = image.layer_sizes_bytes.iter();
            let chain = chains.get(id).into_iter().flatten();
            chain
                .zip(sizes)
                .filter(|(chain_id, _)| users.get(chain_id.as_str()).is_some_and(|n| *n > 1))
                .map(|(_, size)| size)
                .sum()
        };
        self.images
            .iter()
            .map(|(id, image)| (id.clone(), shared(id, image)))
            .collect()
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The image a user means: an id, a reference, or the start of an id. An ambiguous start is, as in Docker, no
    /// such image.
    pub fn resolve(&self, name: &str) -> Result<Arc<Image>, ImageError> {
        let reference = match parse_any(name)? {
            AnyReference::Id(id) => {
                return self
                    .images
                    .get(&id)
                    .cloned()
                    .ok_or(ImageError::NotFound(id));
            }
            AnyReference::Named(reference) => reference.or_latest(),
        };
        let by_tag = self
            .tags
            .get(&reference.full())
            .and_then(|id| self.images.get(id));
        if let Some(image) = by_tag
            .or_else(|| self.by_digest(&reference))
            .or_else(|| self.by_prefix(name))
        {
            return Ok(image.clone());
        }
        Err(ImageError::NotFound(reference.familiar()))
    }

    /// `name@sha256:..`, also with a tag, which the digest overrides.
    fn by_digest(&self, reference: &crate::Reference) -> Option<&Arc<Image>> {
        let key = format!("{}@{}", reference.name(), reference.digest()?);
        self.images.get(self.tags.get(&key)?)
    }

    fn by_prefix(&self, name: &str) -> Option<&Arc<Image>> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.is_empty() {
            return None;
        }
        let prefix = format!("sha256:{hex}");
        let mut matches = self
            .images
            .range(prefix.clone()..)
            .take_while(|(id, _)| id.starts_with(&prefix));
        match (matches.next(), matches.next()) {
            (Some((_, image)), None) => Some(image),
            _ => None,
        }
    }
}
