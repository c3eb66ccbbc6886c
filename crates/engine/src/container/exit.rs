//! What happens when a container's first process has ended.

use std::rc::Rc;
use std::time::Duration;

use gantry_keeper_proto::fault::{self, Point};
use gantry_store::{Batch, Table};

use super::{Container, Run, external, files, hooks, late_log, later, remove, start, wait};
use crate::backoff;
use crate::boot::untaken;
use crate::keeper::{ExitReport, KeeperLink};
use crate::model::*;
use crate::shard::ShardEngine;
use crate::{EngineError, clock, exec, oom, volumes};

/// How long an exit waits for the end of output before it is announced. Longer than that, either an
/// attached client is slow, or a process outside the container was given the pipe.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long it waits when nothing more comes. As dockerd's limit.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(2);
/// Exit code of a container that ended while nobody could see it.
pub(crate) const EXIT_LOST: i32 = 255;
const LOST_ERROR: &str = "the container's keeper died; its exit code is unknown";
/// How often an announced container with open output is looked at.
const OUTPUT_CHECK: Duration = Duration::from_secs(1);

/// Takes an exit from a keeper, in a task of its own. The keeper repeats it until it is forgotten.
pub(crate) fn report(shard: &Rc<ShardEngine>, keeper: &Rc<KeeperLink>, exit: ExitReport) {
    if exec::parse_key(&exit.id).is_some() {
        return exec::exit::report(shard, keeper, exit);
    }
    let Ok(container) = shard.get(&exit.id) else {
        tracing::warn!(id = %exit.id, "exit of a container without a record");
        keeper.forget_later(exit.id);
        return;
    };
    let keeper = keeper.clone();
    gantry_rt::spawn("container.exit", async move {
        on_exit(&container, &keeper, exit).await
    });
}

async fn on_exit(container: &Rc<Container>, keeper: &Rc<KeeperLink>, exit: ExitReport) {
    // The keeper may be faster than the start that waits for its answer.
    container.launched().await;
    if container.releasing.get() {
        // Told again by a keeper that took over; it is forgotten in a moment.
        return;
    }
    if let Some(untaken) = container.untaken() {
        if !untaken::is_settled_by_taking_over(container, &untaken, keeper).await {
            settle(container, None, keeper, &exit).await;
            return;
        }
        if container.untaken().is_some() {
            return;
        }
    }
    let Some(run) = container.run() else {
        // Recorded in an earlier life of the daemon, or a launch that was given up.
        keeper.forget_later(exit.id);
        return;
    };
    if run.exiting.replace(true) {
        return;
    }
    fault::reach(Point::ExitReported);
    container.stop_probing();
    if container.fixed.host.pid_mode != PidMode::Private {
        end_the_others(container, &run).await;
    }
    if gantry_rt::timeout(DRAIN_LIMIT, drained_or_silent(&run))
        .await
        .is_err()
        || !run.io.is_drained()
    {
        tracing::warn!(id = %container.id, "output is still open after the exit");
    }
    if let Err(error) = late_log::open_now(container, &run.io).await {
        tracing::error!(id = %container.id, %error, "a container ended before its log could be opened; what it printed since the daemon came back is lost");
    }
    oom::end(container, &run).await;
    fault::reach(Point::ExitDrained);
    settle(container, Some(&run), keeper, &exit).await;
}

/// In a shared pid namespace the kernel does not end the other processes with the first one.
async fn end_the_others(container: &Rc<Container>, run: &Rc<Run>) {
    let group = run.group.clone();
    if let Err(e) = files::on_worker(move || Ok(group.kill_all()?)).await {
        tracing::warn!(id = %container.id, error = %e, "processes are left after the exit");
    }
}

/// Waits until the output has ended, or nothing came for a while.
async fn drained_or_silent(run: &Run) {
    loop {
        let before = run.io.total_bytes();
        let drained = gantry_rt::timeout(SILENCE_LIMIT, run.io.drained()).await;
        if drained.is_ok() || run.io.total_bytes() == before {
            return;
        }
    }
}

/// Docker's exit code of a wait status.
pub(crate) fn exit_code(wait_status: i32) -> i32 {
    if libc::WIFEXITED(wait_status) {
        libc::WEXITSTATUS(wait_status)
    } else {
        128 + libc::WTERMSIG(wait_status)
    }
}

