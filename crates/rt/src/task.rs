//! Tasks: counted, named, timed, and unable to starve their shard.
//!
//! monoio pushes a task that wakes itself during its own poll to the *front* of the run queue (monoio#322), so a
//! self-waking task (hyper does it) would keep everyone else out. Here every task is polled with a waker of ours: a wake
//! that arrives during the poll is remembered, the task is polled again in place a few times ([`SELF_WAKE_BUDGET`]), then
//! it is parked and woken only after the ring has been visited once.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::fd::AsyncFd;
use crate::shard;
use crate::stats::STALL_BUDGET;
use crate::sync::Notify;

/// How often a task that wakes itself is polled again before others get their turn.
pub const SELF_WAKE_BUDGET: usize = 4;

const IDLE: u8 = 0;
const POLLING: u8 = 1;
const WOKEN: u8 = 2;

/// The waker handed to a task's future.
struct TaskWaker {
    state: AtomicU8,
    inner: OnceLock<Waker>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let seen = self
            .state
            .compare_exchange(POLLING, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if seen == Err(IDLE)
            && let Some(inner) = self.inner.get()
        {
            inner.wake_by_ref();
        }
    }
}

struct Shell<F> {
    name: &'static str,
    shared: Arc<TaskWaker>,
    waker: Waker,
    fut: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> Future for Shell<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // Set on the first poll only; monoio's waker of a task stays the same for its life.
        let inner = this.shared.inner.get_or_init(|| cx.waker().clone()).clone();
        let started = coarse_now();
        let mut result = Poll::Pending;
        for _ in 0..SELF_WAKE_BUDGET {
            this.shared.state.store(POLLING, Ordering::Release);
            result = this.poll_once();
            if result.is_ready() {
                // Stays in POLLING/WOKEN: a late wake of an ended task does nothing.
                break;
            }
            let woken = this.shared.state.swap(IDLE, Ordering::AcqRel) == WOKEN;
            if !woken {
                inner_done(this.name, started);
                return Poll::Pending;
            }
        }
        inner_done(this.name, started);
        if result.is_pending() {
            defer_wake(inner);
        }
        result
    }
}

impl<F: Future<Output = ()>> Shell<F> {
    fn poll_once(&mut self) -> Poll<()> {
        let cx = &mut Context::from_waker(&self.waker);
        match std::panic::catch_unwind(AssertUnwindSafe(|| self.fut.as_mut().poll(cx))) {
            Ok(result) => result,
            Err(payload) => {
                report_panic(self.name, payload.as_ref());
                Poll::Ready(())
            }
        }
    }
}

impl<F> Drop for Shell<F> {
    fn drop(&mut self) {
        shard::tasks_alive(-1);
    }
}

/// The kernel's tick (1 to 10 ms): a tenth of the price of the precise clock, and stalls are longer.
fn coarse_now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

fn inner_done(name: &'static str, started: Duration) {
    let took = coarse_now().saturating_sub(started);
    if took > STALL_BUDGET {
        shard::counters().record_stall(name, took);
    }
}

pub(crate) fn report_panic(name: &'static str, payload: &(dyn std::any::Any + Send)) {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)");
    shard::counters().panics.fetch_add(1, Ordering::Relaxed);
    tracing::error!(task = name, panic = text, "a task panicked and was dropped");
}

/// Runs a future on the current shard, detached. A panic ends the task only; it is logged and counted.
///
/// # Panics
/// When called off-shard.
pub fn spawn(name: &'static str, fut: impl Future<Output = ()> + 'static) {
    // Also the check that there is a runtime on this thread.
    let _ = shard::current_shard();
    shard::tasks_alive(1);
    let shared = Arc::new(TaskWaker {
        state: AtomicU8::new(IDLE),
        inner: OnceLock::new(),
    });
    let waker = Waker::from(shared.clone());
    // Dropping the join handle detaches the task.
    drop(monoio::spawn(Shell {
        name,
        shared,
        waker,
        fut: Box::pin(fut),
    }));
}

struct Yielder {
    waiting: RefCell<Vec<Waker>>,
    asked: Notify,
}

thread_local! {
    static YIELDER: RefCell<Option<Rc<Yielder>>> = const { RefCell::new(None) };
}

/// Wakes `waker` after the ring has been visited once.
pub(crate) fn defer_wake(waker: Waker) {
    let yielder = YIELDER.with(|y| y.borrow().clone());
    match yielder {
        Some(yielder) => {
            yielder.waiting.borrow_mut().push(waker);
            yielder.asked.notify_one();
        }
        // Off-shard there is no queue to starve.
        None => waker.wake(),
    }
}

/// Starts the task that carries yielding tasks through the ring: one poll of an fd that is always readable completes
/// only when the ring has been entered, which a zero timer would do up to a millisecond later.
pub(crate) fn start_yielder() -> io::Result<()> {
    let always_readable = rustix::event::eventfd(1, rustix::event::EventfdFlags::CLOEXEC)?;
    let always_readable = AsyncFd::new(always_readable)?;
    let yielder = Rc::new(Yielder {
        waiting: RefCell::new(Vec::new()),
        asked: Notify::new(),
    });
    YIELDER.with(|y| *y.borrow_mut() = Some(yielder.clone()));
    drop(monoio::spawn(async move {
        loop {
            yielder.asked.notified().await;
            if let Err(e) = always_readable.readable().await {
                tracing::error!(error = %e, "the yield fd cannot be polled; yielding tasks are woken at once");
            }
            let waiting = std::mem::take(&mut *yielder.waiting.borrow_mut());
            for waker in waiting {
                waker.wake();
            }
        }
    }));
    Ok(())
}
