//! Devices, in the engine's words.

use gantry_engine::model::{DeviceMapping, DeviceRate, DeviceRequest};

use crate::wire::create::{HostConfig, List, ThrottleDevice};

/// `Devices`
pub(super) fn mappings(host: &HostConfig) -> Vec<DeviceMapping> {
    let one = |device: &crate::wire::create::DeviceMapping| DeviceMapping {
        host_path: device.path_on_host.clone(),
        container_path: device.path_in_container.clone(),
        access: device.cgroup_permissions.clone(),
    };
    host.devices.iter().flatten().map(one).collect()
}

/// `DeviceRequests`
pub(super) fn requests(host: &HostConfig) -> Vec<DeviceRequest> {
    let one = |request: &crate::wire::create::DeviceRequest| DeviceRequest {
        driver: request.driver.clone(),
        count: request.count,
        has_options: request.options.as_ref().is_some_and(|o| !o.is_empty()),
        ids: request.device_ids.clone().unwrap_or_default(),
        capabilities: request.capabilities.clone().unwrap_or_default(),
    };
    host.device_requests.iter().flatten().map(one).collect()
}

/// `BlkioWeightDevice`
pub(super) fn weights(host: &HostConfig) -> Vec<DeviceRate> {
    let devices = host.blkio_weight_device.iter().flatten();
    devices
        .map(|device| DeviceRate {
            path: device.path.clone(),
            rate: device.weight.into(),
        })
        .collect()
}

/// `BlkioDeviceReadBps` and its like.
pub(super) fn rates(list: &List<ThrottleDevice>) -> Vec<DeviceRate> {
    let devices = list.iter().flatten();
    devices
        .map(|device| DeviceRate {
            path: device.path.clone(),
            rate: device.rate,
        })
        .collect()
}
