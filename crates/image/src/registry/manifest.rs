//! Manifests and indexes as registries have them: Docker's schema 2 and OCI.

use serde::Deserialize;

use crate::model::MAX_LAYERS;
use crate::{ImageError, Platform, digest};

/// Manifests in one index.
pub const MAX_INDEX_ENTRIES: usize = 4096;

/// Kinds of documents that a name of a registry can mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// One image.
    Manifest,
    /// Images of several platforms.
    Index,
    /// Docker's old form.
    Schema1,
}

impl Media {
    /// By the media type; `None` if it is another.
    pub fn of(media_type: &str) -> Option<Self> {
        match media_type {
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => Some(Self::Manifest),
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => Some(Self::Index),
            "application/vnd.docker.distribution.manifest.v1+prettyjws"
            | "application/vnd.docker.distribution.manifest.v1+json" => Some(Self::Schema1),
            _ => None,
        }
    }
}

/// What a manifest or index says of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:<64 hex>`.
    pub digest: String,
    /// Its length.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// In an index: for which platform.
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// Images of several platforms.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// What it says it is.
    #[serde(default)]
    pub media_type: String,
    /// In its order.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// What it says it is.
    #[serde(default)]
    pub media_type: String,
    /// Its config file.
    pub config: Descriptor,
    /// Lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, ImageError> {
    // A list would be taken for the fields in their order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        let text = format!("invalid {what}: it is no JSON object");
        return Err(ImageError::InvalidReference(text));
    }
    serde_json::from_slice(bytes)
        .map_err(|e| ImageError::InvalidReference(format!("invalid {what}: {e}")))
}

impl Index {
    /// Reads an index; every digest in it is well-formed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let index: Self = json(bytes, "image index")?;
        if index.manifests.len() > MAX_INDEX_ENTRIES {
            return Err(ImageError::archive(format_args!(
                "more than {MAX_INDEX_ENTRIES} manifests in an index"
            )));
        }
        for entry in &index.manifests {
            digest::hex_of(&entry.digest)?;
        }
        Ok(index)
    }

    /// The manifest of the platform; one that says nothing of a platform is for all.
    pub fn choose(&self, wanted: &Platform) -> Option<&Descriptor> {
        let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| wanted.fits(p));
        let said = self.manifests.iter().find(fits);
        said.or_else(|| self.manifests.iter().find(|d| d.platform.is_none()))
    }
}

impl Manifest {
    /// Reads a manifest; every digest in it is well-formed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let manifest: Self = json(bytes, "image manifest")?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(ImageError::archive(format_args!(
                "more than {MAX_LAYERS} layers"
            )));
        }
        for entry in manifest.layers.iter().chain([&manifest.config]) {
            digest::hex_of(&entry.digest)?;
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> String {
        digest::of_bytes(&[n])
    }

    #[test]
    fn the_platform_that_is_said_is_preferred() {
        let entry =
            |n: u8, platform: &str| format!(r#"{{"digest":"{}","size":1{platform}}}"#, digest(n));
        let text = format!(
            r#"{{"manifests":[{},{},{}]}}"#,
            entry(0, ""),
            entry(1, r#","platform":{"os":"linux","architecture":"arm64"}"#),
            entry(
                2,
                r#","platform":{"os":"unknown","architecture":"unknown"}"#
            ),
        );
        let index = Index::parse(text.as_bytes()).unwrap();
        let chosen = |p: &str| index.choose(&Platform::parse(p).unwrap()).unwrap();
        assert_eq!(chosen("linux/arm64").digest, digest(1));
        assert_eq!(chosen("linux/s390x").digest, digest(0));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for bad in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"config":{"digest":"sha256:1","size":1}}"#,
            r#"{"config":{"digest":"sha512:1","size":1}}"#,
            r#"{"config":{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":-1}}"#,
        ] {
            assert!(Manifest::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
