//! `start`: from a record to a running process.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_keeper_proto::fault::{self, Point};
use gantry_launch::{Bundle, KeeperClient, Launched, Prepared};
use gantry_stream::{ContainerIo, IoConfig, StreamFds};

use super::{Container, Run, exit, external, hooks, later, logs, remember, remove, ship};
use crate::boot::untaken;
use crate::keeper::{Held, KeeperLink, NOT_STARTED};
use crate::launch_spec::{self, Staged};
use crate::model::*;
use crate::orphan::ProcessName;
use crate::{EngineError, clock, oom, signals, volumes};

/// Who wants the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A client.
    Client,
    /// The restart policy.
    Policy,
}

/// Starts a container; `NotModified` if it runs.
pub(crate) async fn start(container: &Rc<Container>) -> Result<(), EngineError> {
    let _guard = container.ops.lock().await;
    if container.status() == Status::Restarting {
        // Docker counts it as running: its policy is about to start it.
        return Err(EngineError::NotModified);
    }
    start_locked(container, Cause::Client).await
}

/// Docker's refusal of a state that can't be started.
pub(crate) fn not_startable(status: Status) -> EngineError {
    match status {
        Status::Running => EngineError::NotModified,
        Status::Paused => {
            EngineError::Conflict("cannot start a paused container, try unpause instead".to_owned())
        }
        _ => EngineError::Conflict(
            "container is marked for removal and cannot be started".to_owned(),
        ),
    }
}

/// Starts; the lock is held.
pub(crate) async fn start_locked(
    container: &Rc<Container>,
    cause: Cause,
) -> Result<(), EngineError> {
    untaken::take_over(container).await?;
    let status = container.status();
    if !matches!(
        status,
        Status::Created | Status::Exited | Status::Restarting
    ) || container.removing.get()
    {
        return Err(not_startable(status));
    }
    if container.shard.shared.is_closing() {
        return Err(EngineError::Unavailable(
            "the daemon is shutting down".to_owned(),
        ));
    }
    container.released().await;
    later::end_root_now(container);
    if cause == Cause::Client {
        let mut inner = container.inner.borrow_mut();
        inner.backoff.reset();
        inner.restart_count = 0;
    }
    container.no_restart.set(false);
    container.launching.set(true);
    let started = launch(container).await;
    container.launching.set(false);
    container.changed.notify_all();
    match started {
        Ok(()) => {
            let points = &container.fixed.host.mounts;
            volumes::announce_mounts(&container.shard.shared, &container.id, points);
            container.event("start", &[]);
            oom::watch_later(container);
            remember::started(container);
            Ok(())
        }
        Err(e) => {
            failed(container, &e).await;
            // What an earlier run left is still to be sent.
            ship::resume_later(container);
            Err(e)
        }
    }
}

async fn launch(container: &Rc<Container>) -> Result<(), EngineError> {
    let bundle = external::of_start(container)?;
    let launched = launch_with(container, bundle.clone()).await;
    if let (Err(_), Some(bundle)) = (&launched, &bundle) {
        external::put_away(&container.shard, bundle).await;
    }
    if launched.is_err() {
        hooks::put_away(container).await;
    }
    launched
}

async fn launch_with(
    container: &Rc<Container>,
    bundle: Option<Arc<Bundle>>,
) -> Result<(), EngineError> {
    let keeper = container.shard.keeper()?;
    let prepared = stage(container, bundle.clone()).await?;
    fault::reach(Point::StartStaged);
    // Opened before the launch: what can fail, fails while there is no process.
    let sender = ship::prepare(container).await?;
    let sink = logs::open_sink(container).map_err(ship::log_failed)?;
    let started_unix_ns = clock::unix_ns();
    let (launched, launcher) = keeper.launch(prepared).await?;
    fault::reach(Point::StartLaunched);
    let process = ProcessName {
        pid: launched.process.pid,
        start_time_ticks: launched.process.start_time_ticks,
    };
    let keepers = (&keeper, &launcher);
    let log = sink.as_ref().map(|(_, handle)| handle.clone());
    if let Err(e) = take_over(container, keepers, launched, bundle, sink, started_unix_ns) {
        // It runs, but nobody could know: it must not go on.
        if let Err(left) = keeper.signal(&container.id, process, signals::KILL).await {
            tracing::error!(id = %container.id, error = %left, "a container that can't be recorded can't be killed");
        }
        keeper.forget_later(container.id.to_string());
        return Err(e);
    }
    ship::begin(container, sender, log.as_ref());
    Ok(())
}

/// Prepares a launch. What an external runtime has left of an earlier one is put away before.
async fn stage(
    container: &Rc<Container>,
    bundle: Option<Arc<Bundle>>,
) -> Result<Prepared, EngineError> {
    let mut put_away = false;
    loop {
        match launch_spec::stage(container, bundle.clone(), put_away).await? {
            Staged::Ready(prepared) => return Ok(*prepared),
            Staged::Left(left) => external::put_away(&container.shard, &left).await,
        }
        put_away = true;
    }
}

