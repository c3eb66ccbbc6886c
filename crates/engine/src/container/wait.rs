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

/// Answers those who wait for an exit. A restart that follows does not matter: Docker answers "not running" too when
/// the policy is about to start the container again.
pub(crate) fn announce_exit(container: &Container) {
    let result = {
        let inner = container.inner.borrow();
        result(inner.state.exit_code, &inner.state.error)
    };
    answer(container, &result, |condition| {
        condition != WaitCondition::Removed
    });
}

/// Answers everybody: the container is gone. The error of such an answer is one of the removal, and there was none:
/// a failed start was told to the client that started, and the CLI prints this one as its own failure to wait.
pub(crate) fn announce_removal(container: &Container) {
    let result = result(container.inner.borrow().state.exit_code, "");
    answer(container, &result, |_| true);
}

fn answer(container: &Container, result: &WaitResult, wanted: impl Fn(WaitCondition) -> bool) {
    let answered = {
        let mut inner = container.inner.borrow_mut();
        let (answered, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut inner.waiters)
            .into_iter()
            .partition(|w| wanted(w.condition));
        inner.waiters = kept;
        answered
    };
    for waiter in answered {
        waiter.reply.send(result.clone());
    }
}
