//! Removal of images that nobody needs.

use crate::remove::UsedBy;
use crate::{Image, ImageError, ImageStore, Removal};

impl ImageStore {
    /// Removes every unused image that `wanted` takes: those without a tag, or with `all` those with tags too.
    pub fn prune(
        &self,
        all: bool,
        wanted: &dyn Fn(&Image) -> bool,
        used_by: UsedBy<'_>,
    ) -> Result<Vec<Removal>, ImageError> {
        let mut removals = Vec::new();
        for image in self.snapshot().list() {
            let tagged = !image.repo_tags.is_empty();
            if (tagged && !all) || !wanted(&image) || used_by(&image.id).is_some() {
                continue;
            }
            let mut names: Vec<&str> = image.repo_tags.iter().map(String::as_str).collect();
            names.extend(image.repo_digests.iter().map(String::as_str));
            if names.is_empty() {
                names.push(&image.id);
            }
            for name in names {
                match self.remove(name, false, used_by) {
                    Ok(removal) => removals.push(removal),
                    // Used, renamed or removed since the list was made.
                    Err(ImageError::Conflict(_) | ImageError::NotFound(_)) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(removals)
    }
}
