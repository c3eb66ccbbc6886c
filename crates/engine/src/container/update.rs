//! `update`: other limits and another restart policy, also while it runs.

use std::rc::Rc;
use std::sync::Arc;

use gantry_cgroup::{Limits, UNLIMITED};

use super::{Container, Run, exit, external, later};
use crate::model::*;
use crate::{EngineError, launch_spec, oom};

/// Changes a container. Everything is checked before anything is changed; a running one's group comes first, then the
/// record, and only what is durable is shown.
pub(crate) async fn update(
    container: &Rc<Container>,
    change: UpdateSpec,
) -> Result<(), EngineError> {
    let _guard = container.ops.lock().await;
    let prefix = format!("Cannot update container {}: ", container.id);
    locked(container, change)
        .await
        .map_err(|e| e.prefixed(&prefix))
}

async fn locked(container: &Rc<Container>, change: UpdateSpec) -> Result<(), EngineError> {
    if matches!(container.status(), Status::Removing | Status::Dead) || container.removing.get() {
        return Err(EngineError::System(
            "container is marked for removal and cannot be \"update\"".to_owned(),
        ));
    }
    container.is_taken()?;
    let before = container.settings();
    let host = merged(&before.host, &change)?;
    let wire = (change.rewrite)(&before.wire).map_err(EngineError::System)?;
    let after = Arc::new(FixedView {
        host,
        wire: wire.into(),
        ..FixedView::clone(&before)
    });
    let run = container.run().filter(|run| !run.exiting.get());
    let reason = change.refused_live.filter(|_| run.is_some());
    if let Some(reason) = reason {
        return Err(EngineError::System(reason));
    }
    let new = live_limits(&change.limits, &after.host);
    let back = undo(&new, &launch_spec::limits(&before.host));
    let live = run.filter(|_| new != Limits::default());
    if let Some(run) = &live {
        apply(container, run, new, back.clone()).await?;
    }
    let writing = container.records.lock().await;
    if let Err(e) = commit(container, &after).await {
        drop(writing);
        if let Some(run) = &live {
            external::limit(container, run, back).await?;
        }
        return Err(e);
    }
    container.amend(|inner| inner.settings = after);
    drop(writing);
    later::copy_record(container);
    oom::watch_later(container);
    container.event("update", &[]);
    Ok(())
}

/// Sets limits of a container that lives; if one is refused, those that were set go back.
async fn apply(
    container: &Rc<Container>,
    run: &Run,
    new: Limits,
    back: Limits,
) -> Result<(), EngineError> {
    let Err(e) = external::limit(container, run, new).await else {
        return Ok(());
    };
    if let Err(left) = external::limit(container, run, back).await {
        tracing::error!(error = %left, "the limits of a refused update can't be taken back");
    }
    Err(e)
}

async fn commit(container: &Rc<Container>, after: &FixedView) -> Result<(), EngineError> {
    let mut record = container.record();
    record.host = after.host.clone();
    record.wire = after.wire.to_string();
    record.state.sequence += 1;
    exit::store_record(container, &record).await
}

/// Limits that lead back to `old` where `new` changes them: what is not limited there is lifted.
fn undo(new: &Limits, old: &Limits) -> Limits {
    let lifted = |new: Option<i64>, old: Option<i64>| new.and(Some(old.unwrap_or(UNLIMITED)));
    let cpu_time = new.cpu_quota_us.or(new.nano_cpus).is_some() || new.cpu_period_us.is_some();
    let plain = cpu_time && old.nano_cpus.is_none();
    Limits {
        memory_bytes: lifted(new.memory_bytes, old.memory_bytes),
        memory_swap_bytes: lifted(new.memory_swap_bytes, old.memory_swap_bytes),
        memory_reservation_bytes: lifted(
            new.memory_reservation_bytes,
            old.memory_reservation_bytes,
        ),
        cpu_shares: new
            .cpu_shares
            .and(Some(old.cpu_shares.unwrap_or(DEFAULT_SHARES))),
        cpu_quota_us: plain.then(|| old.cpu_quota_us.unwrap_or(UNLIMITED)),
        cpu_period_us: plain.then(|| old.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US)),
        nano_cpus: old.nano_cpus.filter(|_| cpu_time),
        pids_max: lifted(new.pids_max, old.pids_max),
        cpuset_cpus: new.cpuset_cpus.as_ref().and(old.cpuset_cpus.clone()),
        cpuset_mems: new.cpuset_mems.as_ref().and(old.cpuset_mems.clone()),
        ..Limits::default()
    }
}

/// The kernel's values of a group without limits.
const DEFAULT_SHARES: u64 = 1024;
const DEFAULT_PERIOD_US: u64 = 100_000;

/// What is written to the group: only what the client asked for.
fn live_limits(asked: &ResourceLimits, after: &HostSpec) -> Limits {
    let asked_host = HostSpec {
        limits: asked.clone(),
        ..HostSpec::default()
    };
    let mut limits = launch_spec::limits(&asked_host);
    limits.memory_swap_bytes = asked.memory_swap_bytes;
    // As under dockerd these are for the next start.
    (limits.cpu_rt_period_us, limits.cpu_rt_runtime_us) = (None, None);
    if limits.memory_swap_bytes.is_some() && limits.memory_bytes.is_none() {
        // Version 2 counts swap alone, and needs both to know it.
        limits.memory_bytes = launch_spec::limits(after).memory_bytes;
    }
    if asked.pids_max.is_some_and(|n| n <= 0) {
        limits.pids_max = Some(UNLIMITED);
    }
    limits
}