type Sink = Option<logs::OpenSink>;

fn take_over(
    container: &Rc<Container>,
    (keeper, launcher): (&Rc<KeeperLink>, &Rc<KeeperClient>),
    launched: Launched,
    bundle: Option<Arc<Bundle>>,
    sink: Sink,
    started_unix_ns: i64,
) -> Result<(), EngineError> {
    let (sink, handle) = sink.map_or((None, None), |(sink, handle)| (Some(sink), Some(handle)));
    let config = IoConfig {
        tty: container.fixed.config.tty,
        sink,
        buffer: logs::buffer(container),
        long_lines: logs::long_lines(container),
    };
    let io_error = |e| EngineError::io("take over a container's streams", e);
    let io = ContainerIo::new(&keeper.pump, launched.process.slot, config).map_err(io_error)?;
    let group = Arc::new(launched.group);
    let process = ProcessName {
        pid: launched.process.pid,
        start_time_ticks: launched.process.start_time_ticks,
    };
    let held = Held {
        group: Some(group.clone()),
        log_nonblocking: launch_spec::log_is_nonblocking(&container.fixed.host),
        ..Held::new(process, launched.process.pidfd, launched.process.slot, &io)
    };
    keeper.hold(&container.id, launcher, held);
    let run = Rc::new(Run {
        io: io.clone(),
        keeper: keeper.clone(),
        started: Some(Instant::now()),
        group,
        oom_kills_told: Cell::new(0),
        bundle,
        exiting: Cell::new(false),
        root: RefCell::new(Some(launched.root)),
    });
    container.transition(Status::Running, |state| {
        state.pid = launched.process.pid;
        state.start_time_ticks = launched.process.start_time_ticks;
        state.exit_code = 0;
        state.error = String::new();
        state.started_unix_ns = started_unix_ns;
        state.oom_killed = false;
        state.manually_stopped = false;
    })?;
    fault::reach(Point::StartRecorded);
    {
        let mut inner = container.inner.borrow_mut();
        inner.run = Some(run.clone());
        inner.last_log = handle;
    }
    container.serve_pending_attaches(&run);
    let fds = StreamFds {
        stdin: launched.process.stdin,
        stdout: launched.process.stdout,
        stderr: launched.process.stderr,
        tty_master: launched.process.tty_master,
    };
    if let Err(e) = io.start(fds) {
        // It runs and is recorded; only its output is lost, and that is said.
        tracing::error!(id = %container.id, error = %e, "a container's output can't be read");
    }
    Ok(())
}

/// Records a failed start: exit code and text, as Docker.
async fn failed(container: &Rc<Container>, error: &EngineError) {
    let exit_code = match error {
        EngineError::BadCommand { exit_code, .. } => *exit_code,
        _ => NOT_STARTED,
    };
    container.close_pending_attaches();
    volumes::unmount_unused(container).await;
    // A restart attempt that can't even launch has ended; a first start leaves it created.
    let before = container.status();
    let next = match before {
        Status::Restarting => Status::Exited,
        status if status.is_alive() => return,
        status => status,
    };
    let recorded = container.transition(next, |state| {
        state.exit_code = exit_code;
        state.error = error.to_string();
    });
    if let Err(e) = recorded {
        tracing::error!(id = %container.id, error = %e, "a failed start could not be recorded");
        return;
    }
    if before == Status::Restarting {
        super::wait::announce_exit(container);
    }
    if container.fixed.host.auto_remove {
        remove::auto_remove_later(container);
    } else if let Err(e) = exit::store_present(container).await {
        tracing::error!(id = %container.id, error = %e, "a failed start could not be made durable");
    }
}

/// Starts again after a delay, unless somebody gives it up or the container is gone.
pub(crate) fn schedule_restart(container: &Rc<Container>, delay: Duration) {
    let container = container.clone();
    gantry_rt::spawn("container.restart", async move {
        let cancelled = container.restart_cancelled.notified();
        if let gantry_rt::Either::Right(()) =
            gantry_rt::race(gantry_rt::sleep(delay), cancelled).await
        {
            return;
        }
        let _guard = container.ops.lock().await;
        if container.status() != Status::Restarting {
            return;
        }
        if let Err(e) = start_locked(&container, Cause::Policy).await {
            tracing::warn!(id = %container.id, error = %e, "restart by policy failed");
        }
    });
}

/// Starts without anybody waiting (boot).
pub(crate) fn start_later(container: &Rc<Container>) {
    let container = container.clone();
    gantry_rt::spawn("container.boot-start", async move {
        match start(&container).await {
            Ok(()) | Err(EngineError::NotModified) => {}
            Err(e) => tracing::warn!(id = %container.id, error = %e, "start at boot failed"),
        }
    });
}
