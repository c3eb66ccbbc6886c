//! Images as the daemon knows them, and the config file they come from.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::ImageError;

/// `null` and absent are the same.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// Any value; only the keys of these maps mean something.
pub type KeySet = BTreeMap<String, serde_json::Value>;

/// How a container of this image runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// User (`name`, `uid`, `user:group`); empty is root.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// Ports (`80/tcp`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<KeySet>,
    /// `NAME=value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Default arguments, or the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Paths that are volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<KeySet>,
    /// Working directory.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Triggers for builds on top of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// Labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal that stops it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Shell of shell forms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Only for Windows images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
}

/// A health check; durations in ns, 0 is inherited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ..]`, `["CMD-SHELL", ..]`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between checks.
    #[serde(rename = "Interval", skip_serializing_if = "is_zero")]
    pub interval_ns: i64,
    /// Time one check may take.
    #[serde(rename = "Timeout", skip_serializing_if = "is_zero")]
    pub timeout_ns: i64,
    /// Time at the start in which failures do not count.
    #[serde(rename = "StartPeriod", skip_serializing_if = "is_zero")]
    pub start_period_ns: i64,
    /// Time between checks in the start period.
    #[serde(rename = "StartInterval", skip_serializing_if = "is_zero")]
    pub start_interval_ns: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// How one layer (or no layer) came to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub created_by: String,
    /// By whom.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub author: String,
    /// Comment.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub comment: String,
    /// It made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) diff_ids: Vec<String>,
}

/// The config file, as far as it is understood. What is not understood stays in the raw bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigFile {
    #[serde(deserialize_with = "nullable")]
    pub(crate) architecture: String,
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) author: String,
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) comment: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) config: ImageConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) docker_version: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) history: Vec<History>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) os: String,
    pub(crate) rootfs: Option<RootFs>,
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) variant: String,
}

/// Most layers an image may have: an overlay takes 500 lower ones, and three of them are the engine's own. (dockerd stops
/// at 125.)
pub const MAX_LAYERS: usize = 497;

impl ConfigFile {
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, ImageError> {
        let file: Self = serde_json::from_slice(raw)
            .map_err(|e| ImageError::archive(format_args!("image config: {e}")))?;
        if file.rootfs.is_none() {
            return Err(ImageError::InvalidReference(
                "invalid image JSON, no RootFS key".into(),
            ));
        }
        if file.diff_ids().len() > MAX_LAYERS {
            return Err(ImageError::InvalidReference("max depth exceeded".into()));
        }
        for diff_id in file.diff_ids() {
            crate::digest::hex_of(diff_id)?;
        }
        Ok(file)
    }

    pub(crate) fn platform(&self) -> crate::oci::Platform {
        crate::oci::Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }

    /// Its layers, lowest first.
    pub(crate) fn diff_ids(&self) -> &[String] {
        self.rootfs.as_ref().map_or(&[], |r| &r.diff_ids)
    }
}

/// An image. Immutable: a new tag makes a new one in the next snapshot.
#[derive(Clone, Debug)]
pub struct Image {
    /// `sha256:<64 hex>`.
    pub id: crate::ImageId,
    /// Familiar references (`busybox:latest`), sorted.
    pub repo_tags: Vec<String>,
    /// Familiar references by digest, sorted.
    pub repo_digests: Vec<String>,
    /// When it was made, as the config says (RFC 3339); `None` if it does not say.
    pub created: Option<String>,
    /// The same in seconds of the epoch; 0 if it does not say.
    pub created_unix_s: i64,
    /// Sum of the sizes of the files in its layers.
    pub size_bytes: u64,
    /// How its containers run.
    pub config: ImageConfig,
    /// How it was made, oldest first.
    pub history: Vec<History>,
    /// Its layers by digest of their uncompressed tar, lowest first.
    pub diff_ids: Vec<String>,
    /// Size of each layer, in the order of `diff_ids`.
    pub layer_sizes_bytes: Vec<u64>,
    /// `amd64`.
    pub architecture: String,
    /// `v8`, for some architectures.
    pub variant: String,
    /// `linux`.
    pub os: String,
    /// Who made it.
    pub author: String,
    /// Comment.
    pub comment: String,
    /// Version of the Docker that made it.
    pub docker_version: String,
    /// When it was tagged last (unix ns), 0 if never.
    pub last_tagged_unix_ns: i64,
    /// The config file's own bytes.
    pub raw_config: Arc<[u8]>,
}

impl Image {
    /// When it was made, as its config says, in ns of the epoch.
    pub fn created_unix_ns(&self) -> Option<i64> {
        let created: jiff::Timestamp = self.created.as_deref()?.parse().ok()?;
        i64::try_from(created.as_nanosecond()).ok()
    }

    /// What it runs on.
    pub fn platform(&self) -> crate::Platform {
        crate::Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }
}
