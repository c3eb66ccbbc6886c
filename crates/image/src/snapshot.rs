//! The immutable view readers get.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::reference::{AnyReference, parse_any};
use crate::{Image, ImageError, ImageId};

/// All images at one moment.
#[derive(Clone, Debug, Default)]
pub struct ImageSnapshot {
    pub(crate) images: BTreeMap<ImageId, Arc<Image>>,
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
