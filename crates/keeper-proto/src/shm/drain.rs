//! Working off the completions a dead daemon left behind.

use std::sync::atomic::Ordering::Acquire;

use super::{JournalMap, RingMap, ShmError, Stream, UserData};

/// What [`drain_ring`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainStats {
    /// Completions between head and tail.
    pub completions: u64,
    /// Of these, with data that was already committed to a log.
    pub committed: u64,
    /// Bytes handed on.
    pub bytes: u64,
    /// Reads that a daemon without multishot reads did and could not complete: 0 or 1.
    pub orphans: u64,
    /// Data completions of a slot that has a new user (its container was forgotten).
    pub stale: u64,
}

/// Takes the bytes of a slot's stream.
pub type SpillFn<'a> = dyn FnMut(u32, Stream, &[u8]) -> Result<(), ShmError> + 'a;

/// Passes every byte the dead daemon's kernel side had read but that is in no log to `spill`, in order.
///
/// Only call it when the daemon's pidfd is readable: the kernel cancels a task's io_uring requests before it reports
/// the exit, so no completion is added any more. The ring is consumed: a second drain would hand bytes on twice.
pub fn drain_ring(
    ring: RingMap,
    journal: &JournalMap,
    spill: &mut SpillFn<'_>,
) -> Result<DrainStats, ShmError> {
    let geometry = ring.geometry()?;
    let epoch = ring.epoch();
    let head = ring
        .map()
        .atomic_u32(geometry.cq_head as usize)
        .load(Acquire);
    let tail = ring
        .map()
        .atomic_u32(geometry.cq_tail as usize)
        .load(Acquire);
    let count = tail.wrapping_sub(head);
    if count > geometry.cq_entries {
        return Err(ShmError::Corrupt("completion queue head and tail"));
    }
    let first = ring.head_seq(head);
    let mut stats = DrainStats {
        completions: u64::from(count),
        ..DrainStats::default()
    };
    for i in 0..count {
        let cqe = ring.cqe(&geometry, head.wrapping_add(i));
        let (Some(user), Some(data)) = (UserData::decode(cqe.user_data), ring.data(&cqe)) else {
            continue;
        };
        if journal.generation(user.slot)? != user.generation {
            stats.stale += 1;
        } else if first + u64::from(i) < journal.committed_seq(user.slot, epoch)? {
            stats.committed += 1;
        } else {
            spill(user.slot, user.stream, data)?;
            stats.bytes += data.len() as u64;
        }
    }
    if let Some((user, data)) = ring.orphan(first + u64::from(count)) {
        if journal.generation(user.slot)? == user.generation {
            spill(user.slot, user.stream, data)?;
            stats.bytes += data.len() as u64;
            stats.orphans = 1;
        } else {
            stats.stale += 1;
        }
    }
    Ok(stats)
}
