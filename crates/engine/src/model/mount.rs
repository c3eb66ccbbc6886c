//! Mounts of containers, and volumes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The label of a volume that nobody named.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";
/// The one driver of volumes.
pub const LOCAL_DRIVER: &str = "local";

/// What a mount shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the host.
    #[default]
    Bind,
    /// A volume.
    Volume,
    /// Memory.
    Tmpfs,
    /// The files of an image.
    Image,
}

impl MountKind {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
            Self::Image => "image",
        }
    }
}

/// One mount of a container, as it was asked for and, of a volume, with the name it got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountPoint {
    /// What it shows.
    pub kind: MountKind,
    /// Path on the host of a bind mount.
    pub source: String,
    /// Name of the volume; empty before an anonymous one has got its name. Of an image what the client called it.
    pub volume: String,
    /// Id of the image.
    pub image_id: String,
    /// The volume has a made-up name and goes with its container if the client wants that.
    pub anonymous: bool,
    /// Clean path in the container.
    pub target: String,
    /// The client's modes, as inspect shows them.
    pub mode: String,
    /// Not writable from inside.
    pub readonly: bool,
    /// Docker's word of the propagation, as inspect shows it; empty for none.
    pub propagation: String,
    /// Where the source cannot propagate, the mount is private.
    pub propagation_optional: bool,
    /// A missing directory of the host is made at the start.
    pub create_source: bool,
    /// The image's content is copied into a new, empty volume.
    pub copy_up: bool,
    /// Without the mounts below the source.
    pub non_recursive: bool,
    /// Mounts below a read-only one stay writable.
    pub readonly_non_recursive: bool,
    /// A read-only mount whose inner mounts cannot be made read-only is refused.
    pub readonly_force_recursive: bool,
    /// A path in the volume or image that is mounted instead of all of it.
    pub subpath: String,
    /// Options of a tmpfs (`size=64m,mode=1777`).
    pub tmpfs_options: String,
}

/// A mount as a client asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountRequest {
    /// The mount.
    pub point: MountPoint,
    /// Driver of a volume that is to be made; empty means the local one.
    pub driver: String,
    /// Labels of a volume that is to be made.
    pub labels: Option<BTreeMap<String, String>>,
    /// Options of a volume that is to be made.
    pub options: Option<BTreeMap<String, String>>,
    /// It came as a mount of its own (`Mounts`), not as a short specification (`Binds`).
    pub detailed: bool,
}

/// A container whose volumes and bind mounts another one takes over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumesFrom {
    /// Id, id prefix or name.
    pub container: String,
    /// None of them is writable.
    pub readonly: bool,
}

/// A volume that a client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Empty for a made-up one.
    pub name: String,
    /// Empty for the local one.
    pub driver: String,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Options of the driver: type, device, o.
    pub options: Option<BTreeMap<String, String>>,
}

/// A volume, as it is stored. It never changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Layout version.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// Seconds since 1970.
    pub created_unix_s: i64,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Options of the driver.
    pub options: Option<BTreeMap<String, String>>,
}

impl Volume {
    /// Whether nobody named it.
    pub fn is_anonymous(&self) -> bool {
        self.labels
            .as_ref()
            .is_some_and(|l| l.contains_key(ANONYMOUS_LABEL))
    }
}

/// A volume as readers see it.
#[derive(Debug, Clone)]
pub struct VolumeView {
    /// The volume.
    pub volume: std::sync::Arc<Volume>,
    /// Its directory on the host.
    pub mountpoint: std::path::PathBuf,
    /// Containers that name it.
    pub users: usize,
}
