//! What limits become as file contents. Pure: nothing here touches a file.

use crate::detect::Controller;
use crate::error::CgroupError;
use crate::limits::{Limits, Throttle, UNLIMITED};

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// What the limit is called in warnings.
    pub name: &'static str,
    pub controller: Controller,
    /// Names the file has had, the first that exists is written.
    pub files: &'static [&'static str],
    pub value: String,
    /// The file and value where none of `files` exists.
    pub otherwise: Option<(&'static str, String)>,
}

impl Setting {
    /// Files and values, the first that exists counts.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let otherwise = self.otherwise.as_ref();
        let files = self.files.iter().map(|file| (*file, self.value.as_str()));
        files.chain(otherwise.map(|(file, value)| (*file, value.as_str())))
    }
}

/// A CPU period without one of its own.
const DEFAULT_PERIOD_US: u64 = 100_000;
const NANOS_PER_CPU: i128 = 1_000_000_000;
pub(crate) const MAX_SHARES: u64 = 262_144;
pub(crate) const MIN_SHARES: u64 = 2;

type Settings = Result<Vec<Setting>, CgroupError>;

fn setting(
    name: &'static str,
    controller: Controller,
    files: &'static [&'static str],
    value: impl ToString,
) -> Setting {
    Setting {
        name,
        controller,
        files,
        value: value.to_string(),
        otherwise: None,
    }
}

fn invalid(setting: &'static str, value: impl ToString) -> CgroupError {
    CgroupError::InvalidLimit {
        setting,
        value: value.to_string(),
    }
}

/// Quota and period, from whichever way they were asked for.
fn quota_and_period(limits: &Limits) -> Result<(Option<i64>, Option<u64>), CgroupError> {
    let Some(nano_cpus) = limits.nano_cpus else {
        return Ok((limits.cpu_quota_us, limits.cpu_period_us));
    };
    let quota = i128::from(nano_cpus) * i128::from(DEFAULT_PERIOD_US) / NANOS_PER_CPU;
    match i64::try_from(quota) {
        // Too little to be expressed is no limit, as under dockerd.
        Ok(0) if nano_cpus > 0 => Ok((None, None)),
        Ok(quota) if quota > 0 => Ok((Some(quota), Some(DEFAULT_PERIOD_US))),
        _ => Err(invalid("NanoCPUs", nano_cpus)),
    }
}

/// The settings of version 1, in the order they are written.
///
/// Memory and swap are not here: their order depends on what the group has, see [`v1_memory`].
pub(crate) fn v1(limits: &Limits) -> Settings {
    use Controller::{Cpu, Memory, Pids};
    let mut all = Vec::new();
    let mut add = |name, controller, files, value: Option<String>| {
        all.extend(value.map(|value| setting(name, controller, files, value)));
    };
    let (quota, period) = quota_and_period(limits)?;
    let text = |value: Option<u64>| value.map(|value| value.to_string());
    let signed = |value: Option<i64>| value.map(|value| value.to_string());
    add(
        "memory reservation",
        Memory,
        &["memory.soft_limit_in_bytes"],
        signed(limits.memory_reservation_bytes),
    );
    add(
        "memory swappiness",
        Memory,
        &["memory.swappiness"],
        text(limits.memory_swappiness),
    );
    let oom = limits.oom_kill_disable.then(|| "1".to_owned());
    add("oom kill disable", Memory, &["memory.oom_control"], oom);
    add(
        "kernel memory TCP",
        Memory,
        &["memory.kmem.tcp.limit_in_bytes"],
        signed(limits.kernel_memory_tcp_bytes),
    );
    check_shares(limits.cpu_shares)?;
    add("cpu shares", Cpu, &["cpu.shares"], text(limits.cpu_shares));
    add("cpu cfs period", Cpu, &["cpu.cfs_period_us"], text(period));
    add("cpu cfs quota", Cpu, &["cpu.cfs_quota_us"], signed(quota));
    add(
        "cpu real-time period",
        Cpu,
        &["cpu.rt_period_us"],
        text(limits.cpu_rt_period_us),
    );
    add(
        "cpu real-time runtime",
        Cpu,
        &["cpu.rt_runtime_us"],
        signed(limits.cpu_rt_runtime_us),
    );
    add(
        "pids limit",
        Pids,
        &["pids.max"],
        limits.pids_max.map(pids_value),
    );
    all.extend(cpuset(limits));
    all.extend(v1_blkio(limits));
    Ok(all)
}

