//! `GET /distribution/NAME/json`: what a registry has under a name, without pulling it.

use std::sync::Arc;

use gantry_image::Reference;
use gantry_image::registry::{Manifest, Media};
use serde::Deserialize;

use crate::Registry;
use crate::auth::AuthConfig;
use crate::error::RegistryError;
use crate::session::{Access, open_any};

/// What a name of a registry means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Of the manifest or index.
    pub media_type: String,
    /// `sha256:<64 hex>`.
    pub digest: String,
    /// Length of the document.
    pub size_bytes: u64,
    /// What its images are for.
    pub platforms: Vec<RemotePlatform>,
}

/// A platform with all that an index can say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RemotePlatform {
    /// `amd64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Version, for Windows.
    #[serde(rename = "os.version")]
    pub os_version: String,
    /// Features, for Windows.
    #[serde(rename = "os.features")]
    pub os_features: Vec<String>,
    /// `v8`.
    pub variant: String,
}

#[derive(Deserialize)]
struct Entries {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    platform: Option<RemotePlatform>,
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, RegistryError> {
    serde_json::from_slice(bytes).map_err(|e| RegistryError::Protocol(e.to_string()))
}

impl Registry {
    /// Asks the registry. In the guest lane.
    pub async fn inspect(
        self: &Arc<Self>,
        reference: &Reference,
        auth: &AuthConfig,
    ) -> Result<Remote, RegistryError> {
        let session = open_any(&self.settings(), reference, auth, Access::Pull).await?;
        let which = reference.digest().or(reference.tag()).unwrap_or("latest");
        let document = session.manifest(which).await?;
        let platforms = match Media::of(&document.media_type) {
            Some(Media::Index) => {
                let entries: Entries = json(&document.bytes)?;
                let named = entries.manifests.into_iter();
                named.filter_map(|entry| entry.platform).collect()
            }
            Some(Media::Manifest) => {
                let manifest = Manifest::parse(&document.bytes)?;
                let config = &manifest.config;
                let bytes = session.blob(&config.digest, config.size_bytes).await?;
                let platform: RemotePlatform = json(&bytes).unwrap_or_default();
                // Another artifact's config has none.
                match platform.os.is_empty() && platform.architecture.is_empty() {
                    true => Vec::new(),
                    false => vec![platform],
                }
            }
            Some(Media::Schema1) => {
                return Err(RegistryError::Invalid(
                    "unsupported manifest format: Docker Image manifest version 2, schema 1".into(),
                ));
            }
            None => {
                return Err(RegistryError::Protocol(format!(
                    "unsupported media type {}",
                    document.media_type
                )));
            }
        };
        Ok(Remote {
            media_type: document.media_type,
            digest: document.digest,
            size_bytes: document.bytes.len() as u64,
            platforms,
        })
    }
}
