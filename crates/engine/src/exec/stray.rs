//! Processes that entered a container from outside and that nobody knows: execs whose keeper died in the midst of their
//! start, or together with the daemon. Their starts were never answered, or their clients are gone.

use std::collections::HashSet;
use std::rc::Rc;

use super::Phase;
use crate::EngineError;
use crate::container::{Container, files};
use crate::model::PidMode;
use crate::orphan::ProcessName;
use crate::signals;

/// Ends them. In a pid namespace of its own, a process of the container has a parent in the container, but the first
/// one, and execs, whose parent is a keeper. Where the namespace is shared they can't be told from others and go on as
/// processes of the container.
pub(crate) async fn end_all(container: &Rc<Container>) {
    let Some(run) = container.run() else { return };
    if container.fixed.host.pid_mode != PidMode::Private {
        return;
    }
    let mut known = HashSet::from([container.process().pid]);
    container.execs.each(|exec| {
        if exec.phase() == Phase::Running {
            known.insert(exec.process.get().pid);
        }
    });
    let keepers = container.shard.keepers.borrow().clone();
    let keepers: Vec<i32> = keepers.iter().map(|k| k.client().keeper_pid()).collect();
    let group = run.group.clone();
    let ended = files::on_worker(move || {
        let pids = group.pids()?;
        let inside: HashSet<i32> = pids.iter().copied().collect();
        let mut ended = Vec::new();
        for pid in pids.into_iter().filter(|pid| !known.contains(pid)) {
            let name = ProcessName {
                pid,
                start_time_ticks: 0,
            };
            let Some(stat) = name.stat() else { continue };
            // One whose parent is a keeper that lives is being started at this moment.
            if inside.contains(&stat.parent) || keepers.contains(&stat.parent) {
                continue;
            }
            let stray = ProcessName {
                pid,
                start_time_ticks: stat.start_time_ticks,
            };
            if stray.signal(signals::KILL)? {
                ended.push(pid);
            }
        }
        Ok::<_, EngineError>(ended)
    });
    match ended.await {
        Ok(ended) if ended.is_empty() => {}
        Ok(ended) => {
            tracing::warn!(id = %container.id, ?ended, "processes of execs that nobody knows are ended")
        }
        Err(e) => {
            tracing::warn!(id = %container.id, error = %e, "processes of execs that nobody knows may be left")
        }
    }
}
