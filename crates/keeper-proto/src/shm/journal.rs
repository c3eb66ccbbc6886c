//! The journal memfd: per container, how far its output is safely in its log.
//!
//! A slot has two halves. A commit fills the half that is not in force and then flips: one atomic store. Only the
//! daemon writes a slot while it lives; only the keeper reads it when the daemon is dead.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::{CARRY_BYTES, MAX_CONTAINERS_PER_KEEPER, SharedMap, ShmError, memfd};

const MAGIC: u64 = u64::from_le_bytes(*b"gtyjrnl1");
const PAGE: usize = 4096;
// Slot: one page of words, then 2 halves x 2 streams of carry.
const SLOT_BYTES: usize = PAGE + 4 * CARRY_BYTES;
/// Size of the journal memfd (sparse).
pub const JOURNAL_BYTES: usize = PAGE + MAX_CONTAINERS_PER_KEEPER as usize * SLOT_BYTES;

const OFF_ACTIVE: usize = 0;
const OFF_GENERATION: usize = 8;
const OFF_HALF: usize = 64;
const HALF_BYTES: usize = 128;
// Words of a half.
const W_EPOCH: usize = 0;
const W_SEQ: usize = 1;
const W_LOG_BYTES: usize = 2;
const W_LOG_ID: usize = 3;
const W_SPILL: usize = 4;
const W_CARRY_LEN: usize = 5;
const W_PARTIAL_TIME: usize = 7;
const W_RAW: usize = 9;
const W_LOST: usize = 11;
const W_SPILL_END: usize = 14;
const W_LONG: usize = 15;
const _: () = assert!((W_LONG + 1) * 8 <= HALF_BYTES);

/// The piece of a line that is not yet a log record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carry {
    /// At most [`CARRY_BYTES`].
    pub bytes: Vec<u8>,
    /// Time of the first partial record of the line this is the rest of, in unix nanoseconds; 0 if none was written.
    pub partial_time_ns: u64,
}

/// [`Lost::reason`] of what a full buffer of `mode=non-blocking` did not take.
pub const LOST_IN_BUFFER: u64 = 3 << 32;

/// Output that is in no log, and that the log does not say yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// 0: not known.
    pub records: u64,
    /// 0: not known.
    pub bytes: u64,
    /// Why, in numbers that the log drivers know; 0: nothing is lost.
    pub reason: u64,
}

/// What a commit records. Borrowed so that a commit copies the carries once.
#[derive(Clone, Copy, Debug)]
pub struct SlotCommit<'a> {
    /// The ring these numbers belong to.
    pub ring_epoch: u64,
    /// Completions below this number are in the log or in the carry.
    pub cq_seq: u64,
    /// Committed bytes of the log file.
    pub log_bytes: u64,
    /// Which file that is (its inode number): tells a rotation from a torn write.
    pub log_id: u64,
    /// Bytes of the spill file that are in the log or in the carry.
    pub spill_offset: u64,
    /// Length of the spill file as far as the daemon wrote it (0: it did not): output that waits for a log that must not
    /// hold up its container.
    pub spill_end: u64,
    /// Unfinished lines and the time of their first partial record, by stream.
    pub carry: [(&'a [u8], u64); 2],
    /// Of a carry that is too long for the journal: where it is, in numbers that the daemon knows (0: it is here).
    pub long_carry: [u32; 2],
    /// Bytes seen so far, by stream.
    pub raw_bytes: [u64; 2],
    /// What the log has still to say is missing in it.
    pub lost: Lost,
}

/// What was last committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotState {
    /// See [`SlotCommit`].
    pub ring_epoch: u64,
    /// See [`SlotCommit`].
    pub cq_seq: u64,
    /// See [`SlotCommit`].
    pub log_bytes: u64,
    /// See [`SlotCommit`].
    pub log_id: u64,
    /// See [`SlotCommit`].
    pub spill_offset: u64,
    /// See [`SlotCommit`].
    pub spill_end: u64,
    /// See [`SlotCommit`].
    pub carry: [Carry; 2],
    /// See [`SlotCommit`].
    pub long_carry: [u32; 2],
    /// See [`SlotCommit`].
    pub raw_bytes: [u64; 2],
    /// See [`SlotCommit`].
    pub lost: Lost,
}

/// A mapped journal memfd.
#[derive(Debug)]
pub struct JournalMap {
    map: SharedMap,
}

impl JournalMap {
    /// Makes a new one (keeper).
    pub fn create() -> Result<JournalMap, ShmError> {
        let map = SharedMap::new(memfd(c"gantry-journal", JOURNAL_BYTES)?, JOURNAL_BYTES)?;
        map.atomic_u64(0).store(MAGIC, Release);
        Ok(JournalMap { map })
    }

    /// Maps one that was received (daemon).
    pub fn open(fd: OwnedFd) -> Result<JournalMap, ShmError> {
        let map = SharedMap::new(fd, JOURNAL_BYTES)?;
        if map.atomic_u64(0).load(Acquire) != MAGIC {
            return Err(ShmError::Layout("no journal magic"));
        }
        Ok(JournalMap { map })
    }

