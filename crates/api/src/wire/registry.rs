//! Documents about registries.

use gantry_registry::{Found, Remote, RemotePlatform};
use serde::Serialize;

use super::document;

document! {
    /// Body of `POST /auth`.
    pub struct AuthRequest = "registry.AuthConfig" {
        "username" => username: String,
        "password" => password: String,
        "auth" => auth: String,
        "serveraddress" => server_address: String,
        "identitytoken" => identity_token: String,
        "registrytoken" => registry_token: String,
    }
}

/// Answer of `GET /distribution/NAME/json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct DistributionInspect {
    pub descriptor: Descriptor,
    pub platforms: Vec<Platform>,
}

/// What a name means.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
}

/// A platform as OCI writes it.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl From<RemotePlatform> for Platform {
    fn from(p: RemotePlatform) -> Self {
        Self {
            architecture: p.architecture,
            os: p.os,
            os_version: p.os_version,
            os_features: p.os_features,
            variant: p.variant,
        }
    }
}

impl From<Remote> for DistributionInspect {
    fn from(remote: Remote) -> Self {
        Self {
            descriptor: Descriptor {
                media_type: remote.media_type,
                digest: remote.digest,
                size: remote.size_bytes,
            },
            platforms: remote.platforms.into_iter().map(Into::into).collect(),
        }
    }
}

/// A row of a search.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct SearchResult {
    pub star_count: i64,
    pub is_official: bool,
    pub name: String,
    pub is_automated: bool,
    pub description: String,
}

impl From<Found> for SearchResult {
    fn from(found: Found) -> Self {
        Self {
            star_count: found.star_count,
            is_official: found.is_official,
            name: found.name,
            is_automated: false,
            description: found.description,
        }
    }
}
