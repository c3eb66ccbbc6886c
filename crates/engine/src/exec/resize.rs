//! `exec resize`.

use std::rc::Rc;
use std::time::Duration;

use super::{Exec, Phase, check_container};
use crate::EngineError;
use crate::container::Container;

/// How long a resize waits for the start (dockerd's number).
pub const RESIZE_START_LIMIT: Duration = Duration::from_secs(10);

/// Sets the size of its terminal, waiting for the start if need be.
pub(super) async fn resize(
    container: &Rc<Container>,
    exec: &Rc<Exec>,
    rows: u16,
    columns: u16,
) -> Result<(), EngineError> {
    check_container(container, &container.id)?;
    let started = exec.until(|phase| matches!(phase, Phase::Running | Phase::Exited(_)));
    gantry_rt::timeout(RESIZE_START_LIMIT, started)
        .await
        .map_err(|_| EngineError::System("timeout waiting for exec session ready".to_owned()))?;
    let keeper = exec.keeper.borrow().clone();
    match (exec.phase(), keeper) {
        (Phase::Running, Some(keeper)) => keeper.resize(&exec.key, rows, columns).await,
        _ if exec.process.get().pid == 0 => Err(EngineError::InvalidParameter(
            "exec process is not started".to_owned(),
        )),
        _ => Err(EngineError::NotFound(format!(
            "NotFound: process does not exist {}: not found",
            exec.id
        ))),
    }
}
