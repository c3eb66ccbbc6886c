//! Per-shard counters. Written by the shard with relaxed atomics, read by anyone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::shard;

/// A task poll that takes longer is a stall: named, counted, exported.
pub const STALL_BUDGET: Duration = Duration::from_millis(10);

pub(crate) struct Counters {
    pub(crate) tasks_alive: AtomicUsize,
    pub(crate) connections: AtomicUsize,
    pub(crate) jobs_run: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) requests_in_flight: AtomicUsize,
    pub(crate) panics: AtomicU64,
    pub(crate) stalls: AtomicU64,
    last_stall: Mutex<Option<Stall>>,
}

/// One poll that was over [`STALL_BUDGET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Name the task was spawned with.
    pub task: &'static str,
    /// How long the poll took.
    pub took: Duration,
}

/// A shard's counters at one moment.
#[derive(Clone, Debug)]
pub struct ShardStats {
    /// Index of the shard.
    pub shard: usize,
    /// Tasks spawned and not ended.
    pub tasks_alive: usize,
    /// Jobs waiting in the mailbox.
    pub mailbox_len: usize,
    /// Jobs the mailbox has run.
    pub jobs_run: u64,
    /// Open HTTP connections (hijacked ones are no longer counted).
    pub connections: usize,
    /// HTTP requests handed to the service.
    pub requests: u64,
    /// Requests whose complete answer is not sent yet. Streams and hijacked connections do not count.
    pub requests_in_flight: usize,
    /// Tasks or jobs that panicked.
    pub panics: u64,
    /// Polls over [`STALL_BUDGET`].
    pub stalls: u64,
    /// The latest stall.
    pub last_stall: Option<Stall>,
}

impl Counters {
    pub(crate) const fn new() -> Self {
        Counters {
            tasks_alive: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            jobs_run: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            requests_in_flight: AtomicUsize::new(0),
            panics: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            last_stall: Mutex::new(None),
        }
    }

    pub(crate) fn record_stall(&self, task: &'static str, took: Duration) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
        let mut last = self
            .last_stall
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *last = Some(Stall { task, took });
        drop(last);
        tracing::debug!(
            task,
            took_us = took.as_micros() as u64,
            "stall: a task held its shard over budget"
        );
    }
}

/// Counters of every shard.
pub fn snapshot() -> Vec<ShardStats> {
    shard::all_shared()
        .iter()
        .enumerate()
        .map(|(index, shared)| {
            let c = &shared.counters;
            ShardStats {
                shard: index,
                tasks_alive: c.tasks_alive.load(Ordering::Relaxed),
                mailbox_len: shared.mailbox.len(),
                jobs_run: c.jobs_run.load(Ordering::Relaxed),
                connections: c.connections.load(Ordering::Relaxed),
                requests: c.requests.load(Ordering::Relaxed),
                requests_in_flight: c.requests_in_flight.load(Ordering::Relaxed),
                panics: c.panics.load(Ordering::Relaxed),
                stalls: c.stalls.load(Ordering::Relaxed),
                last_stall: *c
                    .last_stall
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner()),
            }
        })
        .collect()
}
