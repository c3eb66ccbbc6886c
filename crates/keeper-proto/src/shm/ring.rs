//! The ring memfd: header, io_uring rings, SQEs, provided-buffer ring, buffers.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Acquire, Release};

use super::{SharedMap, ShmError, Stream, memfd};

/// Provided buffers of a shard. Also the most data completions that can be outstanding.
pub const RING_BUFFERS: u16 = 128;
/// Size of one provided buffer.
pub const RING_BUFFER_BYTES: usize = 32 * 1024;
/// Submission queue entries (a full queue is submitted and goes on).
pub const SQ_ENTRIES: u32 = 256;
/// Completion queue entries: more than every buffer plus, for every stream, its final completion and its cancel's, so
/// the kernel never has to keep a completion where the keeper could not see it.
pub const CQ_ENTRIES: u32 = 32 * 1024;
const _: () = assert!(CQ_ENTRIES > RING_BUFFERS as u32 + 2 * 2 * super::MAX_CONTAINERS_PER_KEEPER);

const PAGE: usize = 4096;
/// Where the kernel's `struct io_rings` (queue heads and tails, completions) starts.
pub const RINGS_OFFSET: usize = PAGE;
/// Room for what precedes the completions in `struct io_rings` (64 bytes today).
const RINGS_HEAD_ROOM: usize = PAGE;
/// Completions must start below this offset.
pub const CQES_MAX_OFFSET: usize = RINGS_OFFSET + RINGS_HEAD_ROOM;
/// Where the submission entries start.
pub const SQES_OFFSET: usize = CQES_MAX_OFFSET + CQ_ENTRIES as usize * 16;
/// Where the provided-buffer ring starts.
pub const PBUF_RING_OFFSET: usize = SQES_OFFSET + SQ_ENTRIES as usize * 64;
/// Where the buffers start.
pub const BUFFERS_OFFSET: usize = PBUF_RING_OFFSET + PAGE;
/// Size of the ring memfd.
pub const RING_BYTES: usize = BUFFERS_OFFSET + RING_BUFFERS as usize * RING_BUFFER_BYTES;

const MAGIC: u64 = u64::from_le_bytes(*b"gtyring1");
const OFF_MAGIC: usize = 0;
const OFF_EPOCH: usize = 8;
const OFF_HEAD_SEQ: usize = 16;
const OFF_CQ_HEAD: usize = 24;
const OFF_CQ_TAIL: usize = 28;
const OFF_CQES: usize = 32;
const OFF_CQ_ENTRIES: usize = 36;
const OFF_BUFFERS: usize = 40;
const OFF_BUFFER_BYTES: usize = 44;

/// Where the kernel put its queues (offsets into the memfd), told once by the daemon after setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingGeometry {
    /// The completion queue's head.
    pub cq_head: u32,
    /// The completion queue's tail.
    pub cq_tail: u32,
    /// The completions.
    pub cqes: u32,
    /// How many completions (a power of two).
    pub cq_entries: u32,
}

/// A completion, as the kernel writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cqe {
    /// What the operation was tagged with.
    pub user_data: u64,
    /// Bytes or a negative errno.
    pub res: i32,
    /// Buffer id in the upper half, F_BUFFER, F_MORE.
    pub flags: u32,
}

impl Cqe {
    /// The completion used a provided buffer.
    pub const F_BUFFER: u32 = 1;
    /// The operation goes on: more completions will come.
    pub const F_MORE: u32 = 2;

    /// Which provided buffer holds the data.
    pub fn buffer(&self) -> Option<u16> {
        (self.flags & Self::F_BUFFER != 0).then_some((self.flags >> 16) as u16)
    }

    /// Whether the operation goes on.
    pub fn more(&self) -> bool {
        self.flags & Self::F_MORE != 0
    }
}

/// What a read is tagged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserData {
    /// The container's journal slot.
    pub slot: u32,
    /// The slot's generation: a completion of an earlier user of the slot does not match.
    pub generation: u16,
    /// Which stream.
    pub stream: Stream,
}

impl UserData {
    /// As a number.
    pub fn encode(self) -> u64 {
        u64::from(self.slot) << 32 | u64::from(self.generation) << 8 | self.stream as u64
    }

    /// From a number; `None` for operations that are not reads.
    pub fn decode(n: u64) -> Option<UserData> {
        if n & 0xff00_0000 != 0 {
            return None;
        }
        let stream = Stream::from_number(n as u8)?;
        Some(UserData {
            slot: (n >> 32) as u32,
            generation: (n >> 8) as u16,
            stream,
        })
    }
}

/// A mapped ring memfd.
#[derive(Debug)]
pub struct RingMap {
    map: SharedMap,
}

impl RingMap {
    /// Makes a new one (daemon). `epoch` differs for every life of the daemon.
    pub fn create(epoch: u64) -> Result<RingMap, ShmError> {
        let map = SharedMap::new(memfd(c"gantry-ring", RING_BYTES)?, RING_BYTES)?;
        map.atomic_u64(OFF_EPOCH).store(epoch, Release);
        Ok(RingMap { map })
    }

