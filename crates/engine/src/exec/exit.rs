//! The end of an exec.

use std::rc::Rc;
use std::time::Duration;

use gantry_keeper_proto::fault::{self, Point};
use gantry_stream::ContainerIo;

use super::{Exec, Phase, parse_key};
use crate::container::exit::{EXIT_LOST, exit_code};
use crate::container::{Container, later};
use crate::keeper::{ExitReport, KeeperLink};
use crate::shard::ShardEngine;
use crate::signals;

/// How long an exit waits for the end of output, which processes left behind may hold open (dockerd's number). Output
/// that a slow client has not taken yet is waited for longer.
pub const EXEC_DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Takes an exit from a keeper, in a task of its own. The keeper repeats it until it is forgotten.
pub(crate) fn report(shard: &Rc<ShardEngine>, keeper: &Rc<KeeperLink>, report: ExitReport) {
    let found = parse_key(&report.id).and_then(|(container, exec)| {
        let container = shard.get(container).ok()?;
        let exec = container.execs.get(exec)?;
        Some((container, exec))
    });
    let Some((container, exec)) = found else {
        // Its container was removed, or its start given up.
        return keeper.forget_later(report.id);
    };
    let keeper = keeper.clone();
    gantry_rt::spawn("exec.exit", async move {
        settle(&container, &exec, &keeper, &report).await;
    });
}

async fn settle(
    container: &Rc<Container>,
    exec: &Rc<Exec>,
    keeper: &Rc<KeeperLink>,
    report: &ExitReport,
) {
    // The keeper may be faster than the start that waits for its answer.
    exec.until(|phase| phase != Phase::Starting).await;
    if exec.exiting.replace(true) {
        return;
    }
    let io = exec.io.borrow().clone();
    if let Some(io) = &io {
        let drained = gantry_rt::timeout(EXEC_DRAIN_LIMIT, io.drained()).await;
        if drained.is_err() && !io.has_backlog() {
            give_up_output(exec, io);
        }
    }
    ended(
        container,
        exec,
        report.wait_status.map_or(EXIT_LOST, exit_code),
    );
    fault::reach(Point::ExecEnded);
    if let Some(io) = io {
        finish_output(exec, &io).await;
        // Clients see the end now: the exit code is there when they ask for it.
        io.close();
    }
    release(container, exec, keeper).await;
}

fn give_up_output(exec: &Exec, io: &Rc<ContainerIo>) {
    if let Err(e) = io.abandon() {
        tracing::error!(id = %exec.key, error = %e, "open output can't be given up");
    }
}

/// A slow client gets what was written before the end; then what others hold open is given up.
async fn finish_output(exec: &Exec, io: &Rc<ContainerIo>) {
    while !io.is_drained() {
        let drained = gantry_rt::timeout(EXEC_DRAIN_LIMIT, io.drained()).await;
        if drained.is_err() && !io.has_backlog() {
            give_up_output(exec, io);
        }
    }
}

/// Gives back the keeper's slot, and removes the note: in this order, so that a daemon that dies in between leaves
/// nothing unknown.
async fn release(container: &Container, exec: &Exec, keeper: &Rc<KeeperLink>) {
    exec.io.take();
    exec.keeper.take();
    if let Err(e) = keeper.forget(&exec.key).await {
        tracing::warn!(id = %exec.key, error = %e, "the keeper could not be told that an exec's end is known");
    }
    fault::reach(Point::ExecForgotten);
    remove_note_later(container, exec);
}

/// Nobody waits for it.
pub(super) fn remove_note_later(container: &Container, exec: &Exec) {
    later::remove_note(&container.shard, exec.key.clone());
}

/// Records and announces its end; the end of one that never ran is not an event.
pub(super) fn ended(container: &Rc<Container>, exec: &Exec, code: i32) {
    let ran = match exec.phase() {
        Phase::Exited(_) => return,
        Phase::Running => true,
        Phase::Created | Phase::Starting => false,
    };
    container.shard.shared.execs.ended(&container.id, &exec.id);
    exec.set_phase(Phase::Exited(code));
    if ran {
        container.exec_event(exec, "exec_die", &[("exitCode", code.to_string())]);
    }
    let surplus = container.execs.beyond_bound();
    if !surplus.is_empty() {
        container.forget_execs(|e| !surplus.contains(&e.id));
    }
}

/// The container's first process has ended: what was only created can never be started.
pub(crate) fn container_ended(container: &Rc<Container>) {
    container.forget_execs(|e| e.phase() != Phase::Created);
}

/// The container is gone, and with its process ids everything that ran in them.
pub(crate) fn container_removed(container: &Rc<Container>) {
    for exec in container.forget_execs(|_| false) {
        if exec.phase() == Phase::Running {
            exec.set_phase(Phase::Exited(128 + signals::KILL));
            container.exec_event(
                &exec,
                "exec_die",
                &[("exitCode", (128 + signals::KILL).to_string())],
            );
            if let Some(io) = exec.io.take() {
                give_up_output(&exec, &io);
                io.close();
            }
            remove_note_later(container, &exec);
        }
    }
}
