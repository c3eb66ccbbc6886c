//! What the senders of this process have done, for whoever watches the daemon.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, or is a level.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    const fn new() -> Count {
        Count(AtomicU64::new(0))
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) struct Atomics {
    pub(crate) senders: Count,
    pub(crate) delivered: Count,
    pub(crate) dropped: Count,
    pub(crate) lost_segments: Count,
    pub(crate) torn: Count,
    pub(crate) abandoned: Count,
    pub(crate) failures: Count,
}

pub(crate) static COUNTERS: Atomics = Atomics {
    senders: Count::new(),
    delivered: Count::new(),
    dropped: Count::new(),
    lost_segments: Count::new(),
    torn: Count::new(),
    abandoned: Count::new(),
    failures: Count::new(),
};

/// Counts of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Logs that are being sent now.
    pub senders: u64,
    /// Records that services have taken.
    pub delivered_records: u64,
    /// Records that services refused for good.
    pub dropped_records: u64,
    /// Files that rotation removed before they were sent.
    pub lost_segments: u64,
    /// Records that could not be read.
    pub torn_records: u64,
    /// Logs of removed containers whose rest was given up.
    pub abandoned_logs: u64,
    /// Tries that failed.
    pub failures: u64,
}

/// The counts.
pub fn counters() -> Counters {
    let c = &COUNTERS;
    Counters {
        senders: c.senders.get(),
        delivered_records: c.delivered.get(),
        dropped_records: c.dropped.get(),
        lost_segments: c.lost_segments.get(),
        torn_records: c.torn.get(),
        abandoned_logs: c.abandoned.get(),
        failures: c.failures.get(),
    }
}
