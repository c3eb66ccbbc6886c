//! `pause` and `unpause`: the freezer of the container's control group.

use std::rc::Rc;
use std::time::Duration;

use super::{Container, external};
use crate::EngineError;
use crate::model::Status;

/// How long a pause waits for execs that are being started. One that hangs longer is frozen with the others, and goes on
/// with the thaw.
pub const PAUSE_WAIT_LIMIT: Duration = Duration::from_secs(10);

/// Freezes every process.
pub(crate) async fn pause(container: &Rc<Container>) -> Result<(), EngineError> {
    // A start holds it: no launch is under way.
    let _guard = container.ops.lock().await;
    container.pausing.set(true);
    let paused = pause_locked(container).await;
    container.pausing.set(false);
    container.changed.notify_all();
    paused
}

async fn pause_locked(container: &Rc<Container>) -> Result<(), EngineError> {
    check(container)?;
    if gantry_rt::timeout(PAUSE_WAIT_LIMIT, container.execs.settled())
        .await
        .is_err()
    {
        tracing::warn!(id = %container.id, "paused while an exec is being started");
    }
    check(container)?;
    freeze(container).await
}

/// Docker's refusals.
fn check(container: &Container) -> Result<(), EngineError> {
    match container.status() {
        Status::Paused => Err(EngineError::Conflict(format!(
            "Container {} is already paused",
            container.id
        ))),
        Status::Restarting => Err(EngineError::Conflict(format!(
            "Container {} is restarting, wait until the container is running",
            container.id
        ))),
        _ => container.running("").map(drop),
    }
}

async fn freeze(container: &Rc<Container>) -> Result<(), EngineError> {
    let run = container.running("")?;
    let frozen = external::set_frozen(container, &run, true).await;
    // With the end of the container its group may be gone; that is no failure of the freezer.
    if run.exiting.get() || container.status() != Status::Running {
        return Err(container.not_running(""));
    }
    frozen?;
    if let Err(e) = container.transition(Status::Paused, |_| {}) {
        external::set_frozen(container, &run, false).await?;
        return Err(e);
    }
    container.event("pause", &[]);
    Ok(())
}

/// Thaws every process.
pub(crate) async fn unpause(container: &Rc<Container>) -> Result<(), EngineError> {
    let _guard = container.ops.lock().await;
    if container.status() != Status::Paused {
        // Docker does not class this one.
        return Err(EngineError::System(format!(
            "Container {} is not paused",
            container.id
        )));
    }
    thaw(container, true).await
}

/// Thaws a paused container; also on the way to its end, under the lock of `stop`. `tell`: with an event.
pub(crate) async fn thaw(container: &Rc<Container>, tell: bool) -> Result<(), EngineError> {
    let run = container.running("")?;
    let thawed = external::set_frozen(container, &run, false).await;
    // It may have ended, or another may have thawed it, while the worker was busy.
    if container.status() == Status::Paused {
        thawed?;
        container.transition(Status::Running, |_| {})?;
        if tell {
            container.event("unpause", &[]);
        }
    }
    Ok(())
}
