//! Mounts and volumes, as clients send and see them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::create::List;
use super::document;

fn is_false(flag: &bool) -> bool {
    !*flag
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

fn is_zero_mode(n: &u32) -> bool {
    *n == 0
}

fn is_empty_map(map: &Option<BTreeMap<String, String>>) -> bool {
    map.as_ref().is_none_or(BTreeMap::is_empty)
}

document! {
    /// One of `HostConfig.Mounts`.
    pub struct Mount = "mount.Mount" {
        #[serde(skip_serializing_if = "String::is_empty")]
        "Type" => kind: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        "Source" => source: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        "Target" => target: String,
        #[serde(skip_serializing_if = "is_false")]
        "ReadOnly" => read_only: bool,
        #[serde(skip_serializing_if = "String::is_empty")]
        "Consistency" => consistency: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        "BindOptions" => bind: Option<BindOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        "VolumeOptions" => volume: Option<VolumeOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        "ImageOptions" => image: Option<ImageOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        "TmpfsOptions" => tmpfs: Option<TmpfsOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        "ClusterOptions" => cluster: Option<serde_json::Value>,
    }
}

document! {
    /// `BindOptions`
    pub struct BindOptions = "mount.BindOptions" {
        #[serde(skip_serializing_if = "String::is_empty")]
        "Propagation" => propagation: String,
        #[serde(skip_serializing_if = "is_false")]
        "NonRecursive" => non_recursive: bool,
        #[serde(skip_serializing_if = "is_false")]
        "CreateMountpoint" => create_mountpoint: bool,
        #[serde(skip_serializing_if = "is_false")]
        "ReadOnlyNonRecursive" => read_only_non_recursive: bool,
        #[serde(skip_serializing_if = "is_false")]
        "ReadOnlyForceRecursive" => read_only_force_recursive: bool,
    }
}

document! {
    /// `VolumeOptions`
    pub struct VolumeOptions = "mount.VolumeOptions" {
        #[serde(skip_serializing_if = "is_false")]
        "NoCopy" => no_copy: bool,
        #[serde(skip_serializing_if = "is_empty_map")]
        "Labels" => labels: Option<BTreeMap<String, String>>,
        #[serde(skip_serializing_if = "String::is_empty")]
        "Subpath" => subpath: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        "DriverConfig" => driver: Option<Driver>,
    }
}

document! {
    /// `DriverConfig`
    pub struct Driver = "mount.Driver" {
        #[serde(skip_serializing_if = "String::is_empty")]
        "Name" => name: String,
        #[serde(skip_serializing_if = "is_empty_map")]
        "Options" => options: Option<BTreeMap<String, String>>,
    }
}

document! {
    /// `ImageOptions`
    pub struct ImageOptions = "mount.ImageOptions" {
        #[serde(skip_serializing_if = "String::is_empty")]
        "Subpath" => subpath: String,
    }
}

document! {
    /// `TmpfsOptions`
    pub struct TmpfsOptions = "mount.TmpfsOptions" {
        #[serde(skip_serializing_if = "is_zero")]
        "SizeBytes" => size_bytes: i64,
        #[serde(skip_serializing_if = "is_zero_mode")]
        "Mode" => mode: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        "Options" => options: List<Vec<String>>,
    }
}

document! {
    /// Body of `POST /volumes/create`.
    pub struct VolumeCreate = "volume.CreateOptions" {
        "ClusterVolumeSpec" => cluster: Option<serde_json::Value>,
        "Driver" => driver: String,
        "DriverOpts" => options: Option<BTreeMap<String, String>>,
        "Labels" => labels: Option<BTreeMap<String, String>>,
        "Name" => name: String,
    }
}

/// A mount as inspect and the list of containers show it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct MountPoint {
    #[serde(rename = "Type")]
    pub kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub source: String,
    pub destination: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub driver: &'static str,
    pub mode: String,
    #[serde(rename = "RW")]
    pub rw: bool,
    pub propagation: String,
}

/// A volume.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Volume {
    pub created_at: String,
    pub driver: &'static str,
    pub labels: Option<BTreeMap<String, String>>,
    pub mountpoint: String,
    pub name: String,
    pub options: Option<BTreeMap<String, String>>,
    pub scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_data: Option<UsageData>,
}

/// What a volume takes.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct UsageData {
    pub ref_count: usize,
    pub size: u64,
}
