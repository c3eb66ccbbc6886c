//! The guest lane: one thread with a tokio runtime for what needs tokio (TLS, HTTP clients, senders of logs). It is
//! started on first use. What runs there shares nothing with the shards: it is given messages and answers with messages.

use std::future::Future;
use std::sync::OnceLock;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{JoinHandle, LocalSet};

use crate::{reply, task};

/// Tasks that wait to be started; one more is refused.
pub const GUEST_QUEUE: usize = 4096;

/// Threads for what the lane's runtime can only do by blocking: looking up names.
pub const GUEST_BLOCKING_THREADS: usize = 4;

/// How long such a thread waits for more to do.
const BLOCKING_IDLE: std::time::Duration = std::time::Duration::from_secs(1);

/// Why a task was not started, or has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestGone {
    /// the thread could not be started
    #[error("the guest lane's thread could not be started")]
    NoThread,
    /// too many tasks wait to be started
    #[error("too many tasks wait for the guest lane")]
    Full,
    /// the task panicked
    #[error("the task in the guest lane ended without an answer")]
    Lost,
}

impl From<GuestGone> for std::io::Error {
    fn from(e: GuestGone) -> Self {
        std::io::Error::other(e)
    }
}

type Start = Box<dyn FnOnce() -> JoinHandle<()> + Send>;
type Named = (&'static str, Start);

fn lane() -> Option<&'static Sender<Named>> {
    static LANE: OnceLock<Option<Sender<Named>>> = OnceLock::new();
    LANE.get_or_init(|| {
        let (tx, rx) = mpsc::channel(GUEST_QUEUE);
        let thread = std::thread::Builder::new()
            .name("guest".to_owned())
            .spawn(move || lane_main(rx));
        match thread {
            Ok(_detached) => Some(tx),
            Err(e) => {
                tracing::error!(error = %e, "cannot start the guest lane's thread");
                None
            }
        }
    })
    .as_ref()
}

fn lane_main(mut queue: Receiver<Named>) {
    crate::workers::allow_every_cpu();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(GUEST_BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_IDLE)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            // The queue goes, and whoever sends to it is told.
            tracing::error!(error = %e, "cannot start the guest lane");
            return;
        }
    };
    LocalSet::new().block_on(&runtime, async move {
        while let Some((name, start)) = queue.recv().await {
            let running = start();
            tokio::task::spawn_local(async move {
                if let Err(e) = running.await
                    && let Ok(payload) = e.try_into_panic()
                {
                    task::report_panic(name, payload.as_ref());
                }
            });
        }
    });
}

/// Starts a task in the lane, from any thread; never blocks. The future is made there and stays there.
pub fn spawn<F>(
    name: &'static str,
    make: impl FnOnce() -> F + Send + 'static,
) -> Result<(), GuestGone>
where
    F: Future<Output = ()> + 'static,
{
    let start: Start = Box::new(move || tokio::task::spawn_local(make()));
    let sent = lane().ok_or(GuestGone::NoThread)?.try_send((name, start));
    sent.map_err(|e| match e {
        TrySendError::Full(_) => GuestGone::Full,
        TrySendError::Closed(_) => GuestGone::NoThread,
    })
}

/// Runs a future in the lane and waits for its result on the current shard. When the caller is dropped the future still
/// runs to its end.
///
/// # Panics
/// When called off-shard.
pub async fn call<R, F>(
    name: &'static str,
    make: impl FnOnce() -> F + Send + 'static,
) -> Result<R, GuestGone>
where
    R: Send + 'static,
    F: Future<Output = R> + 'static,
{
    let (tx, rx) = reply::channel();
    spawn(name, move || {
        let future = make();
        async move { tx.send(future.await) }
    })?;
    rx.await.map_err(|_| GuestGone::Lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_shard;

    #[test]
    fn a_call_runs_on_tokio_and_answers_the_shard() {
        let answer = on_shard(|| async {
            call("test", || async {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                tokio::task::spawn_local(async { 6 }).await.unwrap() * 7
            })
            .await
        });
        assert_eq!(answer, Ok(42));
    }

    #[test]
    fn a_panic_is_the_callers_alone() {
        let lost = on_shard(|| async {
            call("test", || async {
                if true {
                    panic!("on purpose");
                }
            })
            .await
        });
        assert_eq!(lost, Err(GuestGone::Lost));
        let fine = on_shard(|| async { call("test", || async { 1 }).await });
        assert_eq!(fine, Ok(1));
    }
}