/// The kernel would silently take the nearest value it knows.
fn check_shares(shares: Option<u64>) -> Result<(), CgroupError> {
    match shares {
        Some(..MIN_SHARES) => Err(CgroupError::TooFewShares),
        Some(n) if n > MAX_SHARES => Err(CgroupError::TooManyShares),
        _ => Ok(()),
    }
}

fn pids_value(limit: i64) -> String {
    match limit {
        1.. => limit.to_string(),
        _ => "max".to_owned(),
    }
}

fn cpuset(limits: &Limits) -> Vec<Setting> {
    let lists = [
        (
            "cpuset cpus",
            &["cpuset.cpus"] as &'static [_],
            &limits.cpuset_cpus,
        ),
        ("cpuset mems", &["cpuset.mems"], &limits.cpuset_mems),
    ];
    lists
        .into_iter()
        .filter_map(|(name, files, value)| {
            let value = value.as_deref().filter(|value| !value.is_empty())?;
            Some(setting(name, Controller::Cpuset, files, value))
        })
        .collect()
}

fn v1_blkio(limits: &Limits) -> Vec<Setting> {
    let blkio = Controller::Blkio;
    let mut all = Vec::new();
    if let Some(weight) = limits.blkio_weight {
        let files = &["blkio.bfq.weight", "blkio.weight"];
        all.push(setting("blkio weight", blkio, files, weight));
    }
    for device in &limits.blkio_weight_devices {
        let value = format!("{}:{} {}", device.major, device.minor, device.weight);
        let files = &["blkio.bfq.weight_device", "blkio.weight_device"];
        all.push(setting("blkio weight device", blkio, files, value));
    }
    let mut throttle = |name, files, list: &[Throttle]| {
        for Throttle { major, minor, rate } in list {
            all.push(setting(
                name,
                blkio,
                files,
                format!("{major}:{minor} {rate}"),
            ));
        }
    };
    throttle(
        "device read bps",
        &["blkio.throttle.read_bps_device"],
        &limits.read_bytes_per_s,
    );
    throttle(
        "device write bps",
        &["blkio.throttle.write_bps_device"],
        &limits.write_bytes_per_s,
    );
    throttle(
        "device read iops",
        &["blkio.throttle.read_iops_device"],
        &limits.read_ops_per_s,
    );
    throttle(
        "device write iops",
        &["blkio.throttle.write_iops_device"],
        &limits.write_ops_per_s,
    );
    all
}

/// Memory and memory plus swap of version 1, in an order the kernel accepts at every step: memory
/// may never be above memory plus swap. `current_bytes` is the group's memory limit now.
pub(crate) fn v1_memory(limits: &Limits, current_bytes: u64) -> Settings {
    let swap = match (limits.memory_bytes, limits.memory_swap_bytes) {
        // Lifting the memory limit lifts the other too, or it could not be lifted.
        (Some(UNLIMITED), None) => Some(UNLIMITED),
        (_, swap) => swap,
    };
    if let (Some(memory @ 1..), Some(swap @ 0..)) = (limits.memory_bytes, swap)
        && swap < memory
    {
        return Err(invalid("memory+swap", swap));
    }
    let memory = limits.memory_bytes.map(|bytes| {
        setting(
            "memory limit",
            Controller::Memory,
            &["memory.limit_in_bytes"],
            bytes,
        )
    });
    let swap_setting = swap.map(|bytes| {
        setting(
            "swap limit",
            Controller::Memory,
            &["memory.memsw.limit_in_bytes"],
            bytes,
        )
    });
    let raises = swap.is_some_and(|swap| match u64::try_from(swap) {
        Ok(swap) => current_bytes < swap,
        Err(_) => true,
    });
    let (first, second) = match raises {
        true => (swap_setting, memory),
        false => (memory, swap_setting),
    };
    Ok(first.into_iter().chain(second).collect())
}

