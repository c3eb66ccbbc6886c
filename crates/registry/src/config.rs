//! Configs of images that are being pulled: each is fetched once, as layers are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gantry_image::registry::Descriptor;
use tokio::sync::OnceCell;

use crate::Registry;
use crate::error::RegistryError;
use crate::session::Session;

type Fetched = HashMap<String, Arc<OnceCell<Bytes>>>;

/// By digest, as long as a pull works on an image of it.
#[derive(Default)]
pub(crate) struct Configs(Mutex<Fetched>);

impl Configs {
    fn lock(&self) -> MutexGuard<'_, Fetched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A config; others find it until the last that wanted it is done.
pub(crate) struct SharedConfig<'a> {
    configs: &'a Configs,
    digest: String,
    cell: Arc<OnceCell<Bytes>>,
}

impl Drop for SharedConfig<'_> {
    fn drop(&mut self) {
        let mut configs = self.configs.lock();
        // Ours and the map's; nobody can take another while the lock is held.
        if Arc::strong_count(&self.cell) == 2 {
            configs.remove(&self.digest);
        }
    }
}

impl Registry {
    /// Marks a config as wanted.
    pub(crate) fn want_config(&self, digest: &str) -> SharedConfig<'_> {
        let cell = self
            .configs
            .lock()
            .entry(digest.to_owned())
            .or_default()
            .clone();
        SharedConfig {
            configs: &self.configs,
            digest: digest.to_owned(),
            cell,
        }
    }

    /// The bytes of a config: an image's that is here, those another has fetched, or fetched now.
    pub(crate) async fn config(
        &self,
        session: &Session,
        blob: &Descriptor,
        shared: &SharedConfig<'_>,
    ) -> Result<Bytes, RegistryError> {
        if let Some(image) = self.images.snapshot().get(&blob.digest) {
            return Ok(Bytes::copy_from_slice(&image.raw_config));
        }
        let fetch = || session.blob(&blob.digest, blob.size_bytes);
        shared.cell.get_or_try_init(fetch).await.cloned()
    }
}
