//! Output that is in no log, and how that is said.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_keeper_proto::shm::Lost;

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

/// Numbers of reasons in the journal: above an errno.
const REASON_SHIFT: u32 = 32;

impl LossReason {
    /// The number that the journal has for it; never 0.
    fn number(self) -> u64 {
        let (kind, errno) = match self {
            LossReason::Write(errno) => (1, errno),
            LossReason::Spill => (2, 0),
            LossReason::Buffer => (3, 0),
            LossReason::SlowFollower => (4, 0),
        };
        kind << REASON_SHIFT | u64::from(errno.unsigned_abs())
    }

    /// A number that no version of ours has written is taken for a failed write.
    fn of_number(number: u64) -> LossReason {
        match number >> REASON_SHIFT {
            2 => LossReason::Spill,
            3 => LossReason::Buffer,
            4 => LossReason::SlowFollower,
            _ => LossReason::Write(number as u32 as i32),
        }
    }
}

static LOSSES: AtomicU64 = AtomicU64::new(0);
static LOST_BYTES: AtomicU64 = AtomicU64::new(0);
static LOST_RECORDS: AtomicU64 = AtomicU64::new(0);
static FOLLOWER_GAPS: AtomicU64 = AtomicU64::new(0);
static TORN: AtomicU64 = AtomicU64::new(0);

/// What was lost of all logs since the daemon began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossCounters {
    /// Stretches of output that are in no log.
    pub losses: u64,
    /// Their bytes, as far as they are known.
    pub lost_bytes: u64,
    /// Their records, as far as they are known.
    pub lost_records: u64,
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
        lost_records: get(&LOST_RECORDS),
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
                LOST_RECORDS.fetch_add(self.records, Ordering::Relaxed);
                LOSSES.fetch_add(1, Ordering::Relaxed)
            }
        };
    }

    /// As the journal keeps it until the log says it.
    pub(crate) fn journaled(loss: Option<&Loss>) -> Lost {
        loss.map_or(Lost::default(), |loss| Lost {
            records: loss.records,
            bytes: loss.bytes,
            reason: loss.reason.number(),
        })
    }

    /// What the journal has; it was counted by whoever lost it.
    pub(crate) fn of_journal(lost: Lost) -> Option<Loss> {
        (lost.reason != 0).then(|| Loss {
            records: lost.records,
            bytes: lost.bytes,
            reason: LossReason::of_number(lost.reason),
        })
    }

    pub(crate) fn add(&mut self, more: Loss) {
        self.records = self.records.saturating_add(more.records);
        self.bytes = self.bytes.saturating_add(more.bytes);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_keeps_every_loss() {
        use LossReason::*;
        for reason in [
            Write(0),
            Write(28),
            Write(i32::MAX),
            Spill,
            Buffer,
            SlowFollower,
        ] {
            let loss = Loss {
                records: 3,
                bytes: 5,
                reason,
            };
            assert_eq!(Loss::of_journal(Loss::journaled(Some(&loss))), Some(loss));
        }
        assert_eq!(Loss::of_journal(Loss::journaled(None)), None);
    }
}
