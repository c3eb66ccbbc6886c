//! What a container shares with the host or with others, and which devices it gets.

use serde::{Deserialize, Serialize};

/// Which pid namespace a container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of another container, by id or name.
    Container(String),
}

/// Which IPC namespace and /dev/shm a container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcMode {
    /// Its own, for itself alone.
    #[default]
    Private,
    /// Its own, which others may join.
    Shareable,
    /// Its own, without /dev/shm.
    None,
    /// The host's.
    Host,
    /// That of another container, by id or name.
    Container(String),
}

impl IpcMode {
    /// Whether another container may join it.
    pub fn is_shareable(&self) -> bool {
        matches!(self, Self::Shareable | Self::Host | Self::Container(_))
    }
}

/// A device, or a directory of devices, of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// On the host; a symbolic link is followed.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// `rwm`, or some of it.
    pub access: String,
}

/// Devices that a driver is to find.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// Name of the driver; empty for any.
    pub driver: String,
    /// How many; -1 for all.
    #[serde(default)]
    pub count: i64,
    /// Ids of devices.
    pub ids: Vec<String>,
    /// There are options for the driver.
    #[serde(default)]
    pub has_options: bool,
    /// One of these sets of capabilities.
    pub capabilities: Vec<Vec<String>>,
}

/// A number per block device: a weight, or bytes or operations per second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRate {
    /// The device's node on the host.
    pub path: String,
    /// The number.
    pub rate: u64,
}