    /// Maps one that was received (keeper).
    pub fn open(fd: OwnedFd) -> Result<RingMap, ShmError> {
        let ring = RingMap {
            map: SharedMap::new(fd, RING_BYTES)?,
        };
        ring.geometry()?;
        Ok(ring)
    }

    /// Says where the kernel's queues are; from here on the memfd can be drained.
    pub fn publish(&self, geometry: RingGeometry) {
        let m = &self.map;
        m.atomic_u32(OFF_CQ_HEAD).store(geometry.cq_head, Release);
        m.atomic_u32(OFF_CQ_TAIL).store(geometry.cq_tail, Release);
        m.atomic_u32(OFF_CQES).store(geometry.cqes, Release);
        m.atomic_u32(OFF_CQ_ENTRIES)
            .store(geometry.cq_entries, Release);
        m.atomic_u32(OFF_BUFFERS)
            .store(u32::from(RING_BUFFERS), Release);
        m.atomic_u32(OFF_BUFFER_BYTES)
            .store(RING_BUFFER_BYTES as u32, Release);
        m.atomic_u64(OFF_MAGIC).store(MAGIC, Release);
    }

    /// Where the kernel's queues are, checked.
    pub fn geometry(&self) -> Result<RingGeometry, ShmError> {
        let m = &self.map;
        if m.atomic_u64(OFF_MAGIC).load(Acquire) != MAGIC {
            return Err(ShmError::Layout("no ring magic"));
        }
        let buffers = m.atomic_u32(OFF_BUFFERS).load(Acquire);
        let buffer_bytes = m.atomic_u32(OFF_BUFFER_BYTES).load(Acquire);
        if buffers != u32::from(RING_BUFFERS) || buffer_bytes as usize != RING_BUFFER_BYTES {
            return Err(ShmError::Layout("other ring buffers"));
        }
        let g = RingGeometry {
            cq_head: m.atomic_u32(OFF_CQ_HEAD).load(Acquire),
            cq_tail: m.atomic_u32(OFF_CQ_TAIL).load(Acquire),
            cqes: m.atomic_u32(OFF_CQES).load(Acquire),
            cq_entries: m.atomic_u32(OFF_CQ_ENTRIES).load(Acquire),
        };
        let word = |at: u32| {
            at.is_multiple_of(4) && (RINGS_OFFSET..CQES_MAX_OFFSET).contains(&(at as usize))
        };
        let cqes_fit = (RINGS_OFFSET..=CQES_MAX_OFFSET).contains(&(g.cqes as usize));
        if !word(g.cq_head)
            || !word(g.cq_tail)
            || !cqes_fit
            || !g.cqes.is_multiple_of(8)
            || g.cq_entries != CQ_ENTRIES
        {
            return Err(ShmError::Layout("ring offsets"));
        }
        Ok(g)
    }

    /// The daemon life this ring belongs to.
    pub fn epoch(&self) -> u64 {
        self.map.atomic_u64(OFF_EPOCH).load(Acquire)
    }

    /// The mapping.
    pub fn map(&self) -> &SharedMap {
        &self.map
    }

    /// 64-bit number of the completion at the kernel's 32-bit head: the number nearest to the last one written down
    /// that has these low bits. (The two are not updated at the same instant.)
    pub fn head_seq(&self, head: u32) -> u64 {
        let noted = self.map.atomic_u64(OFF_HEAD_SEQ).load(Acquire);
        noted.wrapping_add_signed(i64::from(head.wrapping_sub(noted as u32) as i32))
    }

    /// Notes the head about to be given to the kernel.
    pub fn note_head_seq(&self, seq: u64) {
        self.map.atomic_u64(OFF_HEAD_SEQ).store(seq, Release);
    }

    /// Reads the completion with this queue index.
    pub fn cqe(&self, geometry: &RingGeometry, index: u32) -> Cqe {
        let at = geometry.cqes as usize + (index & (geometry.cq_entries - 1)) as usize * 16;
        let mut raw = [0u8; 16];
        self.map.read(at, &mut raw);
        let word = |i: usize| [raw[i], raw[i + 1], raw[i + 2], raw[i + 3]];
        Cqe {
            user_data: u64::from(u32::from_ne_bytes(word(0)))
                | u64::from(u32::from_ne_bytes(word(4))) << 32,
            res: i32::from_ne_bytes(word(8)),
            flags: u32::from_ne_bytes(word(12)),
        }
    }

    /// The data of a completion. `None` if the completion carries none.
    ///
    /// The buffer must not have been given back to the kernel: the daemon reads before it does, the keeper reads when
    /// the daemon is dead.
    pub fn data(&self, cqe: &Cqe) -> Option<&[u8]> {
        let buffer = cqe.buffer().filter(|b| *b < RING_BUFFERS)?;
        let len = usize::try_from(cqe.res)
            .ok()
            .filter(|n| *n > 0 && *n <= RING_BUFFER_BYTES)?;
        let at = self.map.at(
            BUFFERS_OFFSET + usize::from(buffer) * RING_BUFFER_BYTES,
            len,
        );
        // SAFETY: inside the mapping; the kernel does not write to a buffer between its completion and its return to
        // the provided-buffer ring, which needs `&self`'s owner (see above).
        Some(unsafe { std::slice::from_raw_parts(at, len) })
    }
}