/// The settings after the change, with Docker's refusals of what can't go together.
fn merged(before: &HostSpec, change: &UpdateSpec) -> Result<HostSpec, EngineError> {
    let mut host = before.clone();
    check_cpu(&before.limits, &change.limits)?;
    check_memory(&before.limits, &change.limits)?;
    merge_limits(&mut host.limits, &change.limits);
    if let Some(policy) = change.restart {
        if host.auto_remove && policy != RestartPolicy::No {
            return conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            );
        }
        host.restart = policy;
    }
    Ok(host)
}

fn conflict<T>(text: &str) -> Result<T, EngineError> {
    Err(EngineError::Conflict(text.to_owned()))
}

fn check_cpu(old: &ResourceLimits, new: &ResourceLimits) -> Result<(), EngineError> {
    let set = |n: Option<u64>| n.is_some_and(|n| n > 0);
    let quota = |limits: &ResourceLimits| limits.cpu_quota_us.is_some_and(|n| n > 0);
    let refused = [
        (
            set(new.nano_cpus) && set(old.cpu_period_us),
            "Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            set(new.nano_cpus) && quota(old),
            "Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (
            set(new.cpu_period_us) && set(old.nano_cpus),
            "CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            quota(new) && set(old.nano_cpus),
            "CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
    ];
    match refused.iter().find(|(is, _)| *is) {
        Some((_, text)) => conflict(&format!("Conflicting options: {text}")),
        None => Ok(()),
    }
}

fn check_memory(old: &ResourceLimits, new: &ResourceLimits) -> Result<(), EngineError> {
    let Some(memory) = new.memory_bytes else {
        return Ok(());
    };
    let swap = old.memory_swap_bytes.unwrap_or(0);
    let above = u64::try_from(swap).map_or(true, |swap| memory > swap);
    if above && new.memory_swap_bytes.is_none() {
        return conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        );
    }
    Ok(())
}

fn merge_limits(limits: &mut ResourceLimits, new: &ResourceLimits) {
    fn take<T: Copy>(field: &mut Option<T>, new: Option<T>) {
        *field = new.or(*field);
    }
    fn take_text(field: &mut String, new: &str) {
        if !new.is_empty() {
            new.clone_into(field);
        }
    }
    take(&mut limits.memory_bytes, new.memory_bytes);
    take(&mut limits.memory_swap_bytes, new.memory_swap_bytes);
    take(
        &mut limits.memory_reservation_bytes,
        new.memory_reservation_bytes,
    );
    take(&mut limits.cpu_shares, new.cpu_shares);
    take(&mut limits.cpu_quota_us, new.cpu_quota_us);
    take(&mut limits.cpu_period_us, new.cpu_period_us);
    take(&mut limits.nano_cpus, new.nano_cpus);
    take(&mut limits.cpu_rt_period_us, new.cpu_rt_period_us);
    take(&mut limits.cpu_rt_runtime_us, new.cpu_rt_runtime_us);
    take(&mut limits.pids_max, new.pids_max);
    take(&mut limits.blkio_weight, new.blkio_weight);
    take_text(&mut limits.cpuset_cpus, &new.cpuset_cpus);
    take_text(&mut limits.cpuset_mems, &new.cpuset_mems);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(limits: ResourceLimits) -> UpdateSpec {
        UpdateSpec {
            limits,
            restart: None,
            refused_live: None,
            rewrite: Box::new(|wire| Ok(wire.to_owned())),
        }
    }

    #[test]
    fn only_what_is_asked_for_changes() {
        let mut host = HostSpec::default();
        host.limits.memory_bytes = Some(128 << 20);
        host.limits.memory_swap_bytes = Some(256 << 20);
        host.limits.pids_max = Some(9);
        let asked = ResourceLimits {
            memory_bytes: Some(64 << 20),
            ..ResourceLimits::default()
        };
        let after = merged(&host, &change(asked.clone())).unwrap();
        assert_eq!(after.limits.memory_swap_bytes, Some(256 << 20));
        assert_eq!(after.limits.pids_max, Some(9));
        let live = live_limits(&asked, &after);
        assert_eq!(
            (live.memory_bytes, live.memory_swap_bytes),
            (Some(64 << 20), None)
        );
        assert_eq!(live.pids_max, None);
    }

    #[test]
    fn contradictions_are_refused() {
        let mut host = HostSpec::default();
        let memory = ResourceLimits {
            memory_bytes: Some(64 << 20),
            ..ResourceLimits::default()
        };
        assert!(merged(&host, &change(memory)).is_err());
        host.limits.nano_cpus = Some(1);
        let quota = ResourceLimits {
            cpu_quota_us: Some(5000),
            ..ResourceLimits::default()
        };
        let error = merged(&host, &change(quota)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"
        );
        host.auto_remove = true;
        let restart = UpdateSpec {
            restart: Some(RestartPolicy::Always),
            ..change(ResourceLimits::default())
        };
        assert!(merged(&host, &restart).is_err());
    }

    #[test]
    fn lifting_and_undoing() {
        let asked = ResourceLimits {
            pids_max: Some(0),
            ..ResourceLimits::default()
        };
        let live = live_limits(&asked, &HostSpec::default());
        assert_eq!(live.pids_max, Some(UNLIMITED));
        let new = Limits {
            memory_bytes: Some(64 << 20),
            nano_cpus: Some(7),
            ..Limits::default()
        };
        let back = undo(&new, &Limits::default());
        assert_eq!(
            (back.memory_bytes, back.cpu_shares, back.pids_max),
            (Some(UNLIMITED), None, None)
        );
        assert_eq!(
            (back.cpu_quota_us, back.cpu_period_us),
            (Some(UNLIMITED), Some(100_000))
        );
    }
}
