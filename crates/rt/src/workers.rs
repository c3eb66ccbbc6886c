//! Threads for blocking work: a small fixed pool for short jobs, and own threads, bounded in number, for jobs that last
//! as long as a client sends or reads (so that ten slow uploads never keep a launch from its worker).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::queue::{self, Receiver, Sender, TrySendError};
use crate::sync::Notify;
use crate::{reply, task};

/// Jobs of one shard that may be queued or running; further callers wait on their shard.
pub const JOBS_PER_SHARD: usize = 64;

/// Jobs waiting in the pool's queue; `submit` blocks beyond that.
pub const QUEUE_CAPACITY: usize = 1024;

/// Fewest pool threads; otherwise two per CPU.
pub const MIN_WORKERS: usize = 4;

/// Threads that write logs whose containers must not wait for them ([`run_log`]); started with the first such write. Logs on
/// file systems that hang take them, and nothing else waits for these.
pub const LOG_WRITERS: usize = 4;

/// Long jobs at once; one more is refused.
pub const MAX_LONG_JOBS: usize = 64;

/// Stack of a worker thread.
const STACK_BYTES: usize = 1 << 20;

type Job = Box<dyn FnOnce() + Send>;

/// Why a job has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerGone {
    /// the job panicked on its worker
    #[error("the job panicked on its worker")]
    Panicked,
    /// no worker thread could be started
    #[error("no worker thread could be started")]
    NoThread,
    /// too many long jobs at once
    #[error("too many long jobs at once")]
    TooMany,
}

impl From<WorkerGone> for io::Error {
    fn from(e: WorkerGone) -> Self {
        io::Error::other(e)
    }
}

/// The pool: made on first use.
fn pool() -> Option<&'static Sender<Job>> {
    static POOL: OnceLock<Option<Sender<Job>>> = OnceLock::new();
    POOL.get_or_init(|| {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        start_pool("worker", (2 * cpus).max(MIN_WORKERS))
    })
    .as_ref()
}

fn log_writers() -> Option<&'static Sender<Job>> {
    static POOL: OnceLock<Option<Sender<Job>>> = OnceLock::new();
    POOL.get_or_init(|| start_pool("log-writer", LOG_WRITERS))
        .as_ref()
}

fn start_pool(name: &str, threads: usize) -> Option<Sender<Job>> {
    let (tx, rx) = queue::bounded::<Job>(QUEUE_CAPACITY);
    let mut started = 0;
    for index in 0..threads {
        match start_thread(format!("{name}-{index}"), rx.clone()) {
            Ok(()) => started += 1,
            Err(e) => tracing::error!(error = %e, name, "cannot start a worker thread"),
        }
    }
    (started > 0).then_some(tx)
}

fn start_thread(name: String, jobs: Receiver<Job>) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name)
        .stack_size(STACK_BYTES)
        .spawn(move || {
            allow_every_cpu();
            while let Some(job) = jobs.recv() {
                run_caught(job);
            }
        })?;
    Ok(())
}

/// A thread inherits the CPU of the shard that happened to start it; workers go where there is room.
pub(crate) fn allow_every_cpu() {
    let mut all = rustix::thread::CpuSet::new();
    for cpu in 0..rustix::thread::CpuSet::MAX_CPU {
        all.set(cpu);
    }
    // The kernel intersects with what the process may use; a refusal only leaves the thread where it is.
    if let Err(e) = rustix::thread::sched_setaffinity(None, &all) {
        tracing::debug!(error = %e, "a worker stays on its starter's CPU");
    }
}

fn run_caught(job: Job) {
    if let Err(payload) = std::panic::catch_unwind(AssertUnwindSafe(job)) {
        task::report_panic("worker.job", payload.as_ref());
    }
}

struct Permits {
    used: Cell<usize>,
    freed: Notify,
}

struct Permit(Rc<Permits>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.set(self.0.used.get() - 1);
        self.0.freed.notify_one();
    }
}

async fn permit() -> Permit {
    thread_local! {
        static PERMITS: RefCell<Rc<Permits>> =
            RefCell::new(Rc::new(Permits { used: Cell::new(0), freed: Notify::new() }));
    }
    let permits = PERMITS.with(|p| p.borrow().clone());
    while permits.used.get() >= JOBS_PER_SHARD {
        permits.freed.notified().await;
    }
    permits.used.set(permits.used.get() + 1);
    Permit(permits)
}

