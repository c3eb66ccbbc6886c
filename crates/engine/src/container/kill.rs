//! `kill`: a signal to the container's first process.

use std::rc::Rc;
use std::time::Duration;

use super::{Container, external, freeze};
use crate::boot::untaken;
use crate::model::{Status, StopOptions};
use crate::{EngineError, signals};

/// How long a killed container may take to be gone before the client is told.
pub const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Sends a signal by name or number; empty means KILL, and KILL waits for the end.
pub(crate) async fn kill(container: &Rc<Container>, signal: &str) -> Result<(), EngineError> {
    let number = if signal.is_empty() {
        signals::KILL
    } else {
        signals::parse_supported(signal)?
    };
    if container.status() == Status::Restarting {
        // The next start is what has to be prevented; there is no process.
        container.no_restart.set(true);
        if container.cancel_restart().await? {
            return Ok(());
        }
    }
    if untaken::take_over(container).await.is_ok() {
        container.running("")?;
    }
    // As Docker: without a stop signal of its own, a container is meant to end by any signal.
    let ends = number == signals::KILL
        || container.fixed.config.stop_signal.is_empty()
        || stop_signal(container, &StopOptions::default())? == number;
    if ends {
        container.no_restart.set(true);
    }
    container.amend(|inner| inner.state.manually_stopped = true);
    send(container, number).await?;
    if ends {
        thaw_if_paused(container, number).await?;
    }
    if number == signals::KILL {
        let gone = gantry_rt::timeout(KILL_LIMIT, container.until(|s| !s.is_alive())).await;
        if gone.is_err() {
            return Err(EngineError::System(
                "tried to kill container, but did not receive an exit event".to_owned(),
            ));
        }
    }
    Ok(())
}

/// Sends a signal and says so.
pub(crate) async fn send(container: &Rc<Container>, number: i32) -> Result<(), EngineError> {
    let run = container.run();
    let sent = match (&run, container.untaken()) {
        (Some(run), _) => external::signal(container, run, number).await,
        (None, Some(untaken)) => untaken.signal(container, number).await,
        (None, None) => Ok(false),
    };
    match sent {
        Ok(true) => {
            container.event("kill", &[("signal", number.to_string())]);
            Ok(())
        }
        // It ended between the look and the signal; its exit is on the way.
        Ok(false) => Ok(()),
        Err(_) if run.is_some_and(|run| run.exiting.get()) || !container.status().is_alive() => {
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// A frozen process takes no signal: the ones that should end it need it thawed. As with dockerd there is no time to see
/// that it runs again before it is killed.
pub(crate) async fn thaw_if_paused(
    container: &Rc<Container>,
    signal: i32,
) -> Result<(), EngineError> {
    if container.status() == Status::Paused && container.run().is_some() {
        freeze::thaw(container, signal != signals::KILL).await?;
    }
    Ok(())
}

/// The signal of `stop`.
pub(crate) fn stop_signal(
    container: &Container,
    options: &StopOptions,
) -> Result<i32, EngineError> {
    match (&options.signal, container.fixed.config.stop_signal.as_str()) {
        (Some(signal), _) if !signal.is_empty() => signals::parse(signal),
        (_, "") => Ok(signals::TERM),
        (_, own) => signals::parse(own),
    }
}
