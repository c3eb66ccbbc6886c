//! From a client's update to the engine's: the checks of create, as far as dockerd repeats them.

use gantry_engine::model::UpdateSpec;

use super::{Machine, general_warnings, limits, restart_policy};
use crate::error::ApiError;
use crate::wire::create::{HostConfig, Kept, UpdateRequest};

/// CPU shares that a running container can be given; dockerd takes any, its runtime does not.
const MIN_SHARES: i64 = 2;

/// Makes the engine's specification of an update. The strings are warnings for the client.
pub fn update_spec(
    request: UpdateRequest,
    machine: &Machine,
) -> Result<(UpdateSpec, Vec<String>), ApiError> {
    let mut host = HostConfig {
        cpu_shares: request.cpu_shares,
        memory: request.memory,
        nano_cpus: request.nano_cpus,
        blkio_weight: request.blkio_weight,
        cpu_period: request.cpu_period,
        cpu_quota: request.cpu_quota,
        cpu_realtime_period: request.cpu_realtime_period,
        cpu_realtime_runtime: request.cpu_realtime_runtime,
        cpuset_cpus: request.cpuset_cpus,
        cpuset_mems: request.cpuset_mems,
        memory_reservation: request.memory_reservation,
        memory_swap: request.memory_swap,
        memory_swappiness: request.memory_swappiness,
        oom_kill_disable: request.oom_kill_disable,
        pids_limit: request.pids_limit.map(|n| n.max(0)),
        restart_policy: request.restart_policy,
        ..HostConfig::default()
    };
    let mut warnings = limits::drop_unsupported(&mut host, machine)?;
    limits::check_update(&mut host, machine.cpus)?;
    warnings.extend(general_warnings(&host));
    let restart = match host.restart_policy.name.as_str() {
        "" => None,
        _ => Some(restart_policy(&mut host)?),
    };
    let mut asked = limits::to_engine(&host);
    // Taken by dockerd and not followed.
    asked.memory_swappiness = None;
    asked.oom_kill_disable = false;
    // A running container's are not changed by dockerd either, but kept for the next start.
    let refused_live = match host.cpu_shares {
        ..0 => Some("the maximum allowed cpu-shares is 262144".to_owned()),
        shares if shares != 0 && shares < MIN_SHARES => {
            Some("the minimum allowed cpu-shares is 2".to_owned())
        }
        _ => None,
    };
    let spec = UpdateSpec {
        limits: asked,
        restart,
        refused_live,
        rewrite: Box::new(move |wire| rewrite(wire, &host)),
    };
    Ok((spec, warnings))
}

/// The kept document with everything that was asked for in it.
fn rewrite(wire: &str, asked: &HostConfig) -> Result<String, String> {
    fn number<T: Copy + Default + PartialEq>(field: &mut T, new: T) {
        if new != T::default() {
            *field = new;
        }
    }
    fn text(field: &mut String, new: &str) {
        if !new.is_empty() {
            new.clone_into(field);
        }
    }
    let damaged = |e| format!("the kept request is damaged: {e}");
    let mut kept: Kept = serde_json::from_str(wire).map_err(damaged)?;
    let host = &mut kept.host_config;
    number(&mut host.cpu_shares, asked.cpu_shares);
    number(&mut host.memory, asked.memory);
    number(&mut host.nano_cpus, asked.nano_cpus);
    number(&mut host.blkio_weight, asked.blkio_weight);
    number(&mut host.cpu_period, asked.cpu_period);
    number(&mut host.cpu_quota, asked.cpu_quota);
    number(&mut host.cpu_realtime_period, asked.cpu_realtime_period);
    number(&mut host.cpu_realtime_runtime, asked.cpu_realtime_runtime);
    number(&mut host.memory_reservation, asked.memory_reservation);
    number(&mut host.memory_swap, asked.memory_swap);
    text(&mut host.cpuset_cpus, &asked.cpuset_cpus);
    text(&mut host.cpuset_mems, &asked.cpuset_mems);
    host.pids_limit = asked.pids_limit.or(host.pids_limit);
    if !asked.restart_policy.name.is_empty() {
        host.restart_policy = asked.restart_policy.clone();
    }
    serde_json::to_string(&kept).map_err(|e| format!("the request can't be kept: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine {
        cpus: 2,
        cgroup_v2: false,
        userns_remap: false,
        blkio_weight: false,
        blkio_weight_device: false,
    };

    fn update(body: &str) -> Result<(UpdateSpec, Vec<String>), ApiError> {
        let request = crate::json::decode(crate::json::parse(body.as_bytes())?)?;
        update_spec(request, &MACHINE)
    }

    #[test]
    fn what_is_asked_for_is_kept_and_nothing_else() {
        let before = serde_json::to_string(&Kept {
            host_config: HostConfig {
                memory: 5,
                pids_limit: Some(7),
                ..HostConfig::default()
            },
            ..Kept::default()
        });
        let before = before.unwrap();
        let (spec, warnings) =
            update(r#"{"CpuShares":512,"PidsLimit":-1,"MemorySwappiness":10}"#).unwrap();
        assert_eq!(spec.limits.cpu_shares, Some(512));
        assert_eq!(spec.limits.pids_max, Some(0));
        assert_eq!(spec.limits.memory_swappiness, None);
        assert!(warnings.is_empty());
        let after: Kept = serde_json::from_str(&(spec.rewrite)(&before).unwrap()).unwrap();
        let host = after.host_config;
        assert_eq!(
            (host.memory, host.cpu_shares, host.pids_limit),
            (5, 512, Some(0))
        );
        assert_eq!(host.memory_swappiness, None);
    }

    #[test]
    fn texts_of_dockerd() {
        for (body, text) in [
            (r#"{"Memory":1}"#, "Minimum memory limit allowed is 6MB"),
            (
                r#"{"CpuQuota":5}"#,
                "CPU cfs quota can not be less than 1ms (i.e. 1000)",
            ),
            (
                r#"{"RestartPolicy":{"Name":"always","MaximumRetryCount":4}}"#,
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ),
        ] {
            assert_eq!(update(body).unwrap_err().message, text);
        }
        let (spec, warnings) =
            update(r#"{"BlkioWeight":5,"RestartPolicy":{"MaximumRetryCount":3}}"#).unwrap();
        assert_eq!(
            warnings,
            [
                "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
            ]
        );
        assert_eq!((spec.limits.blkio_weight, spec.restart), (None, None));
        // Without a memory limit: the container has one, or the kernel refuses.
        assert!(update(r#"{"MemorySwap":100000000}"#).is_ok());
        assert!(
            update(r#"{"CpuShares":-1}"#)
                .unwrap()
                .0
                .refused_live
                .is_some()
        );
    }
}
