//! Blocking work for the guest lane.

use gantry_rt::workers::{self, WorkerGone};
use tokio::sync::oneshot;

use crate::error::RegistryError;

/// Runs a short blocking job on one of the lane's threads.
pub(crate) async fn short<R: Send + 'static>(
    f: impl FnOnce() -> R + Send + 'static,
) -> Result<R, RegistryError> {
    let job = tokio::task::spawn_blocking(f);
    job.await.map_err(|_| WorkerGone::Panicked.into())
}

/// Starts a job that may last on a thread of its own; it runs whether or not anyone waits.
pub(crate) fn start_long<R: Send + 'static>(
    name: &'static str,
    f: impl FnOnce() -> R + Send + 'static,
) -> Result<oneshot::Receiver<R>, RegistryError> {
    let (tx, rx) = oneshot::channel();
    workers::spawn_long(name, move || {
        // The caller may be gone.
        let _ = tx.send(f());
    })?;
    Ok(rx)
}

/// As [`start_long`], and waits for the result.
pub(crate) async fn long<R: Send + 'static>(
    name: &'static str,
    f: impl FnOnce() -> R + Send + 'static,
) -> Result<R, RegistryError> {
    let result = start_long(name, f)?.await;
    result.map_err(|_| WorkerGone::Panicked.into())
}
