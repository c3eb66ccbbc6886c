//! What a container may use, in one unit per field.

use crate::device::DeviceRule;

/// The value of a signed limit that means "no limit".
pub const UNLIMITED: i64 = -1;

/// A rate limit on one block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttle {
    /// Major number of the block device.
    pub major: u32,
    /// Minor number of the block device.
    pub minor: u32,
    /// Bytes or operations per second, by the list it stands in.
    pub rate: u64,
}

/// A relative weight on one block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceWeight {
    /// Major number of the block device.
    pub major: u32,
    /// Minor number of the block device.
    pub minor: u32,
    /// 10 to 1000.
    pub weight: u16,
}

/// The limits of one group. `None` and empty lists leave the kernel's value as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory; [`UNLIMITED`] lifts an earlier limit.
    pub memory_bytes: Option<i64>,
    /// Memory plus swap, as Docker counts it; [`UNLIMITED`] for endless swap.
    pub memory_swap_bytes: Option<i64>,
    /// Soft limit, reclaimed to when the host is short of memory.
    pub memory_reservation_bytes: Option<i64>,
    /// 0 to 100; v1 only, v2 has no such setting.
    pub memory_swappiness: Option<u64>,
    /// Stop instead of kill at the limit; v1 only.
    pub oom_kill_disable: bool,
    /// Kernel memory of TCP buffers; v1 only.
    pub kernel_memory_tcp_bytes: Option<i64>,
    /// Relative CPU weight in v1's terms (2 to 262144), translated for v2.
    pub cpu_shares: Option<u64>,
    /// CPU time per period; [`UNLIMITED`] lifts an earlier quota.
    pub cpu_quota_us: Option<i64>,
    /// Length of a period.
    pub cpu_period_us: Option<u64>,
    /// Billionths of a CPU; wins over quota and period.
    pub nano_cpus: Option<i64>,
    /// Real-time share of a period; v1 only.
    pub cpu_rt_runtime_us: Option<i64>,
    /// Real-time period; v1 only.
    pub cpu_rt_period_us: Option<u64>,
    /// CPUs as a list, `0-3,8`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes as a list.
    pub cpuset_mems: Option<String>,
    /// Number of tasks; [`UNLIMITED`] lifts an earlier limit.
    pub pids_max: Option<i64>,
    /// Relative block I/O weight, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// Relative weight on single devices.
    pub blkio_weight_devices: Vec<DeviceWeight>,
    /// Read bytes per second.
    pub read_bytes_per_s: Vec<Throttle>,
    /// Written bytes per second.
    pub write_bytes_per_s: Vec<Throttle>,
    /// Read operations per second.
    pub read_ops_per_s: Vec<Throttle>,
    /// Write operations per second.
    pub write_ops_per_s: Vec<Throttle>,
    /// Devices the group may touch, later rules win. `None` leaves them as they are
    /// (a live update); [`DeviceRule::defaults`] is what a container starts with.
    pub devices: Option<Vec<DeviceRule>>,
}
