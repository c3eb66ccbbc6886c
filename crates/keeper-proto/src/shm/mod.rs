//! Memory shared by daemon and keeper so that container output survives a `kill -9` of the daemon.
//!
//! Two memfds per shard. The **ring memfd** ([`RingMap`]) belongs to one life of the daemon: the kernel's completion
//! queue and the provided buffers of the pump live in it, so completions the daemon has not worked off outlive it. The
//! **journal memfd** ([`JournalMap`]) belongs to the keeper: per container, how far its log is committed.
//!
//! A dead daemon's completions are handed over exactly once: [`drain_ring`] passes those past each slot's committed
//! position to the spill files ([`SpillWriter`]), which a later daemon replays ([`SpillReader`]).

mod drain;
mod intent;
mod journal;
mod map;
mod ring;
mod spill;

pub use drain::{DrainStats, SpillFn, drain_ring};
pub use intent::{Intent, MARK_BYTES};
pub use journal::{Carry, JOURNAL_BYTES, JournalMap, LOST_IN_BUFFER, Lost, SlotCommit, SlotState};
pub use map::{SharedMap, memfd};
pub use ring::{
    BUFFERS_OFFSET, CQ_ENTRIES, CQES_MAX_OFFSET, Cqe, PBUF_RING_OFFSET, RING_BUFFER_BYTES,
    RING_BUFFERS, RING_BYTES, RINGS_OFFSET, RingGeometry, RingMap, SQ_ENTRIES, SQES_OFFSET,
    UserData,
};
pub use spill::{SPILL_LIMIT_BYTES, SpillReader, SpillRecord, SpillWriter};

/// Containers one keeper can hold at a time: the number of journal slots.
pub const MAX_CONTAINERS_PER_KEEPER: u32 = 4096;
/// Longest piece of a line that is not yet a log record, per stream (Docker cuts lines there).
pub const CARRY_BYTES: usize = 16 * 1024;

/// Which output stream of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stream {
    /// Standard output, or everything a terminal prints.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

impl Stream {
    /// 0 for stdout, 1 for stderr.
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// The stream with this number on the wire (1 or 2).
    pub fn from_number(n: u8) -> Option<Stream> {
        match n {
            1 => Some(Stream::Stdout),
            2 => Some(Stream::Stderr),
            _ => None,
        }
    }
}

/// What can be wrong with shared memory or a spill file.
#[derive(Debug, thiserror::Error)]
pub enum ShmError {
    /// shared memory: a system call failed
    #[error("shared memory: {step}: {source}")]
    Io {
        /// Which call.
        step: &'static str,
        /// Its error.
        source: std::io::Error,
    },
    /// shared memory has another layout than this program expects
    #[error("shared memory has another layout than this program expects: {0}")]
    Layout(&'static str),
    /// there is no such journal slot
    #[error("there is no journal slot {0}")]
    NoSlot(u32),
    /// a record is not what the format says
    #[error("a record is not what the format says: {0}")]
    Corrupt(&'static str),
}

impl ShmError {
    pub(crate) fn last(step: &'static str) -> ShmError {
        ShmError::Io {
            step,
            source: std::io::Error::last_os_error(),
        }
    }
}

#[cfg(test)]
mod tests;
