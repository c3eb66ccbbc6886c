//! Messages between shards: a bounded queue and an eventfd per shard.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use rustix::event::EventfdFlags;

use crate::fd::AsyncFd;
use crate::shard::{self, ShardId};
use crate::{reply, sync, task};

/// Jobs a shard's mailbox holds; one more is refused.
pub const MAILBOX_CAPACITY: usize = 8192;

/// Jobs run before other tasks of the shard get their turn.
const BATCH: usize = 128;

type Job = Box<dyn FnOnce() + Send>;

/// the shard's mailbox is full
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard's mailbox is full")]
pub struct Full;

/// Why a call to another shard has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// the shard's mailbox is full
    #[error("the shard's mailbox is full")]
    Full,
    /// the called task ended without an answer
    #[error("the called task ended without an answer")]
    Lost,
}

impl From<Full> for CallError {
    fn from(_: Full) -> Self {
        CallError::Full
    }
}

pub(crate) struct Mailbox {
    queue: ArrayQueue<Job>,
    /// The shard is (about to be) asleep and wants a write to the eventfd.
    sleeping: AtomicBool,
    wake: OwnedFd,
}

impl Mailbox {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Mailbox {
            queue: ArrayQueue::new(MAILBOX_CAPACITY),
            // The first post always signals; the receiver starts by looking at the queue anyway.
            sleeping: AtomicBool::new(true),
            wake: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    fn push(&self, job: Job) -> Result<(), Full> {
        self.queue.push(job).map_err(|_| Full)?;
        // Orders our push before our look at the flag, against the receiver's store of the flag before its last look at
        // the queue: one of the two sees the other.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.signal();
        }
        Ok(())
    }

    fn signal(&self) {
        // EAGAIN means the counter is at its maximum: the reader is signalled all the more.
        match rustix::io::write(&self.wake, &1u64.to_ne_bytes()) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(e) => panic!("write to a mailbox's eventfd failed: {e}"),
        }
    }
}

/// Starts the task that runs the current shard's mailbox.
pub(crate) fn start(id: ShardId) -> io::Result<()> {
    let shared = shard::shared(id).ok_or_else(|| io::Error::other("unknown shard"))?;
    let wake = AsyncFd::new(rustix::io::fcntl_dupfd_cloexec(&shared.mailbox.wake, 3)?)?;
    task::spawn("mailbox", async move {
        let mailbox = &shared.mailbox;
        loop {
            run_jobs(shared).await;
            mailbox.sleeping.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if !mailbox.queue.is_empty() {
                mailbox.sleeping.store(false, Ordering::Relaxed);
                continue;
            }
            if let Err(e) = wake.read_eventfd().await {
                // Without it the shard would never hear from the others again: better a crash with a name.
                panic!("read of a mailbox's eventfd failed: {e}");
            }
        }
    });
    Ok(())
}

async fn run_jobs(shared: &'static shard::ShardShared) {
    let mut in_batch = 0;
    while let Some(job) = shared.mailbox.queue.pop() {
        shared.counters.jobs_run.fetch_add(1, Ordering::Relaxed);
        if let Err(payload) = std::panic::catch_unwind(AssertUnwindSafe(job)) {
            task::report_panic("mailbox.job", payload.as_ref());
        }
        in_batch += 1;
        if in_batch == BATCH {
            in_batch = 0;
            crate::yield_now().await;
        }
    }
}

/// Runs `job` on shard `to`. From any thread; never blocks. Jobs of one sender run in the order posted.
///
/// An unknown shard answers `Full` as well: nothing can be delivered to it.
pub fn post(to: ShardId, job: impl FnOnce() + Send + 'static) -> Result<(), Full> {
    shard::shared(to).ok_or(Full)?.mailbox.push(Box::new(job))
}

/// Runs a future on the shard `to` and waits for its answer on the current shard.
///
/// The future runs as a task of its own there: when the caller is dropped (a client hung up) it still runs to its end.
/// The same holds when `to` is the current shard.
pub async fn call<R, F>(to: ShardId, f: impl FnOnce() -> F + Send + 'static) -> Result<R, CallError>
where
    R: Send + 'static,
    F: Future<Output = R> + 'static,
{
    if to == shard::current_shard() {
        let (tx, rx) = sync::oneshot::channel();
        let fut = f();
        task::spawn("mailbox.call", async move {
            // The caller may be gone; its answer is then not wanted.
            let _ = tx.send(fut.await);
        });
        return rx.await.map_err(|_| CallError::Lost);
    }
    let (tx, rx) = reply::channel();
    post(to, move || {
        let fut = f();
        task::spawn("mailbox.call", async move { tx.send(fut.await) });
    })?;
    rx.await.map_err(|_| CallError::Lost)
}
