//! Resource limits: ranges, conflicts, defaults.

use std::collections::BTreeSet;

use gantry_engine::model::ResourceLimits;

use super::{Machine, devices};
use crate::error::ApiError;
use crate::wire::create::HostConfig;

/// Smallest memory limit that dockerd accepts.
const MIN_MEMORY_BYTES: i64 = 6 << 20;
const NANOS_PER_CPU: i64 = 1_000_000_000;

/// Drops what this kernel has no place for, as dockerd does: the client is told, and inspect does not show it.
pub(super) fn drop_unsupported(
    host: &mut HostConfig,
    machine: &Machine,
) -> Result<Vec<String>, ApiError> {
    let mut warnings = Vec::new();
    if machine.cgroup_v2 {
        if host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0 {
            return Err(ApiError::invalid(
                "kernel does not support CPU real-time scheduler",
            ));
        }
        if host.memory_swappiness.take().is_some_and(|n| n != -1) {
            warnings.push("Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.".to_owned());
        }
        if host.oom_kill_disable.take() == Some(true) {
            warnings.push(
                "Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned(),
            );
        }
    }
    if host.blkio_weight > 0 && !machine.blkio_weight {
        warnings.push("Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.".to_owned());
        host.blkio_weight = 0;
    }
    let weighted = host.blkio_weight_device.as_mut().filter(|l| !l.is_empty());
    if let Some(list) = weighted.filter(|_| !machine.blkio_weight_device) {
        warnings.push("Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.".to_owned());
        list.clear();
    }
    Ok(warnings)
}

/// Checks the limits and fills what follows from others.
pub(super) fn check(host: &mut HostConfig, cpus: u32) -> Result<(), ApiError> {
    if host.memory == 0 && host.memory_swap > 0 {
        return Err(ApiError::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if host.cpu_shares < 0 {
        return Err(ApiError::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        )));
    }
    check_update(host, cpus)?;
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = host.memory.saturating_mul(2);
    }
    host.pids_limit = host.pids_limit.filter(|limit| *limit > 0);
    Ok(())
}

/// Checks the limits of an update, where what is not given stays as it is.
pub(super) fn check_update(host: &mut HostConfig, cpus: u32) -> Result<(), ApiError> {
    memory(host)?;
    cpu(host, cpus)?;
    if host.blkio_weight > 0 && !(10..=1000).contains(&host.blkio_weight) {
        return Err(ApiError::invalid(
            "Range of blkio weight is from 10 to 1000",
        ));
    }
    Ok(())
}

fn memory(host: &mut HostConfig) -> Result<(), ApiError> {
    let invalid = |text: &str| Err(ApiError::invalid(text));
    if host.memory < 0 || (host.memory > 0 && host.memory < MIN_MEMORY_BYTES) {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if let Some(swappiness) = host.memory_swappiness {
        if !(-1..=100).contains(&swappiness) {
            return Err(ApiError::invalid(format!(
                "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
            )));
        }
        if swappiness == -1 {
            host.memory_swappiness = None;
        }
    }
    if host.memory_reservation < 0
        || (host.memory_reservation > 0 && host.memory_reservation < MIN_MEMORY_BYTES)
    {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if host.memory > 0 && host.memory_reservation > 0 && host.memory < host.memory_reservation {
        return invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    Ok(())
}

fn cpu(host: &HostConfig, cpus: u32) -> Result<(), ApiError> {
    let invalid = |text: String| Err(ApiError::invalid(text));
    if host.nano_cpus > 0 && (host.cpu_period > 0 || host.cpu_quota > 0) {
        let other = if host.cpu_period > 0 {
            "Period"
        } else {
            "Quota"
        };
        return invalid(format!(
            "Conflicting options: Nano CPUs and CPU {other} cannot both be set"
        ));
    }
    if host.nano_cpus < 0 || host.nano_cpus > i64::from(cpus) * NANOS_PER_CPU {
        return invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        ));
    }
    if host.cpu_period != 0 && !(1000..=1_000_000).contains(&host.cpu_period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
                .into(),
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)".into());
    }
    if host.cpu_realtime_runtime != 0
        && host.cpu_realtime_period != 0
        && host.cpu_realtime_runtime > host.cpu_realtime_period
    {
        return invalid("cpu real-time runtime cannot be higher than cpu real-time period".into());
    }
    set(
        &host.cpuset_cpus,
        "CPUs",
        "cpus",
        "/sys/devices/system/cpu/online",
    )?;
    set(
        &host.cpuset_mems,
        "memory nodes",
        "mems",
        "/sys/devices/system/node/online",
    )
}