/// The settings of version 2, in the order they are written.
pub(crate) fn v2(limits: &Limits) -> Settings {
    use Controller::{Cpu, Memory, Pids};
    let mut all = Vec::new();
    let limit = |value: i64| match value {
        UNLIMITED => "max".to_owned(),
        _ => value.to_string(),
    };
    if let Some(swap) = v2_swap(limits)? {
        all.push(setting(
            "swap limit",
            Memory,
            &["memory.swap.max"],
            limit(swap),
        ));
    }
    if let Some(bytes) = limits.memory_bytes {
        all.push(setting(
            "memory limit",
            Memory,
            &["memory.max"],
            limit(bytes),
        ));
    }
    if let Some(bytes) = limits.memory_reservation_bytes {
        all.push(setting(
            "memory reservation",
            Memory,
            &["memory.low"],
            limit(bytes),
        ));
    }
    if let Some(shares) = limits.cpu_shares.filter(|shares| *shares != 0) {
        all.push(setting(
            "cpu shares",
            Cpu,
            &["cpu.weight"],
            weight_of_shares(shares),
        ));
    }
    let (quota, period) = quota_and_period(limits)?;
    if quota.is_some() || period.is_some() {
        let quota = quota
            .filter(|quota| *quota > 0)
            .map_or("max".to_owned(), |q| q.to_string());
        let period = period.unwrap_or(DEFAULT_PERIOD_US);
        all.push(setting(
            "cpu cfs quota",
            Cpu,
            &["cpu.max"],
            format!("{quota} {period}"),
        ));
    }
    if let Some(count) = limits.pids_max {
        all.push(setting(
            "pids limit",
            Pids,
            &["pids.max"],
            pids_value(count),
        ));
    }
    all.extend(cpuset(limits));
    all.extend(v2_io(limits));
    Ok(all)
}

/// Version 2 counts swap alone.
fn v2_swap(limits: &Limits) -> Result<Option<i64>, CgroupError> {
    match (limits.memory_bytes, limits.memory_swap_bytes) {
        (Some(UNLIMITED), None) => Ok(Some(UNLIMITED)),
        (_, None) => Ok(None),
        (_, Some(UNLIMITED)) => Ok(Some(UNLIMITED)),
        (Some(memory @ 0..), Some(both)) if both >= memory => Ok(Some(both - memory)),
        (_, Some(both)) => Err(invalid("memory+swap", both)),
    }
}

/// Shares 2..262144 to weight 1..10000, as the OCI runtimes do: a curve through the lowest, the highest and the default
/// values (1024 is 100).
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        ..=MIN_SHARES => 1,
        MAX_SHARES.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

/// Weight 10..1000 of block I/O stretched to 1..10000, which `io.weight` takes.
fn stretched_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn v2_io(limits: &Limits) -> Vec<Setting> {
    let blkio = Controller::Blkio;
    let mut all = Vec::new();
    if let Some(weight) = limits.blkio_weight {
        // BFQ has a file of its own, which takes the weight as it is.
        let value = format!("default {weight}");
        all.push(Setting {
            otherwise: Some(("io.weight", format!("default {}", stretched_weight(weight)))),
            ..setting("blkio weight", blkio, &["io.bfq.weight"], value)
        });
    }
    for device in &limits.blkio_weight_devices {
        // Only BFQ has weights by device without further set-up.
        let value = format!("{}:{} {}", device.major, device.minor, device.weight);
        all.push(setting(
            "blkio weight device",
            blkio,
            &["io.bfq.weight"],
            value,
        ));
    }
    let mut throttle = |name, key: &str, list: &[Throttle]| {
        for Throttle { major, minor, rate } in list {
            let value = format!("{major}:{minor} {key}={rate}");
            all.push(setting(name, blkio, &["io.max"], value));
        }
    };
    throttle("device read bps", "rbps", &limits.read_bytes_per_s);
    throttle("device write bps", "wbps", &limits.write_bytes_per_s);
    throttle("device read iops", "riops", &limits.read_ops_per_s);
    throttle("device write iops", "wiops", &limits.write_ops_per_s);
    all
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
