//! Output that is in no log, and how that is said.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::json;

/// The attribute that marks a record which says what was lost, in Docker's own files.
pub const GAP_ATTRIBUTE: &str = "gantry.gap.bytes";

/// Why output was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// A write failed, with this errno.
    Write(i32),
    /// The daemon was away, and the keeper's file was full.
    Spill,
    /// `mode=non-blocking`: the buffer was full.
    Buffer,
    /// A follower was too slow; the log has it, or had it.
    SlowFollower,
}

impl std::fmt::Display for LossReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LossReason::Write(errno) => {
                let text = std::io::Error::from_raw_os_error(*errno).to_string();
                let words = text.split(" (os error").next().unwrap_or_default();
                write!(f, "the log could not be written ({words})")
            }
            LossReason::Spill => f.write_str("the daemon was away for too long"),
            LossReason::Buffer => f.write_str("the buffer of mode=non-blocking was full"),
            LossReason::SlowFollower => f.write_str("the reader was slower than rotation"),
        }
    }
}

static LOSSES: AtomicU64 = AtomicU64::new(0);
static LOST_BYTES: AtomicU64 = AtomicU64::new(0);
static FOLLOWER_GAPS: AtomicU64 = AtomicU64::new(0);
static TORN: AtomicU64 = AtomicU64::new(0);

/// What was lost of all logs since the daemon began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossCounters {
    /// Stretches of output that are in no log.
    pub losses: u64,
    /// Their bytes, as far as they are known.
    pub lost_bytes: u64,
    /// Stretches that a follower came too late for.
    pub follower_gaps: u64,
    /// Records that readers skipped because they are damaged.
    pub torn_records: u64,
}

/// Counters of the whole process.
pub fn loss_counters() -> LossCounters {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    LossCounters {
        losses: get(&LOSSES),
        lost_bytes: get(&LOST_BYTES),
        follower_gaps: get(&FOLLOWER_GAPS),
        torn_records: get(&TORN),
    }
}

pub(crate) fn count_torn(records: u64) {
    TORN.fetch_add(records, Ordering::Relaxed);
}

/// A stretch of lost output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Records; 0: not known.
    pub(crate) records: u64,
    /// Bytes of output; 0: not known.
    pub(crate) bytes: u64,
    /// The first reason, if there were several.
    pub(crate) reason: LossReason,
}

impl Loss {
    /// Counts it for the process.
    pub(crate) fn count(&self) {
        match self.reason {
            LossReason::SlowFollower => FOLLOWER_GAPS.fetch_add(1, Ordering::Relaxed),
            _ => {
                LOST_BYTES.fetch_add(self.bytes, Ordering::Relaxed);
                LOSSES.fetch_add(1, Ordering::Relaxed)
            }
        };
    }

    pub(crate) fn add(&mut self, more: Loss) {
        self.records += more.records;
        self.bytes += more.bytes;
    }

    /// The line that stands in the log instead.
    pub(crate) fn text(&self) -> String {
        let amount = match (self.bytes, self.records) {
            (0, _) => "output".to_owned(),
            (bytes, 0) => format!("{bytes} bytes of output"),
            (bytes, records) => format!("{bytes} bytes of output in {records} records"),
        };
        format!("[gantry: {amount} are missing here: {}]", self.reason)
    }

    /// The same for programs (JSON object).
    pub(crate) fn attributes(&self) -> Vec<u8> {
        let attrs = BTreeMap::from([
            (GAP_ATTRIBUTE.to_owned(), self.bytes.to_string()),
            ("gantry.gap.records".to_owned(), self.records.to_string()),
            ("gantry.gap.reason".to_owned(), self.reason.to_string()),
        ]);
        let mut out = Vec::new();
        json::attrs_into(&mut out, &attrs);
        out
    }
}
