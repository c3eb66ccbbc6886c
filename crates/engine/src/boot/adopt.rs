//! Taking over what a keeper has.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;

use gantry_cgroup::Group;
use gantry_launch::AdoptedContainer;
use gantry_stream::{ContainerIo, StreamFds};

use super::remove_groups;
use crate::container::late_log::{self, Streams};
use crate::container::{Container, Run, exit, external, files, ship};
use crate::keeper::{ExitReport, Held, KeeperLink};
use crate::launch_spec::{cgroup_parent, log_is_nonblocking};
use crate::model::*;
use crate::orphan::ProcessName;
use crate::shard::ShardEngine;
use crate::{EngineError, clock, signals};

/// A container that a keeper has and no record names: its creation was never announced as started.
pub(super) async fn abandon_unknown(
    shard: &Rc<ShardEngine>,
    link: &Rc<KeeperLink>,
    found: &AdoptedContainer,
) {
    tracing::error!(id = %found.id, pid = found.pid, "a keeper has a container without a record; it is ended");
    end_unknown(link, found).await;
    // Its own parent group went with the record; most have the default one.
    let parent = cgroup_parent(&shard.shared, &HostSpec::default());
    remove_groups(shard, vec![(parent, found.id.clone())]).await;
}

/// Ends what nobody can know of.
pub(crate) async fn end_unknown(link: &Rc<KeeperLink>, found: &AdoptedContainer) {
    let process = ProcessName {
        pid: found.pid,
        start_time_ticks: found.start_time_ticks,
    };
    if found.exit.is_none()
        && let Err(e) = link.signal(&found.id, process, signals::KILL).await
    {
        tracing::error!(id = %found.id, error = %e, "it can't be killed");
    }
    link.forget_later(found.id.clone());
}

/// What is known of a container's output so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// The keeper's journal has it.
    Kept,
    /// Nothing.
    New,
}

/// Takes a container over from the keeper: output first, then the exit if there is one. False if its
/// exit had been recorded already.
pub(super) async fn adopt(
    container: &Rc<Container>,
    link: &Rc<KeeperLink>,
    found: AdoptedContainer,
    slot: Slot,
) -> Result<bool, EngineError> {
    if !container.status().is_alive() {
        let recorded = container.inner.borrow().state.start_time_ticks == found.start_time_ticks;
        if recorded && found.exit.is_some() {
            // Recorded as ended, but not forgotten.
            link.forget_later(found.id);
            return Ok(false);
        }
        // Launched, but the daemon died before it was recorded.
        if !record_running(container, &found)? {
            return Ok(false);
        }
    }
    let Streams { io, log, late } = late_log::streams(container, |config| match slot {
        Slot::Kept => ContainerIo::adopt(&link.pump, found.slot, config),
        Slot::New => ContainerIo::new(&link.pump, found.slot, config),
    })?;
    let sender = match &log {
        Some(_) => ship::resumed(container).await,
        None => None,
    };
    let shared = &container.shard.shared;
    let parent = cgroup_parent(shared, &container.fixed.host);
    let (hierarchy, id) = (shared.seccomp.hierarchy.clone(), container.id.clone());
    let group = files::on_worker(move || Ok(Group::open(&hierarchy, &parent, &id)?)).await?;
    let group = Arc::new(group);
    let bundle = external::found(shared, &container.id).await?;
    let hand_over = link.hand_over(&container.id).await?;
    if let Some(spill) = hand_over.spill {
        replay(container, &io, spill, hand_over.spill_bytes).await;
    }
    let fds = StreamFds {
        stdin: hand_over.stdin,
        stdout: hand_over.stdout,
        stderr: hand_over.stderr,
        tty_master: hand_over.tty_master,
    };
    ship::begin(container, sender, log.as_ref());
    io.start(fds)
        .map_err(|e| EngineError::io("take over a container's streams", e))?;
    {
        let mut inner = container.inner.borrow_mut();
        inner.last_log = log;
        inner.run = Some(Rc::new(Run {
            io: io.clone(),
            keeper: link.clone(),
            started: None,
            group: group.clone(),
            oom_kills_told: Cell::new(0),
            bundle,
            exiting: Cell::new(false),
            root: RefCell::default(),
        }));
    }
    if let Some(error) = late {
        late_log::open_later(container, error);
    }
    let process = container.process();
    let held = Held {
        group: Some(group.clone()),
        log_nonblocking: log_is_nonblocking(&container.fixed.host),
        ..Held::new(process, None, found.slot, &io)
    };
    link.hold(&container.id, &link.client(), held);
    container
        .no_restart
        .set(container.inner.borrow().state.manually_stopped);
    if let Some(exit) = found.exit {
        exit::report(&container.shard, link, ExitReport::new(found.id, exit));
    }
    Ok(true)
}

/// Logs what a keeper collected. That it cannot be logged ends no container: it goes on with what it prints next.
async fn replay(container: &Container, io: &Rc<ContainerIo>, spill: File, bytes: u64) {
    if let Err(error) = try_replay(io, spill, bytes).await {
        tracing::error!(id = %container.id, %error, "what a container printed without a daemon is logged in part only");
    }
}

/// Then it is taken out of the file: whoever reads it without the journal, because the keeper died, must not find it again.
async fn try_replay(io: &Rc<ContainerIo>, spill: File, bytes: u64) -> Result<(), EngineError> {
    let failed = |e| EngineError::io("log what a container printed without a daemon", e);
    if io.has_buffer() {
        return io.take_spill(spill, bytes).map_err(failed);
    }
    let copy = spill.try_clone().map_err(failed)?;
    io.replay(spill, bytes).await.map_err(failed)?;
    files::on_worker(move || {
        use rustix::fs::FallocateFlags;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&copy, flags, 0, bytes) {
            // Nothing to take out, or a file system without holes.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => Ok(()),
            Err(e) => Err(EngineError::io("free replayed output", e.into())),
        }
    })
    .await
}

/// A launch that no record speaks of: it ran, so that is what is recorded, and its exit after it.
fn record_running(
    container: &Rc<Container>,
    found: &AdoptedContainer,
) -> Result<bool, EngineError> {
    if !container.status().may_become(Status::Running) {
        tracing::error!(id = %container.id, "a container that is being removed still runs");
        return Ok(false);
    }
    let now = clock::unix_ns();
    let ended = found.exit.as_ref().map_or(now, |exit| {
        i64::try_from(exit.exited_at_unix_ns).unwrap_or(now)
    });
    container.transition(Status::Running, |state| {
        state.pid = found.pid;
        state.start_time_ticks = found.start_time_ticks;
        state.started_unix_ns = now.min(ended);
        state.finished_unix_ns = 0;
        state.exit_code = 0;
        state.error = String::new();
    })?;
    Ok(true)
}
