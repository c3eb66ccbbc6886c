//! Manifests and indexes of an OCI layout, and chain ids.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest;
pub(crate) use crate::platform::{HOST_OS, Platform};

/// A chain id per layer: of all layers up to it.
pub(crate) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(parent) => digest::of_bytes(format!("{parent} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Index {
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

impl Descriptor {
    pub(crate) fn is_index(&self) -> bool {
        matches!(
            self.media_type.as_str(),
            "application/vnd.oci.image.index.v1+json"
                | "application/vnd.docker.distribution.manifest.list.v2+json"
        )
    }

    /// Says nothing else than this platform.
    pub(crate) fn fits(&self, wanted: &Platform) -> bool {
        self.platform.as_ref().is_none_or(|p| wanted.fits(p))
    }

    /// The name to tag it with: containerd's full one, else one that is more than a bare tag.
    pub(crate) fn image_name(&self) -> Option<&str> {
        let annotations = self.annotations.as_ref()?;
        let get = |key: &str| annotations.get(key).map(String::as_str);
        get("io.containerd.image.name").or_else(|| {
            get("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/']))
        })
    }
}
