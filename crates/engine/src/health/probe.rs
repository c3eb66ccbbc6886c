//! One probe: an exec that nobody is attached to but the daemon.

use std::rc::Rc;
use std::time::Duration;

use gantry_rt::sync::oneshot;
use gantry_rt::{Either, race};
use gantry_stream::{SubscribeOptions, Subscription};

use super::{Monitor, clock, rules};
use crate::container::Container;
use crate::exec::{self, Exec, Phase};
use crate::model::{MAX_HEALTH_RESULTS, ProbeResult};
use crate::{EngineError, clock as wall_clock};

/// How long the start of a probe may take before the check counts as failed. It is not part of the probe's own limit.
pub const PROBE_START_LIMIT: Duration = Duration::from_secs(30);
/// How long a killed probe is waited for before its failure is told.
pub const PROBE_KILL_LIMIT: Duration = Duration::from_secs(5);

const BOTH: SubscribeOptions = SubscribeOptions {
    stdout: true,
    stderr: true,
};

/// Exit code of what could not be run or took too long.
const NO_EXIT_CODE: i32 = -1;

const STILL_RUNS: &str = "the health check before this one does not end";

/// How a probe came out, and the exec that must end before the next one.
struct Outcome {
    /// `None`: it was called off.
    found: Option<(i32, String)>,
    exec: Option<Rc<Exec>>,
}

impl Outcome {
    fn failed(text: String, exec: Option<Rc<Exec>>) -> Self {
        let found = Some((NO_EXIT_CODE, text));
        Self { found, exec }
    }
}

/// Runs a probe to its very end, and makes its result the container's health.
pub(super) async fn run(container: &Rc<Container>, slot: clock::Slot) {
    let Some(monitor) = &container.health else {
        return;
    };
    let epoch = monitor.epoch.get();
    let (start_unix_ns, since_start) = (wall_clock::unix_ns(), container.since_start());
    let outcome = perform(container, monitor, epoch, slot).await;
    let tell = |start_unix_ns: i64, since_start, (exit_code, output)| {
        let result = ProbeResult {
            start_unix_ns,
            end_unix_ns: wall_clock::unix_ns().max(start_unix_ns),
            exit_code,
            output,
        };
        if !monitor.is_over(epoch) {
            tell_result(container, monitor, result, since_start);
        }
    };
    if let Some(found) = outcome.found {
        tell(start_unix_ns, since_start, found);
    }
    let Some(exec) = outcome.exec else { return };
    let ended = || exec.until(|phase| matches!(phase, Phase::Exited(_)));
    while gantry_rt::timeout(container.next_probe_delay(monitor), ended())
        .await
        .is_err()
    {
        // Another one beside it would pile up; that this one can't be run is no better than a failure.
        let found = (NO_EXIT_CODE, STILL_RUNS.to_owned());
        tell(wall_clock::unix_ns(), container.since_start(), found);
    }
    forget_older(container, monitor, exec);
}

/// A new result: the health, and an event if it is another.
fn tell_result(
    container: &Rc<Container>,
    monitor: &Monitor,
    result: ProbeResult,
    since_start: Duration,
) {
    let before = monitor.health().unwrap_or_default();
    let old_status = before.status;
    let after = rules::after_probe(before, &monitor.check, result, since_start);
    let status = after.status;
    monitor.cell.store(Some(after));
    if status != old_status {
        container.event(&format!("health_status: {}", status.as_str()), &[]);
    }
}

/// Ended probes can be inspected as long as their results are shown: without that, a container that is probed often
/// would fill the memory with them.
fn forget_older(container: &Rc<Container>, monitor: &Monitor, exec: Rc<Exec>) {
    let mut kept = monitor.execs.borrow_mut();
    kept.push(exec);
    let surplus = kept.len().saturating_sub(MAX_HEALTH_RESULTS);
    for old in kept.drain(..surplus) {
        container.forget_execs(|e| e.id != old.id);
    }
}

async fn perform(
    container: &Rc<Container>,
    monitor: &Monitor,
    epoch: u64,
    slot: clock::Slot,
) -> Outcome {
    let exec = match exec::create::create_probe(container, monitor.command.clone()) {
        Ok(exec) => exec,
        Err(e) => return Outcome::failed(e.to_string(), None),
    };
    let started = start(container, &exec);
    let started = gantry_rt::timeout(PROBE_START_LIMIT, started).await;
    drop(slot);
    match started {
        Ok(Ok(output)) => follow(monitor, epoch, exec, output).await,
        Ok(Err(e)) => Outcome::failed(e.to_string(), Some(exec)),
        Err(_) => {
            // It may have come up in this very moment.
            exec::end::kill(&exec).await;
            let text = format!(
                "timed out starting health check for container {}",
                container.id
            );
            Outcome::failed(text, Some(exec))
        }
    }
}

/// Starts the exec in a task of its own: a start can't be given up half way. One that comes too late is killed.
async fn start(container: &Rc<Container>, exec: &Rc<Exec>) -> Result<Subscription, EngineError> {
    let (sender, receiver) = oneshot::channel();
    let (container, exec) = (container.clone(), exec.clone());
    gantry_rt::spawn("health.start", async move {
        let started = exec::start::start_probe(&container, &exec, BOTH).await;
        if let Err(Ok(_too_late)) = sender.send(started) {
            exec::end::kill(&exec).await;
        }
    });
    receiver
        .await
        .map_err(|_| EngineError::System("the start of a probe was lost".to_owned()))?
}

/// Reads its output until it ends, its time is over, or it is called off.
async fn follow(
    monitor: &Monitor,
    epoch: u64,
    exec: Rc<Exec>,
    subscription: Subscription,
) -> Outcome {
    let mut output = rules::Output::default();
    let limit = rules::timeout(&monitor.check);
    let stopped = monitor.stopped.notified();
    let ended = if monitor.is_over(epoch) {
        Either::Right(())
    } else {
        let reading = gantry_rt::timeout(limit, read(&subscription, &mut output));
        race(reading, stopped).await
    };
    let found = match ended {
        Either::Left(Ok(())) => match exec.phase() {
            Phase::Exited(code) => Some((code, output.text())),
            _ => Some((
                NO_EXIT_CODE,
                "the end of the health check is unknown".to_owned(),
            )),
        },
        Either::Left(Err(_)) => {
            exec::end::kill(&exec).await;
            let rest = read(&subscription, &mut output);
            if gantry_rt::timeout(PROBE_KILL_LIMIT, rest).await.is_err() {
                tracing::warn!(id = %exec.key, "a health check that took too long can't be ended");
            }
            Some((NO_EXIT_CODE, rules::timed_out(limit, &output.text())))
        }
        Either::Right(()) => {
            exec::end::kill(&exec).await;
            None
        }
    };
    Outcome {
        found,
        exec: Some(exec),
    }
}

/// Reads to the end, which comes when the exit code is known.
async fn read(subscription: &Subscription, output: &mut rules::Output) {
    while let Some(frame) = subscription.next().await {
        output.push(&frame.bytes);
    }
}