/// Checks a list like `0-2,7` against what the machine has.
fn set(wanted: &str, what: &str, field: &str, online_path: &str) -> Result<(), ApiError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let numbers = parse_set(wanted).ok_or_else(|| {
        ApiError::invalid(format!(
            "Invalid value {wanted} for cpuset {field}: invalid format: {wanted}"
        ))
    })?;
    let Ok(text) = std::fs::read_to_string(online_path) else {
        return Ok(());
    };
    let available = parse_set(text.trim()).unwrap_or_default();
    if numbers.is_subset(&available) {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "Requested {what} are not available - requested {wanted}, available: {}",
        text.trim()
    )))
}

/// Largest CPU or node number accepted.
const MAX_SET_NUMBER: u32 = 8191;
/// Ranges in one list; more cannot say anything new.
const MAX_SET_RANGES: usize = MAX_SET_NUMBER as usize + 1;

/// The numbers of a list, each once.
fn parse_set(text: &str) -> Option<BTreeSet<u32>> {
    let mut given = vec![false; MAX_SET_NUMBER as usize + 1];
    for (at, part) in text.split(',').enumerate() {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (low.parse::<u32>().ok()?, high.parse::<u32>().ok()?);
        if at >= MAX_SET_RANGES || low > high {
            return None;
        }
        given.get_mut(low as usize..=high as usize)?.fill(true);
    }
    let numbers = (0..).zip(given).filter(|(_, given)| *given);
    Some(numbers.map(|(number, _)| number).collect())
}

/// The engine's form of checked limits.
pub(super) fn to_engine(host: &HostConfig) -> ResourceLimits {
    fn positive(n: i64) -> Option<u64> {
        u64::try_from(n).ok().filter(|&n| n > 0)
    }
    ResourceLimits {
        memory_bytes: positive(host.memory),
        memory_swap_bytes: (host.memory_swap != 0).then_some(host.memory_swap),
        memory_reservation_bytes: positive(host.memory_reservation),
        memory_swappiness: host.memory_swappiness.and_then(|n| u64::try_from(n).ok()),
        cpu_shares: positive(host.cpu_shares),
        cpu_quota_us: (host.cpu_quota != 0).then_some(host.cpu_quota),
        cpu_period_us: positive(host.cpu_period),
        nano_cpus: positive(host.nano_cpus),
        cpuset_cpus: host.cpuset_cpus.clone(),
        cpuset_mems: host.cpuset_mems.clone(),
        pids_max: host.pids_limit,
        blkio_weight: (host.blkio_weight > 0).then_some(host.blkio_weight),
        oom_kill_disable: host.oom_kill_disable == Some(true),
        blkio_weight_devices: devices::weights(host),
        blkio_read_bytes: devices::rates(&host.blkio_device_read_bps),
        blkio_write_bytes: devices::rates(&host.blkio_device_write_bps),
        blkio_read_ops: devices::rates(&host.blkio_device_read_iops),
        blkio_write_ops: devices::rates(&host.blkio_device_write_iops),
        cpu_rt_period_us: (host.cpu_realtime_period != 0).then_some(host.cpu_realtime_period),
        cpu_rt_runtime_us: (host.cpu_realtime_runtime != 0).then_some(host.cpu_realtime_runtime),
        kernel_memory_tcp_bytes: positive(host.kernel_memory_tcp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        assert_eq!(parse_set("0-2,7,1-2"), Some([0, 1, 2, 7].into()));
        for bad in ["", "a", "2-1", "0-99999999", "1,,2", "-1"] {
            assert_eq!(parse_set(bad), None, "{bad}");
        }
        // What is short to write must not take the memory of the machine.
        let many = |n: usize| vec!["0-8191"; n].join(",");
        assert_eq!(
            parse_set(&many(MAX_SET_RANGES)).map(|s| s.len()),
            Some(8192)
        );
        assert_eq!(parse_set(&many(MAX_SET_RANGES + 1)), None);
    }
}
