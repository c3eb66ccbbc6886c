//! `wait`: clients that want to know when a container ends.

use std::rc::Rc;

use gantry_rt::reply::ReplySender;

use super::{Container, MAX_WAITERS, Waiter};
use crate::EngineError;
use crate::model::{Status, WaitCondition, WaitResult};

/// Registers a waiter, or answers it at once.
pub(crate) fn register(
    container: &Rc<Container>,
    condition: WaitCondition,
    reply: ReplySender<WaitResult>,
) -> Result<(), EngineError> {
    let mut inner = container.inner.borrow_mut();
    if condition == WaitCondition::NotRunning && !runs(inner.state.status) {
        reply.send(result(inner.state.exit_code, &inner.state.error));
        return Ok(());
    }
    // Clients that hung up meanwhile.
    inner.waiters.retain(|w| !w.reply.is_abandoned());
    if inner.waiters.len() >= MAX_WAITERS {
        return Err(EngineError::Unavailable(format!(
            "more than {MAX_WAITERS} clients wait for this container"
        )));
    }
    inner.waiters.push(Waiter { condition, reply });
    Ok(())
}

fn runs(status: Status) -> bool {
    status.is_alive() || status == Status::Restarting
}

fn result(exit_code: i32, error: &str) -> WaitResult {
    WaitResult {
        status_code: exit_code,
        error: (!error.is_empty()).then(|| error.to_owned()),
    }
}

/// Answers those who wait for an exit. With `will_restart`, those who wait for "not running" go on.
pub(crate) fn announce_exit(container: &Container, will_restart: bool) {
    answer(container, |condition| match condition {
        WaitCondition::NextExit => true,
        WaitCondition::NotRunning => !will_restart,
        WaitCondition::Removed => false,
    });
}

/// Answers everybody: the container is gone.
pub(crate) fn announce_removal(container: &Container) {
    answer(container, |_| true);
}

fn answer(container: &Container, wanted: impl Fn(WaitCondition) -> bool) {
    let (answered, result) = {
        let mut inner = container.inner.borrow_mut();
        let result = result(inner.state.exit_code, &inner.state.error);
        let (answered, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut inner.waiters)
            .into_iter()
            .partition(|w| wanted(w.condition));
        inner.waiters = kept;
        (answered, result)
    };
    for waiter in answered {
        waiter.reply.send(result.clone());
    }
}
