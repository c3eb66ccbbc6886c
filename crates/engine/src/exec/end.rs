//! The end that the daemon gives to execs of its own.

use std::rc::Rc;

use super::{Exec, Phase};
use crate::signals;

/// Kills an exec that runs, with what it left in its process group: an exec begins as the leader of one. Its exit comes
/// as any other.
pub(crate) async fn kill(exec: &Rc<Exec>) {
    if exec.phase() != Phase::Running {
        return;
    }
    let process = exec.process.get();
    match process.kill_group() {
        Ok(true) => return,
        Ok(false) => {}
        Err(e) => {
            tracing::debug!(id = %exec.key, error = %e, "a process group can't be killed; the process is")
        }
    }
    let keeper = exec.keeper.borrow().clone();
    if let Some(keeper) = keeper
        && let Err(e) = keeper.signal(&exec.key, process, signals::KILL).await
    {
        tracing::error!(id = %exec.key, error = %e, "an exec can't be killed");
    }
}
