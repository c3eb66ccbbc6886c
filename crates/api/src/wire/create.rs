//! What a client sends to create a container, and its echo in inspect.

use std::collections::BTreeMap;

use serde_json::Value;

use super::document;
use crate::json::decode::{FromJson, Mismatch};

/// Keys that mean something, with values that do not.
pub type KeySet = BTreeMap<String, Value>;
/// A list that may be `null`.
pub type List<T> = Option<Vec<T>>;

document! {
    /// Body of `POST /containers/create`.
    pub struct CreateRequest = "container.CreateRequest" {
        "Hostname" => hostname: String,
        "Domainname" => domainname: String,
        "User" => user: String,
        "AttachStdin" => attach_stdin: bool,
        "AttachStdout" => attach_stdout: bool,
        "AttachStderr" => attach_stderr: bool,
        "ExposedPorts" => exposed_ports: Option<KeySet>,
        "Tty" => tty: bool,
        "OpenStdin" => open_stdin: bool,
        "StdinOnce" => stdin_once: bool,
        "Env" => env: List<String>,
        "Cmd" => cmd: StringList,
        "Healthcheck" => healthcheck: Option<Healthcheck>,
        "ArgsEscaped" => args_escaped: bool,
        "Image" => image: String,
        "Volumes" => volumes: Option<KeySet>,
        "WorkingDir" => working_dir: String,
        "Entrypoint" => entrypoint: StringList,
        "NetworkDisabled" => network_disabled: bool,
        "MacAddress" => mac_address: String,
        "OnBuild" => on_build: List<String>,
        "Labels" => labels: Option<BTreeMap<String, String>>,
        "StopSignal" => stop_signal: String,
        "StopTimeout" => stop_timeout: Option<i64>,
        "Shell" => shell: StringList,
        "HostConfig" => host_config: Option<HostConfig>,
        "NetworkingConfig" => networking_config: Option<NetworkingConfig>,
    }
}

document! {
    /// `NetworkingConfig`
    pub struct NetworkingConfig = "network.NetworkingConfig" {
        "EndpointsConfig" => endpoints: Option<BTreeMap<String, Option<Endpoint>>>,
    }
}

document! {
    /// What a client may wish of an endpoint, as far as it would change behaviour.
    pub struct Endpoint = "network.EndpointSettings" {
        "IPAMConfig" => ipam: Option<Value>,
        "Links" => links: List<String>,
        "Aliases" => aliases: List<String>,
        "MacAddress" => mac_address: String,
        "DriverOpts" => driver_opts: Option<BTreeMap<String, String>>,
    }
}

/// A list of strings, or one string that stands for a list of one.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct StringList(pub Option<Vec<String>>);

impl FromJson for StringList {
    fn go_type() -> String {
        "string".to_owned()
    }
    fn from_value(value: Value) -> Result<Self, Mismatch> {
        let list = match value {
            Value::Array(_) => Vec::from_value(value)?,
            one => vec![String::from_value(one)?],
        };
        Ok(Self(Some(list)))
    }
}

/// A span in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Span {
    /// Negative ones are for the client to hear of.
    pub ns: i64,
}

impl Span {
    fn is_zero(&self) -> bool {
        self.ns == 0
    }
}

impl FromJson for Span {
    fn go_type() -> String {
        "time.Duration".to_owned()
    }
    fn from_value(value: Value) -> Result<Self, Mismatch> {
        let ns = i64::from_value(value).map_err(|e| e.of_type(Self::go_type()))?;
        Ok(Self { ns })
    }
}

document! {
    /// `Healthcheck`
    pub struct Healthcheck = "container.HealthConfig" {
        #[serde(skip_serializing_if = "Option::is_none")]
        "Test" => test: List<String>,
        #[serde(skip_serializing_if = "Span::is_zero")]
        "Interval" => interval: Span,
        #[serde(skip_serializing_if = "Span::is_zero")]
        "Timeout" => timeout: Span,
        #[serde(skip_serializing_if = "Span::is_zero")]
        "StartPeriod" => start_period: Span,
        #[serde(skip_serializing_if = "Span::is_zero")]
        "StartInterval" => start_interval: Span,
        #[serde(skip_serializing_if = "is_zero")]
        "Retries" => retries: i64,
    }
}

