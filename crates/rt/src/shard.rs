//! Starting the shards and knowing which one we are on.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use crate::mailbox::Mailbox;
use crate::stats::Counters;
use crate::{LocalBoxFuture, mailbox, task};

/// Submission queue entries of a shard's ring. The queue is flushed when full, so this is a batch size, not a limit.
const RING_ENTRIES: u32 = 1024;

/// Most shards a process may have.
pub const MAX_SHARDS: usize = 256;

/// Index of a shard, `0..shard_count()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub usize);

/// What other threads may see of a shard.
pub(crate) struct ShardShared {
    pub(crate) mailbox: Mailbox,
    pub(crate) counters: Counters,
}

static SHARDS: OnceLock<Box<[ShardShared]>> = OnceLock::new();

thread_local! {
    static CURRENT: Cell<Option<ShardId>> = const { Cell::new(None) };
}

/// The shard this code runs on.
///
/// # Panics
/// When called off-shard (a worker, the store thread, a test's own thread): that is a bug of the caller.
pub fn current_shard() -> ShardId {
    match try_current_shard() {
        Some(id) => id,
        None => panic!("current_shard() called on a thread that is not a shard"),
    }
}

/// The shard this code runs on, or `None` on any other thread.
pub fn try_current_shard() -> Option<ShardId> {
    CURRENT.with(Cell::get)
}

/// Number of shards of this process; 0 before [`run`].
pub fn shard_count() -> usize {
    SHARDS.get().map_or(0, |shards| shards.len())
}

pub(crate) fn shared(id: ShardId) -> Option<&'static ShardShared> {
    SHARDS.get()?.get(id.0)
}

pub(crate) fn all_shared() -> &'static [ShardShared] {
    SHARDS.get().map_or(&[], |shards| shards)
}

/// Counters of the current shard; a detached set when off-shard, so that callers need no branch.
pub(crate) fn counters() -> &'static Counters {
    static OFF_SHARD: Counters = Counters::new();
    try_current_shard()
        .and_then(shared)
        .map_or(&OFF_SHARD, |s| &s.counters)
}

/// Keeps nothing alive: shards run until the process exits.
#[derive(Debug)]
pub struct RuntimeHandle {
    shards: usize,
}

impl RuntimeHandle {
    /// Number of shards started.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// Parks the calling thread for the rest of the process's life.
    pub fn park_forever(&self) -> ! {
        loop {
            std::thread::park();
        }
    }
}

/// Starts `shards` pinned threads; each runs `init`'s future as a task and then serves its tasks for ever.
///
/// Returns when every shard's ring is up, so a kernel without io_uring is an error here and not a dead thread. May be
/// called once per process. Nothing is ever torn down; end the process by `std::process::exit`.
pub fn run(
    shards: usize,
    init: impl Fn(ShardId) -> LocalBoxFuture<'static, ()> + Send + Sync + 'static,
) -> io::Result<RuntimeHandle> {
    if shards == 0 || shards > MAX_SHARDS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("number of shards must be 1..={MAX_SHARDS}, got {shards}"),
        ));
    }
    let mut all = Vec::with_capacity(shards);
    for _ in 0..shards {
        all.push(ShardShared {
            mailbox: Mailbox::new()?,
            counters: Counters::new(),
        });
    }
    if SHARDS.set(all.into_boxed_slice()).is_err() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "shards already run in this process",
        ));
    }
    let init = std::sync::Arc::new(init);
    let (ready_tx, ready_rx) = std::sync::mpsc::channel();
    for index in 0..shards {
        let (init, ready_tx) = (init.clone(), ready_tx.clone());
        std::thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || shard_main(ShardId(index), ready_tx, move |id| init(id)))?;
    }
    drop(ready_tx);
    for _ in 0..shards {
        match ready_rx.recv() {
            Ok(result) => result?,
            Err(_) => return Err(io::Error::other("a shard thread ended while starting")),
        }
    }
    Ok(RuntimeHandle { shards })
}

fn shard_main(
    id: ShardId,
    ready: std::sync::mpsc::Sender<io::Result<()>>,
    init: impl FnOnce(ShardId) -> LocalBoxFuture<'static, ()>,
) {
    pin_to_cpu(id);
    CURRENT.with(|current| current.set(Some(id)));
    // Completions are handled when the shard enters the kernel anyway, not by an interrupt of what it does.
    let mut ring = io_uring::IoUring::builder();
    ring.setup_coop_taskrun().setup_single_issuer();
    let built = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .uring_builder(ring)
        .with_entries(RING_ENTRIES)
        .enable_timer()
        .build();
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(e) => {
            // The receiver waits for exactly this message; if it is gone the process is ending.
            let _ = ready.send(Err(io::Error::new(
                e.kind(),
                format!("io_uring set-up of shard {}: {e}", id.0),
            )));
            return;
        }
    };
    // Never dropped, not even by an unwind: see the crate's invariants.
    let mut runtime = std::mem::ManuallyDrop::new(runtime);
    runtime.block_on(async move {
        let started = task::start_yielder().and_then(|()| mailbox::start(id));
        let failed = started.is_err();
        let _ = ready.send(started);
        if !failed {
            task::spawn("shard.init", init(id));
        }
        std::future::pending::<()>().await;
    });
}

/// Pins the thread to the n-th CPU the process may use. A refusal costs locality, not correctness: it is logged.
fn pin_to_cpu(id: ShardId) {
    let allowed = match rustix::thread::sched_getaffinity(None) {
        Ok(set) => set,
        Err(e) => {
            tracing::warn!(shard = id.0, error = %e, "cannot read the CPU affinity; shard is not pinned");
            return;
        }
    };
    let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|&cpu| allowed.is_set(cpu))
        .collect();
    if cpus.is_empty() {
        return;
    }
    let mut one = rustix::thread::CpuSet::new();
    one.set(cpus[id.0 % cpus.len()]);
    if let Err(e) = rustix::thread::sched_setaffinity(None, &one) {
        tracing::warn!(shard = id.0, error = %e, "cannot pin shard to its CPU");
    }
}

/// Runs a future on a shard and blocks the calling thread for its answer. For boot code and tests.
///
/// # Panics
/// When called on a shard: it would wait for itself.
pub fn block_on_shard<R, F>(
    to: ShardId,
    f: impl FnOnce() -> F + Send + 'static,
) -> Result<R, mailbox::CallError>
where
    R: Send + 'static,
    F: Future<Output = R> + 'static,
{
    assert!(
        try_current_shard().is_none(),
        "block_on_shard() called on a shard"
    );
    let (tx, rx) = crossbeam_channel::bounded(1);
    mailbox::post(to, move || {
        let fut = f();
        task::spawn("block_on_shard", async move {
            // A caller that no longer waits has dropped its receiver; the answer is then not wanted.
            let _ = tx.send(fut.await);
        });
    })
    .map_err(mailbox::CallError::from)?;
    rx.recv().map_err(|_| mailbox::CallError::Lost)
}

pub(crate) fn tasks_alive(delta: isize) {
    let counter = &counters().tasks_alive;
    if delta >= 0 {
        counter.fetch_add(delta as usize, Ordering::Relaxed);
    } else {
        counter.fetch_sub(delta.unsigned_abs(), Ordering::Relaxed);
    }
}