/// Runs a short blocking job on the pool. When the caller is dropped the job still runs to its end.
pub async fn run<R: Send + 'static>(
    f: impl FnOnce() -> R + Send + 'static,
) -> Result<R, WorkerGone> {
    let permit = permit().await;
    let (tx, rx) = reply::channel();
    let queue = pool().ok_or(WorkerGone::NoThread)?;
    // Full only when others submit from off-shard; the pool drains it without our help.
    enqueue(queue, Box::new(move || tx.send(f()))).await?;
    let (done_tx, done_rx) = crate::sync::oneshot::channel();
    // The permit is held until the job has ended, even if the caller goes away first.
    crate::spawn("worker.reply", async move {
        let result = rx.await;
        drop(permit);
        // The caller may be gone.
        let _ = done_tx.send(result);
    });
    done_rx
        .await
        .map_err(|_| WorkerGone::Panicked)?
        .map_err(|_| WorkerGone::Panicked)
}

async fn enqueue(queue: &Sender<Job>, mut job: Job) -> Result<(), WorkerGone> {
    while let Err(e) = queue.try_send(job) {
        job = match e {
            TrySendError::Full(job) => job,
            TrySendError::Disconnected(_) => return Err(WorkerGone::NoThread),
        };
        crate::sleep(std::time::Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Runs a write of a log on one of [`LOG_WRITERS`] threads, behind those that came before. Whoever calls this has one such
/// job at a time for each log.
pub async fn run_log<R: Send + 'static>(
    f: impl FnOnce() -> R + Send + 'static,
) -> Result<R, WorkerGone> {
    let (tx, rx) = reply::channel();
    let queue = log_writers().ok_or(WorkerGone::NoThread)?;
    enqueue(queue, Box::new(move || tx.send(f()))).await?;
    rx.await.map_err(|_| WorkerGone::Panicked)
}

/// Queues a job from a thread that is not a shard; blocks while the queue is full.
pub fn submit(f: impl FnOnce() + Send + 'static) -> Result<(), WorkerGone> {
    assert!(
        crate::try_current_shard().is_none(),
        "workers::submit() called on a shard"
    );
    pool()
        .ok_or(WorkerGone::NoThread)?
        .send(Box::new(f))
        .map_err(|_| WorkerGone::NoThread)
}

/// Queues a job nobody waits for, from any thread; refused while the queue is full.
pub fn try_submit(f: impl FnOnce() + Send + 'static) -> Result<(), WorkerGone> {
    pool()
        .ok_or(WorkerGone::NoThread)?
        .try_send(Box::new(f))
        .map_err(|_| WorkerGone::TooMany)
}

/// Runs a job on the pool from a thread that is not a shard and blocks for its result.
pub fn run_sync<R: Send + 'static>(
    f: impl FnOnce() -> R + Send + 'static,
) -> Result<R, WorkerGone> {
    let (tx, rx) = crossbeam_channel::bounded(1);
    submit(move || {
        // The receiver waits below; it cannot be gone.
        let _ = tx.send(f());
    })?;
    rx.recv().map_err(|_| WorkerGone::Panicked)
}

static LONG_JOBS: AtomicUsize = AtomicUsize::new(0);

struct LongJob;

impl Drop for LongJob {
    fn drop(&mut self) {
        LONG_JOBS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Starts a job that may block as long as a client does (load, import, build context, archive) on a thread of its own.
/// The returned future waits for its result; at most [`MAX_LONG_JOBS`] run at once, one more is refused here and now.
pub fn run_long<R: Send + 'static>(
    name: &'static str,
    f: impl FnOnce() -> R + Send + 'static,
) -> Result<impl Future<Output = Result<R, WorkerGone>>, WorkerGone> {
    let started = start_long(name, f)?;
    Ok(async move { started.await.map_err(|_| WorkerGone::Panicked) })
}

fn start_long<R: Send + 'static>(
    name: &'static str,
    f: impl FnOnce() -> R + Send + 'static,
) -> Result<reply::ReplyReceiver<R>, WorkerGone> {
    let (tx, rx) = reply::channel();
    spawn_long(name, move || tx.send(f()))?;
    Ok(rx)
}

/// As [`run_long`], from any thread; the job tells its result itself.
pub fn spawn_long(name: &'static str, f: impl FnOnce() + Send + 'static) -> Result<(), WorkerGone> {
    let taken = LONG_JOBS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
        (n < MAX_LONG_JOBS).then_some(n + 1)
    });
    if taken.is_err() {
        return Err(WorkerGone::TooMany);
    }
    let slot = LongJob;
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let _slot = slot;
            allow_every_cpu();
            run_caught(Box::new(f));
        });
    match thread {
        Ok(_detached) => Ok(()),
        Err(e) => {
            tracing::error!(error = %e, job = name, "cannot start a thread for a long job");
            Err(WorkerGone::NoThread)
        }
    }
}