/// Records the exit, announces it, and decides what comes next. Without a run the container was never taken over.
async fn settle(
    container: &Rc<Container>,
    run: Option<&Rc<Run>>,
    keeper: &Rc<KeeperLink>,
    exit: &ExitReport,
) {
    let code = exit.wait_status.map_or(EXIT_LOST, exit_code);
    let writing = container.records.lock().await;
    let mut again = wants_restart(container, code);
    if again {
        // Counted when it is decided, as Docker shows it while the container waits.
        container.inner.borrow_mut().restart_count += 1;
    }
    let change = |state: &mut StateRecord| {
        state.pid = 0;
        state.exit_code = code;
        state.error = if exit.wait_status.is_some() {
            String::new()
        } else {
            LOST_ERROR.to_owned()
        };
        state.finished_unix_ns = exit.exited_unix_ns.max(state.started_unix_ns);
        state.oom_killed |= exit.oom_killed;
    };
    commit_exit(container, after_exit(again), change).await;
    if again && is_called_off(container) {
        // A client has ended it meanwhile, and was told so or will be.
        again = false;
        container.uncount_restart();
        commit_exit(container, after_exit(again), change).await;
    }
    let next = after_exit(again);
    fault::reach(Point::ExitCommitted);
    let durable = container.transition(next, change);
    if let Err(e) = &durable {
        // The keeper still has it and tells the next daemon; this one tells what it knows.
        tracing::error!(id = %container.id, error = %e, "an exit could not be appended to the journal");
        container.force_state(next, change);
    }
    drop(writing);
    fault::reach(Point::ExitRecorded);
    container.releasing.set(true);
    let lasted = container.end_run();
    *container.untaken.borrow_mut() = None;
    if let Some(root) = run.and_then(|run| run.root.take()) {
        later::end_root(container, root);
    }
    exec::exit::container_ended(container);
    if exit.oom_killed && run.is_none_or(|run| run.oom_kills_told.get() == 0) {
        container.event("oom", &[]);
    }
    announce(container, code, lasted);
    fault::reach(Point::ExitAnnounced);
    release(container, run, keeper, durable.is_ok()).await;
    container.releasing.set(false);
    container.changed.notify_all();
    if again {
        let delay = container.inner.borrow_mut().backoff.next(lasted);
        start::schedule_restart(container, delay);
    } else if container.fixed.host.auto_remove && !container.client_restart.get() {
        remove::auto_remove(container).await;
    } else {
        later::copy_record(container);
    }
}

/// Whether its policy starts it again after this exit.
fn wants_restart(container: &Container, code: i32) -> bool {
    let inner = container.inner.borrow();
    let (policy, attempts) = (inner.settings.host.restart, inner.restart_count);
    backoff::restarts_after_exit(policy, code, attempts, false) && !is_called_off(container)
}

/// Whether the restart policy is off for now.
fn is_called_off(container: &Container) -> bool {
    container.no_restart.get()
        || container.client_restart.get()
        || container.shard.shared.is_closing()
}

fn after_exit(again: bool) -> Status {
    match again {
        true => Status::Restarting,
        false => Status::Exited,
    }
}

/// Makes an exit durable, unless the container goes with it.
async fn commit_exit(
    container: &Rc<Container>,
    next: Status,
    change: impl FnOnce(&mut StateRecord),
) {
    if container.fixed.host.auto_remove {
        return;
    }
    let mut record = container.record();
    change(&mut record.state);
    record.state.status = next;
    record.state.sequence += 1;
    record.state.health = container.health_after(next);
    if let Err(e) = store_record(container, &record).await {
        tracing::error!(id = %container.id, error = %e, "an exit could not be made durable; the keeper keeps it");
    }
}

/// Writes the record as it is now to the store.
pub(crate) async fn store_present(container: &Container) -> Result<(), EngineError> {
    let _writing = container.records.lock().await;
    store_record(container, &container.record()).await
}

/// Writes a record to the store, durable against a power loss. The lock of records is held.
pub(crate) async fn store_record(
    container: &Container,
    record: &ContainerRecord,
) -> Result<(), EngineError> {
    let bytes = serde_json::to_vec(record)
        .map_err(|e| EngineError::System(format!("encode a container record: {e}")))?;
    let mut batch = Batch::new();
    batch.put(Table::Containers, &*container.id, bytes);
    Ok(container.shard.shared.store.commit(batch).await?)
}

fn announce(container: &Rc<Container>, code: i32, lasted: Duration) {
    let points = &container.fixed.host.mounts;
    volumes::announce_unmounts(&container.shard.shared, &container.id, points);
    if container.stopping.take() {
        container.event("stop", &[]);
    }
    container.event(
        "die",
        &[
            ("execDuration", lasted.as_secs().to_string()),
            ("exitCode", code.to_string()),
        ],
    );
    wait::announce_exit(container);
}