document! {
    /// `LogConfig`
    pub struct LogConfig = "container.LogConfig" {
        "Type" => driver: String,
        "Config" => options: BTreeMap<String, String>,
    }
}

document! {
    /// `RestartPolicy`
    pub struct RestartPolicy = "container.RestartPolicy" {
        "Name" => name: String,
        "MaximumRetryCount" => maximum_retry_count: i64,
    }
}

document! {
    /// `Ulimits`
    pub struct Ulimit = "units.Ulimit" {
        "Name" => name: String,
        "Hard" => hard: i64,
        "Soft" => soft: i64,
    }
}

document! {
    /// `Devices`
    pub struct DeviceMapping = "container.DeviceMapping" {
        "PathOnHost" => path_on_host: String,
        "PathInContainer" => path_in_container: String,
        "CgroupPermissions" => cgroup_permissions: String,
    }
}

document! {
    /// `DeviceRequests`
    pub struct DeviceRequest = "container.DeviceRequest" {
        "Driver" => driver: String,
        "Count" => count: i64,
        "DeviceIDs" => device_ids: List<String>,
        "Capabilities" => capabilities: List<Vec<String>>,
        "Options" => options: Option<BTreeMap<String, String>>,
    }
}

document! {
    /// `BlkioWeightDevice`
    pub struct WeightDevice = "blkiodev.WeightDevice" {
        "Path" => path: String,
        "Weight" => weight: u16,
    }
}

document! {
    /// `BlkioDeviceReadBps` and its like.
    pub struct ThrottleDevice = "blkiodev.ThrottleDevice" {
        "Path" => path: String,
        "Rate" => rate: u64,
    }
}

document! {
    /// Body of `POST /containers/{id}/update`: what of it is followed.
    pub struct UpdateRequest = "container.UpdateConfig" {
        "CpuShares" => cpu_shares: i64,
        "Memory" => memory: i64,
        "NanoCpus" => nano_cpus: i64,
        "BlkioWeight" => blkio_weight: u16,
        "CpuPeriod" => cpu_period: i64,
        "CpuQuota" => cpu_quota: i64,
        "CpuRealtimePeriod" => cpu_realtime_period: i64,
        "CpuRealtimeRuntime" => cpu_realtime_runtime: i64,
        "CpusetCpus" => cpuset_cpus: String,
        "CpusetMems" => cpuset_mems: String,
        "MemoryReservation" => memory_reservation: i64,
        "MemorySwap" => memory_swap: i64,
        "MemorySwappiness" => memory_swappiness: Option<i64>,
        "OomKillDisable" => oom_kill_disable: Option<bool>,
        "PidsLimit" => pids_limit: Option<i64>,
        "RestartPolicy" => restart_policy: RestartPolicy,
    }
}

