//! Limits and devices in the specification's words.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use gantry_cgroup::{DeviceKind, DeviceRule, Limits, Throttle as Rate};

use super::spec::{
    BlockIo, Cpu, Device, DeviceAccess, Memory, Pids, Resources, Throttle, WeightDevice,
};
use crate::spec::{DeviceNode, LaunchSpec};

/// Length of a period that `--cpus` counts in.
const NANO_CPUS_PERIOD_US: u64 = 100_000;
const NANOS_PER_CPU: i128 = 1_000_000_000;
/// Host devices a privileged container gets at most.
const MAX_HOST_DEVICES: usize = 4096;
/// Nesting of directories below the host's /dev that is followed.
const MAX_DEPTH: usize = 8;
/// The runtime makes its own.
const OWN: &[&str] = &[
    "pts",
    "shm",
    "fd",
    "mqueue",
    "console",
    "ptmx",
    "null",
    "zero",
    "full",
    "random",
    "urandom",
    "tty",
    ".lxc",
    ".lxd-mounts",
    ".udev",
];

/// What `limits` says, except that pids or CPU time are not limited: crun takes no word for it. Without device rules, as in a live update, the runtime leaves them alone.
pub(crate) fn resources(limits: &Limits) -> Resources {
    let memory = Memory {
        limit: limits.memory_bytes,
        swap: limits.memory_swap_bytes,
        reservation: limits.memory_reservation_bytes,
        swappiness: limits.memory_swappiness,
        kernel_tcp: limits.kernel_memory_tcp_bytes,
        disable_oom_killer: limits.oom_kill_disable.then_some(true),
    };
    let cpu = cpu(limits);
    let block_io = BlockIo {
        weight: limits.blkio_weight,
        weight_device: limits
            .blkio_weight_devices
            .iter()
            .map(|w| WeightDevice {
                major: w.major,
                minor: w.minor,
                weight: w.weight,
            })
            .collect(),
        throttle_read_bps_device: throttles(&limits.read_bytes_per_s),
        throttle_write_bps_device: throttles(&limits.write_bytes_per_s),
        throttle_read_iops_device: throttles(&limits.read_ops_per_s),
        throttle_write_iops_device: throttles(&limits.write_ops_per_s),
    };
    let rules = limits.devices.as_deref().unwrap_or_default();
    Resources {
        devices: rules.iter().map(access).collect(),
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        pids: limits
            .pids_max
            .filter(|limit| *limit >= 0)
            .map(|limit| Pids { limit }),
        block_io: (block_io != BlockIo::default()).then_some(block_io),
    }
}

fn cpu(limits: &Limits) -> Cpu {
    let (quota, period) = match limits.nano_cpus {
        None => (limits.cpu_quota_us, limits.cpu_period_us),
        Some(nanos) => {
            let quota = i128::from(nanos) * i128::from(NANO_CPUS_PERIOD_US) / NANOS_PER_CPU;
            (i64::try_from(quota).ok(), Some(NANO_CPUS_PERIOD_US))
        }
    };
    Cpu {
        shares: limits.cpu_shares,
        quota: quota.filter(|quota| *quota >= 0),
        period,
        realtime_runtime: limits.cpu_rt_runtime_us,
        realtime_period: limits.cpu_rt_period_us,
        cpus: limits.cpuset_cpus.clone(),
        mems: limits.cpuset_mems.clone(),
    }
}

fn throttles(rates: &[Rate]) -> Vec<Throttle> {
    let one = |r: &Rate| Throttle {
        major: r.major,
        minor: r.minor,
        rate: r.rate,
    };
    rates.iter().map(one).collect()
}

fn access(rule: &DeviceRule) -> DeviceAccess {
    DeviceAccess {
        allow: rule.allow,
        kind: match rule.kind {
            DeviceKind::Any => None,
            DeviceKind::Char => Some("c"),
            DeviceKind::Block => Some("b"),
        },
        major: rule.major,
        minor: rule.minor,
        access: rule.access.to_string(),
    }
}

/// The nodes of a container; for a privileged one every device of the host comes first.
pub(crate) fn devices(spec: &LaunchSpec) -> io::Result<Vec<Device>> {
    let mut all = Vec::new();
    if spec.privileged {
        host_devices(Path::new("/dev"), MAX_DEPTH, &mut all)?;
    }
    for node in &spec.devices {
        all.retain(|d: &Device| d.path != node.path);
        all.push(device(node));
    }
    Ok(all)
}

fn device(node: &DeviceNode) -> Device {
    Device {
        path: node.path.clone(),
        kind: if node.block { "b" } else { "c" },
        major: rustix::fs::major(node.device),
        minor: rustix::fs::minor(node.device),
        file_mode: node.mode & 0o7777,
        uid: node.uid,
        gid: node.gid,
    }
}

fn host_devices(dir: &Path, depth: usize, all: &mut Vec<Device>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let (Ok(name), Some(path)) = (
            entry.file_name().into_string(),
            entry.path().to_str().map(str::to_owned),
        ) else {
            continue;
        };
        if depth == MAX_DEPTH && OWN.contains(&name.as_str()) {
            continue;
        }
        let meta = match entry.path().symlink_metadata() {
            Ok(meta) => meta,
            // Unplugged meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let kind = meta.file_type();
        if kind.is_dir() && depth > 0 {
            host_devices(&entry.path(), depth - 1, all)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            if all.len() >= MAX_HOST_DEVICES {
                return Err(io::Error::other("too many devices in /dev"));
            }
            all.push(device(&DeviceNode {
                path,
                block: kind.is_block_device(),
                device: meta.rdev(),
                mode: meta.mode(),
                uid: meta.uid(),
                gid: meta.gid(),
            }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_in_the_specifications_words() {
        let limits = Limits {
            memory_bytes: Some(64 << 20),
            memory_swap_bytes: Some(-1),
            nano_cpus: Some(1_500_000_000),
            pids_max: Some(7),
            devices: Some(DeviceRule::defaults()),
            ..Limits::default()
        };
        let json = serde_json::to_value(resources(&limits)).expect("JSON");
        assert_eq!(
            json["memory"],
            serde_json::json!({"limit": 64 << 20, "swap": -1})
        );
        assert_eq!(
            json["cpu"],
            serde_json::json!({"quota": 150_000, "period": 100_000})
        );
        assert_eq!(json["pids"]["limit"], 7);
        assert_eq!(
            json["devices"][0],
            serde_json::json!({"allow": false, "access": "rwm"})
        );
        assert_eq!(
            json["devices"][3],
            serde_json::json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"})
        );
        assert!(json.get("blockIO").is_none());
        let nothing = serde_json::to_value(resources(&Limits::default())).expect("JSON");
        assert_eq!(nothing, serde_json::json!({}));
    }
}