    /// The memfd, to be sent to the other side.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.map.fd()
    }

    fn slot(&self, slot: u32) -> Result<usize, ShmError> {
        if slot >= MAX_CONTAINERS_PER_KEEPER {
            return Err(ShmError::NoSlot(slot));
        }
        Ok(PAGE + slot as usize * SLOT_BYTES)
    }

    fn word(&self, base: usize, half: usize, word: usize) -> usize {
        base + OFF_HALF + half * HALF_BYTES + word * 8
    }

    fn carry_at(&self, base: usize, half: usize, stream: usize) -> usize {
        base + PAGE + (half * 2 + stream) * CARRY_BYTES
    }

    /// Empties a slot for a new container and gives it the next generation, which is returned.
    pub fn reset(&self, slot: u32) -> Result<u16, ShmError> {
        let base = self.slot(slot)?;
        let generation = self.map.atomic_u32(base + OFF_GENERATION);
        // The generation first: from here on no completion of the earlier user matches.
        let next = (generation.load(Relaxed) as u16).wrapping_add(1);
        generation.store(u32::from(next), Release);
        let empty = SlotCommit {
            ring_epoch: 0,
            cq_seq: 0,
            log_bytes: 0,
            log_id: 0,
            spill_offset: 0,
            spill_end: 0,
            carry: [(&[], 0), (&[], 0)],
            long_carry: [0; 2],
            raw_bytes: [0; 2],
            lost: Lost::default(),
        };
        self.commit(slot, &empty)?;
        Ok(next)
    }

    /// The slot's generation.
    pub fn generation(&self, slot: u32) -> Result<u16, ShmError> {
        let base = self.slot(slot)?;
        Ok(self.map.atomic_u32(base + OFF_GENERATION).load(Acquire) as u16)
    }

    /// Commits: fills the half not in force, then flips.
    pub fn commit(&self, slot: u32, commit: &SlotCommit<'_>) -> Result<(), ShmError> {
        let base = self.slot(slot)?;
        let active = self.map.atomic_u32(base + OFF_ACTIVE);
        let half = (active.load(Relaxed) & 1 ^ 1) as usize;
        let set = |word, value| {
            self.map
                .atomic_u64(self.word(base, half, word))
                .store(value, Relaxed)
        };
        set(W_EPOCH, commit.ring_epoch);
        set(W_SEQ, commit.cq_seq);
        set(W_LOG_BYTES, commit.log_bytes);
        set(W_LOG_ID, commit.log_id);
        set(W_SPILL, commit.spill_offset);
        set(W_SPILL_END, commit.spill_end);
        let [stdout, stderr] = commit.long_carry.map(u64::from);
        set(W_LONG, stdout | stderr << 32);
        set(W_LOST, commit.lost.records);
        set(W_LOST + 1, commit.lost.bytes);
        set(W_LOST + 2, commit.lost.reason);
        for (i, (bytes, time)) in commit.carry.iter().enumerate() {
            if bytes.len() > CARRY_BYTES {
                return Err(ShmError::Corrupt("carry too long"));
            }
            set(W_CARRY_LEN + i, bytes.len() as u64);
            set(W_PARTIAL_TIME + i, *time);
            set(W_RAW + i, commit.raw_bytes[i]);
            self.map.write(self.carry_at(base, half, i), bytes);
        }
        active.store(half as u32, Release);
        Ok(())
    }

    /// What was last committed.
    pub fn load(&self, slot: u32) -> Result<SlotState, ShmError> {
        let base = self.slot(slot)?;
        let half = (self.map.atomic_u32(base + OFF_ACTIVE).load(Acquire) & 1) as usize;
        let get = |word| {
            self.map
                .atomic_u64(self.word(base, half, word))
                .load(Relaxed)
        };
        let mut state = SlotState {
            ring_epoch: get(W_EPOCH),
            cq_seq: get(W_SEQ),
            log_bytes: get(W_LOG_BYTES),
            log_id: get(W_LOG_ID),
            spill_offset: get(W_SPILL),
            spill_end: get(W_SPILL_END),
            long_carry: [get(W_LONG) as u32, (get(W_LONG) >> 32) as u32],
            lost: Lost {
                records: get(W_LOST),
                bytes: get(W_LOST + 1),
                reason: get(W_LOST + 2),
            },
            ..SlotState::default()
        };
        for i in 0..2 {
            let len = usize::try_from(get(W_CARRY_LEN + i)).unwrap_or(usize::MAX);
            if len > CARRY_BYTES {
                return Err(ShmError::Corrupt("carry length"));
            }
            let mut bytes = vec![0; len];
            self.map.read(self.carry_at(base, half, i), &mut bytes);
            state.carry[i] = Carry {
                bytes,
                partial_time_ns: get(W_PARTIAL_TIME + i),
            };
            state.raw_bytes[i] = get(W_RAW + i);
        }
        Ok(state)
    }

    /// Up to which completion of the ring with this epoch the slot's bytes are committed (0: none).
    pub fn committed_seq(&self, slot: u32, epoch: u64) -> Result<u64, ShmError> {
        let base = self.slot(slot)?;
        let half = (self.map.atomic_u32(base + OFF_ACTIVE).load(Acquire) & 1) as usize;
        let get = |word| {
            self.map
                .atomic_u64(self.word(base, half, word))
                .load(Relaxed)
        };
        Ok(if get(W_EPOCH) == epoch { get(W_SEQ) } else { 0 })
    }
}