/// Gives back what the run held: the keeper's slot and the control group.
async fn release(
    container: &Rc<Container>,
    run: Option<&Rc<Run>>,
    keeper: &Rc<KeeperLink>,
    recorded: bool,
) {
    match run {
        Some(run) => put_away(container, run).await,
        None => {
            container.close_pending_attaches();
            untaken::remove_group(container).await;
        }
    }
    hooks::put_away(container).await;
    volumes::unmount_unused(container).await;
    fault::reach(Point::ExitGroupGone);
    // Last: as long as the keeper knows the container, the next daemon removes the group if this one is killed.
    let keeper = run.map_or(keeper, |run| &run.keeper);
    if recorded && let Err(e) = keeper.forget(&container.id).await {
        tracing::warn!(id = %container.id, error = %e, "the keeper could not be told that an exit is recorded");
    }
    fault::reach(Point::ExitForgotten);
}

/// Ends the output, and removes the control group.
async fn put_away(container: &Rc<Container>, run: &Rc<Run>) {
    finish_output(container, run).await;
    run.io.close();
    {
        let mut inner = container.inner.borrow_mut();
        (inner.last_log, inner.late_log) = (None, None);
    }
    if let Some(bundle) = &run.bundle {
        external::put_away(&container.shard, bundle).await;
    }
    let (id, group) = (container.id.clone(), run.group.clone());
    if let Err(e) = files::on_worker(move || Ok(group.remove()?)).await {
        tracing::warn!(id = %id, error = %e, "a control group is left");
    }
}

/// Waits for the end of output as long as a slow client is attached that has not taken it; then gives up what
/// others hold open. The keeper's slot belongs to the output until then.
async fn finish_output(container: &Rc<Container>, run: &Rc<Run>) {
    let mut before = None;
    while !run.io.is_drained() {
        let total = run.io.total_bytes();
        let silent = before.replace(total) == Some(total) && !run.io.has_backlog();
        let unwanted = container.inner.borrow().attached == 0 || container.removing.get();
        if unwanted || silent {
            if let Err(e) = run.io.abandon() {
                tracing::error!(id = %container.id, error = %e, "open output can't be given up");
            }
            return;
        }
        if gantry_rt::timeout(OUTPUT_CHECK, run.io.drained())
            .await
            .is_ok()
        {
            return;
        }
    }
}

impl Container {
    /// Takes the run away and says how long it lasted.
    fn end_run(&self) -> Duration {
        let mut inner = self.inner.borrow_mut();
        let clock_lasted = inner
            .state
            .finished_unix_ns
            .saturating_sub(inner.state.started_unix_ns);
        let run = inner.run.take();
        run.and_then(|r| r.started).map_or(
            Duration::from_nanos(u64::try_from(clock_lasted).unwrap_or(0)),
            |s| s.elapsed(),
        )
    }

    fn uncount_restart(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.restart_count = inner.restart_count.saturating_sub(1);
    }

    /// A change of state that could not be made durable.
    fn force_state(self: &Rc<Self>, next: Status, change: impl FnOnce(&mut StateRecord)) {
        let health = self.health_after(next);
        {
            let mut inner = self.inner.borrow_mut();
            assert!(inner.state.status.may_become(next), "no transition");
            change(&mut inner.state);
            inner.state.status = next;
            inner.state.sequence += 1;
        }
        self.follow_health(health, next);
        self.publish();
    }

    /// Gives up a waiting restart: the container has ended. True if there was one.
    pub(crate) async fn cancel_restart(self: &Rc<Self>) -> Result<bool, EngineError> {
        if self.status() != Status::Restarting {
            return Ok(false);
        }
        if self.launching.get() {
            // Too late to prevent: what comes of it is a running container or an ended one.
            self.launched().await;
            return Ok(false);
        }
        self.transition(Status::Exited, |state| {
            state.manually_stopped = true;
            if state.finished_unix_ns == 0 {
                state.finished_unix_ns = clock::unix_ns();
            }
        })?;
        store_present(self).await?;
        self.restart_cancelled.notify_all();
        wait::announce_exit(self);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        assert_eq!(exit_code(7 << 8), 7);
        assert_eq!(exit_code(9), 137);
        assert_eq!(exit_code(15 | 0x80), 143);
        assert_eq!(exit_code(0), 0);
    }
}
