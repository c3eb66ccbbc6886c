//! Output that is in no log, and how that is said.

use std::collections::BTreeMap;

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