document! {
    /// `HostConfig`, complete, in dockerd's order.
    pub struct HostConfig = "container.HostConfig" {
        "Binds" => binds: List<String>,
        "ContainerIDFile" => container_id_file: String,
        "LogConfig" => log_config: LogConfig,
        "NetworkMode" => network_mode: String,
        "PortBindings" => port_bindings: Option<BTreeMap<String, Value>>,
        "RestartPolicy" => restart_policy: RestartPolicy,
        "AutoRemove" => auto_remove: bool,
        "VolumeDriver" => volume_driver: String,
        "VolumesFrom" => volumes_from: List<String>,
        "ConsoleSize" => console_size: [u32; 2],
        #[serde(skip_serializing_if = "Option::is_none")]
        "Annotations" => annotations: Option<BTreeMap<String, String>>,
        "CapAdd" => cap_add: StringList,
        "CapDrop" => cap_drop: StringList,
        "CgroupnsMode" => cgroupns_mode: String,
        "Dns" => dns: List<String>,
        "DnsOptions" => dns_options: List<String>,
        "DnsSearch" => dns_search: List<String>,
        "ExtraHosts" => extra_hosts: List<String>,
        "GroupAdd" => group_add: List<String>,
        "IpcMode" => ipc_mode: String,
        "Cgroup" => cgroup: String,
        "Links" => links: List<String>,
        "OomScoreAdj" => oom_score_adj: i64,
        "PidMode" => pid_mode: String,
        "Privileged" => privileged: bool,
        "PublishAllPorts" => publish_all_ports: bool,
        "ReadonlyRootfs" => readonly_rootfs: bool,
        "SecurityOpt" => security_opt: List<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        "StorageOpt" => storage_opt: Option<BTreeMap<String, String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        "Tmpfs" => tmpfs: Option<BTreeMap<String, String>>,
        "UTSMode" => uts_mode: String,
        "UsernsMode" => userns_mode: String,
        "ShmSize" => shm_size: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        "Sysctls" => sysctls: Option<BTreeMap<String, String>>,
        "Runtime" => runtime: String,
        "Isolation" => isolation: String,
        "CpuShares" => cpu_shares: i64,
        "Memory" => memory: i64,
        "NanoCpus" => nano_cpus: i64,
        "CgroupParent" => cgroup_parent: String,
        "BlkioWeight" => blkio_weight: u16,
        "BlkioWeightDevice" => blkio_weight_device: List<WeightDevice>,
        "BlkioDeviceReadBps" => blkio_device_read_bps: List<ThrottleDevice>,
        "BlkioDeviceWriteBps" => blkio_device_write_bps: List<ThrottleDevice>,
        "BlkioDeviceReadIOps" => blkio_device_read_iops: List<ThrottleDevice>,
        "BlkioDeviceWriteIOps" => blkio_device_write_iops: List<ThrottleDevice>,
        "CpuPeriod" => cpu_period: i64,
        "CpuQuota" => cpu_quota: i64,
        "CpuRealtimePeriod" => cpu_realtime_period: i64,
        "CpuRealtimeRuntime" => cpu_realtime_runtime: i64,
        "CpusetCpus" => cpuset_cpus: String,
        "CpusetMems" => cpuset_mems: String,
        "Devices" => devices: List<DeviceMapping>,
        "DeviceCgroupRules" => device_cgroup_rules: List<String>,
        "DeviceRequests" => device_requests: List<DeviceRequest>,
        #[serde(skip_serializing_if = "is_zero")]
        "KernelMemoryTCP" => kernel_memory_tcp: i64,
        "MemoryReservation" => memory_reservation: i64,
        "MemorySwap" => memory_swap: i64,
        "MemorySwappiness" => memory_swappiness: Option<i64>,
        "OomKillDisable" => oom_kill_disable: Option<bool>,
        "PidsLimit" => pids_limit: Option<i64>,
        "Ulimits" => ulimits: List<Ulimit>,
        "CpuCount" => cpu_count: i64,
        "CpuPercent" => cpu_percent: i64,
        "IOMaximumIOps" => io_maximum_iops: u64,
        "IOMaximumBandwidth" => io_maximum_bandwidth: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        "Mounts" => mounts: List<super::mount::Mount>,
        "MaskedPaths" => masked_paths: List<String>,
        "ReadonlyPaths" => readonly_paths: List<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        "Init" => init: Option<bool>,
    }
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

document! {
    /// What is kept of the request for inspect: the parts that the engine does not model.
    pub struct Kept = "container.Kept" {
        "HostConfig" => host_config: HostConfig,
        "Volumes" => volumes: Option<KeySet>,
        "ExposedPorts" => exposed_ports: Option<KeySet>,
        "OnBuild" => on_build: List<String>,
        "MacAddress" => mac_address: String,
        "Shell" => shell: List<String>,
    }
}

/// Paths hidden from a container that does not say otherwise.
pub const DEFAULT_MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that a container that does not say otherwise can't write to.
pub const DEFAULT_READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
