//! `stop` and `restart`.

use std::rc::Rc;
use std::time::Duration;

use gantry_keeper_proto::fault::{self, Point};

use super::{Container, kill, remove, start};
use crate::boot::untaken;
use crate::config::DEFAULT_STOP_TIMEOUT;
use crate::model::{Status, StopOptions};
use crate::{EngineError, signals};

/// Signal, grace, kill. `NotModified` if it does not run.
pub(crate) async fn stop(
    container: &Rc<Container>,
    options: &StopOptions,
) -> Result<(), EngineError> {
    if !container.status().is_alive() && container.status() != Status::Restarting {
        // No signal is needed, so not even a bad one is an error.
        return Err(EngineError::NotModified);
    }
    // Checked before the lock, so that a bad signal is an error at once.
    kill::stop_signal(container, options)?;
    // Before the lock for an exit that is on its way, after it for a start that held it.
    container.no_restart.set(true);
    let _guard = container.ops.lock().await;
    container.no_restart.set(true);
    if container.cancel_restart().await? {
        container.event("stop", &[]);
        return Ok(());
    }
    if !container.status().is_alive() {
        return Err(EngineError::NotModified);
    }
    container.amend(|inner| inner.state.manually_stopped = true);
    end_and_tell(container, options).await
}

/// Ends the processes and publishes `stop`. As with dockerd it comes before `die`, so that the exit publishes both.
async fn end_and_tell(container: &Rc<Container>, options: &StopOptions) -> Result<(), EngineError> {
    container.stopping.set(true);
    let ended = end_processes(container, options).await;
    let untold = container.stopping.take();
    ended?;
    if untold {
        container.event("stop", &[]);
    }
    Ok(())
}

/// Stops if it runs, then starts.
pub(crate) async fn restart(
    container: &Rc<Container>,
    options: &StopOptions,
) -> Result<(), EngineError> {
    kill::stop_signal(container, options)?;
    let _guard = container.ops.lock().await;
    if matches!(container.status(), Status::Removing | Status::Dead) {
        return Err(start::not_startable(container.status()));
    }
    // Neither the policy nor automatic removal may get between stop and start.
    container.client_restart.set(true);
    let result = stop_and_start(container, options).await;
    container.client_restart.set(false);
    if result.is_err() && container.fixed.host.auto_remove && !container.status().is_alive() {
        remove::auto_remove_later(container);
    }
    result?;
    container.event("restart", &[]);
    Ok(())
}

async fn stop_and_start(
    container: &Rc<Container>,
    options: &StopOptions,
) -> Result<(), EngineError> {
    container.no_restart.set(true);
    if !container.cancel_restart().await? && container.status().is_alive() {
        end_and_tell(container, options).await?;
    }
    start::start_locked(container, start::Cause::Client).await
}

/// Signal, grace, kill, and wait for the end. The lock is held.
async fn end_processes(
    container: &Rc<Container>,
    options: &StopOptions,
) -> Result<(), EngineError> {
    let signal = kill::stop_signal(container, options)?;
    // One that can't be taken over is ended without.
    let taken = untaken::take_over(container).await;
    if taken.is_ok() && container.run().is_none() {
        return Ok(());
    }
    kill::send(container, signal).await?;
    fault::reach(Point::StopSignalled);
    kill::thaw_if_paused(container, signal).await?;
    let ended = container.until(|s| !s.is_alive());
    match grace(options.timeout_s.or(container.fixed.config.stop_timeout_s)) {
        None => {
            ended.await;
            return Ok(());
        }
        Some(grace) => {
            if gantry_rt::timeout(grace, ended).await.is_ok() {
                return Ok(());
            }
        }
    }
    tracing::info!(id = %container.id, signal, "container did not end in its grace; killed");
    kill::send(container, signals::KILL).await?;
    kill::thaw_if_paused(container, signals::KILL).await?;
    gantry_rt::timeout(kill::KILL_LIMIT, container.until(|s| !s.is_alive()))
        .await
        .map_err(|_| {
            EngineError::System(
                "tried to kill container, but did not receive an exit event".to_owned(),
            )
        })
}

/// The grace; `None` is without end.
fn grace(seconds: Option<i64>) -> Option<Duration> {
    match seconds {
        None => Some(DEFAULT_STOP_TIMEOUT),
        Some(s) => u64::try_from(s).ok().map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graces() {
        assert_eq!(grace(None), Some(DEFAULT_STOP_TIMEOUT));
        assert_eq!(grace(Some(0)), Some(Duration::ZERO));
        assert_eq!(grace(Some(-1)), None);
    }
}
