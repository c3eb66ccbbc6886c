//! `exec start`: from a created exec to a running process.

use std::rc::Rc;

use gantry_keeper_proto::fault::{self, Point};
use gantry_launch::{KeeperClient, KeeperError, LaunchError, LaunchedExec};
use gantry_stream::{ContainerIo, IoConfig, StreamFds, SubscribeOptions, Subscription};

use super::attach::ExecStart;
use super::stage::{self, Inputs};
use super::{Exec, MAX_STARTING_EXECS, Phase, check_container, exit, stray};
use crate::container::{Container, Run, files};
use crate::keeper::{Held, KeeperLink, NOT_STARTED};
use crate::model::NetworkMode;
use crate::orphan::ProcessName;
use crate::{EngineError, signals};

/// A started exec with a subscription made before its first output.
pub(super) struct Live {
    pub(super) io: Rc<ContainerIo>,
    pub(super) keeper: Rc<KeeperLink>,
    pub(super) subscription: Option<Subscription>,
}

/// Docker's refusal of an exec that can't be started any more.
fn check_phase(exec: &Exec) -> Result<(), EngineError> {
    match exec.phase() {
        Phase::Created => Ok(()),
        Phase::Starting | Phase::Running => Err(EngineError::Conflict(format!(
            "exec command {} is already running",
            exec.id
        ))),
        Phase::Exited(_) => Err(EngineError::Conflict(format!(
            "exec command {} has already run",
            exec.id
        ))),
    }
}

/// Starts it; `attached` with the output wanted.
pub(super) async fn start(
    container: &Rc<Container>,
    exec: &Rc<Exec>,
    options: ExecStart,
    attached: Option<SubscribeOptions>,
) -> Result<Live, EngineError> {
    // What is frozen while it is started would wait for the thaw.
    container.not_pausing().await;
    check_container(container, &container.id)?;
    check_phase(exec)?;
    if container.execs.starting() >= MAX_STARTING_EXECS {
        return Err(EngineError::Unavailable(format!(
            "container {} has {MAX_STARTING_EXECS} execs that are being started",
            container.id
        )));
    }
    exec.set_phase(Phase::Starting);
    container.exec_event(exec, &format!("exec_start: {}", exec.command_line()), &[]);
    match launch(container, exec, options, attached).await {
        Ok(live) => Ok(live),
        Err(e) => {
            let e = or_ended(container, e);
            let code = match &e {
                EngineError::BadCommand { exit_code, .. } => *exit_code,
                _ => NOT_STARTED,
            };
            exit::ended(container, exec, code);
            exit::remove_note_later(container, exec);
            Err(e)
        }
    }
}

/// Starts an exec of the daemon's own and gives its output.
pub(crate) async fn start_probe(
    container: &Rc<Container>,
    exec: &Rc<Exec>,
    wanted: SubscribeOptions,
) -> Result<Subscription, EngineError> {
    let started = start(container, exec, ExecStart::default(), Some(wanted)).await;
    if started.is_err() && exec.phase() == Phase::Created {
        // Refused before it began. Nobody starts it again, and its end is waited for.
        exit::ended(container, exec, NOT_STARTED);
    }
    started?
        .subscription
        .ok_or_else(|| EngineError::System("a probe has no output".to_owned()))
}

/// A container that ends meanwhile makes many things fail; that is then the reason.
fn or_ended(container: &Container, error: EngineError) -> EngineError {
    match container.status().is_alive() {
        true => error,
        false => container.not_running(""),
    }
}

/// The host name in the environment: that of the container whose network is joined.
fn hostname(container: &Container) -> String {
    let fixed = &container.fixed;
    if let NetworkMode::Container(key) = &fixed.host.network_mode
        && let Ok((_, view)) = container.shard.shared.index.resolve(key)
    {
        return view.fixed.config.hostname.clone();
    }
    fixed.config.hostname.clone()
}

fn inputs(
    container: &Container,
    run: &Run,
    exec: &Exec,
    options: ExecStart,
    attached: bool,
) -> Inputs {
    Inputs {
        shared: container.shard.shared.clone(),
        fixed: container.fixed.clone(),
        group: run.group.clone(),
        bundle: run.bundle.clone(),
        init: container.process(),
        hostname: hostname(container),
        key: exec.key.clone(),
        config: exec.config().clone(),
        env: exec.env.take(),
        console_size: options.console_size,
        open_stdin: attached && exec.config().attach_stdin,
    }
}

async fn launch(
    container: &Rc<Container>,
    exec: &Rc<Exec>,
    options: ExecStart,
    attached: Option<SubscribeOptions>,
) -> Result<Live, EngineError> {
    let run = container.running("")?;
    // Not necessarily the one of the container: that may have died.
    let keeper = container.shard.keeper()?;
    let inputs = inputs(container, &run, exec, options, attached.is_some());
    let prepared = files::on_worker(move || stage::stage(inputs)).await?;
    fault::reach(Point::ExecStaged);
    let (launched, launcher) = match keeper.launch_exec(prepared).await {
        Ok(launched) => launched,
        Err(e) => {
            if matches!(e, LaunchError::Keeper(KeeperError::Gone)) {
                // It may have been made, or be on its way to its exec.
                stray::end_all(container).await;
            }
            return Err(e.into());
        }
    };
    fault::reach(Point::ExecLaunched);
    let process = ProcessName {
        pid: launched.pid,
        start_time_ticks: launched.start_time_ticks,
    };
    match take_over(exec, &keeper, &launcher, launched, process, attached) {
        Ok(live) => {
            fault::reach(Point::ExecRunning);
            Ok(live)
        }
        Err(e) => {
            // It runs, but nobody could see it: it must not go on.
            if let Err(left) = keeper.signal(&exec.key, process, signals::KILL).await {
                tracing::error!(id = %exec.key, error = %left, "an exec without streams can't be killed");
            }
            keeper.forget_later(exec.key.clone());
            Err(e)
        }
    }
}

fn take_over(
    exec: &Rc<Exec>,
    keeper: &Rc<KeeperLink>,
    launcher: &Rc<KeeperClient>,
    launched: LaunchedExec,
    process: ProcessName,
    attached: Option<SubscribeOptions>,
) -> Result<Live, EngineError> {
    let io_error = |e| EngineError::io("take over the streams of an exec", e);
    let config = IoConfig {
        tty: exec.config().tty,
        sink: None,
        long_lines: None,
        buffer: None,
    };
    let io = ContainerIo::new(&keeper.pump, launched.slot, config).map_err(io_error)?;
    let held = Held::new(process, launched.pidfd, launched.slot, &io);
    keeper.hold(&exec.key, launcher, held);
    let subscription = attached.map(|wanted| io.subscribe(wanted));
    io.start(StreamFds {
        stdin: launched.stdin,
        stdout: launched.stdout,
        stderr: launched.stderr,
        tty_master: launched.tty_master,
    })
    .map_err(io_error)?;
    running(exec, keeper, process, &io);
    Ok(Live {
        io,
        keeper: keeper.clone(),
        subscription,
    })
}

/// It runs.
pub(super) fn running(
    exec: &Exec,
    keeper: &Rc<KeeperLink>,
    process: ProcessName,
    io: &Rc<ContainerIo>,
) {
    exec.process.set(process);
    *exec.keeper.borrow_mut() = Some(keeper.clone());
    *exec.io.borrow_mut() = Some(io.clone());
    exec.set_phase(Phase::Running);
}
