//! The pump's io_uring. Its queues and buffers live in a memfd that the keeper maps too, so completions that were not
//! worked off outlive the process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::{Acquire, Release};

use gantry_keeper_proto::shm::{
    BUFFERS_OFFSET, CQ_ENTRIES, Cqe, PBUF_RING_OFFSET, RING_BUFFER_BYTES, RING_BUFFERS,
    RINGS_OFFSET, RingGeometry, RingMap, SQ_ENTRIES, SQES_OFFSET, ShmError, UserData,
};

use crate::sys;

const BUFFER_GROUP: u16 = 0;
/// Buffers that the kernel has at least. It uses them in turn: few stay in the processor's cache, all of them would not.
const HOT_BUFFERS: u16 = 8;
/// Batches after which one buffer that was added when they ran out is taken back.
const COOL_BATCHES: u32 = 256;
/// Tag of operations that are no reads.
const NO_READ: u64 = u64::MAX;

/// A ring with its memory.
#[derive(Debug)]
pub struct PumpRing {
    // The fd is dropped before the memory the kernel uses through it.
    fd: OwnedFd,
    eventfd: OwnedFd,
    map: RingMap,
    geometry: RingGeometry,
    sq_head: usize,
    sq_tail: usize,
    head: u64,
    pbuf_tail: u16,
    /// Buffers that the kernel has no use for now.
    spare: Vec<u16>,
    /// Batches since a buffer was taken back.
    batches: u32,
}

fn shm(e: ShmError) -> io::Error {
    io::Error::other(e)
}

impl PumpRing {
    /// Sets the ring up, with all buffers provided and the eventfd registered.
    pub fn new(epoch: u64) -> io::Result<PumpRing> {
        let map = RingMap::create(epoch).map_err(shm)?;
        let mut params = sys::Params {
            cq_entries: CQ_ENTRIES,
            flags: sys::SETUP_CQSIZE
                | sys::SETUP_COOP_TASKRUN
                | sys::SETUP_NO_MMAP
                | sys::SETUP_NO_SQARRAY,
            ..sys::Params::default()
        };
        params.cq_off.user_addr = map.map().at(RINGS_OFFSET, SQES_OFFSET - RINGS_OFFSET) as u64;
        params.sq_off.user_addr = map.map().at(SQES_OFFSET, PBUF_RING_OFFSET - SQES_OFFSET) as u64;
        // SAFETY: both addresses are page-aligned parts of the mapping, used for nothing else; `fd` is dropped before
        // `map` (field order), and the kernel pins the pages anyway.
        let fd = unsafe { sys::setup(SQ_ENTRIES, &mut params)? };
        let base = RINGS_OFFSET as u32;
        let geometry = RingGeometry {
            cq_head: base + params.cq_off.head,
            cq_tail: base + params.cq_off.tail,
            cqes: base + params.cq_off.cqes,
            cq_entries: params.cq_entries,
        };
        let mut ring = PumpRing {
            sq_head: RINGS_OFFSET + params.sq_off.head as usize,
            sq_tail: RINGS_OFFSET + params.sq_off.tail as usize,
            eventfd: eventfd()?,
            fd,
            map,
            geometry,
            head: 0,
            pbuf_tail: 0,
            spare: (HOT_BUFFERS..RING_BUFFERS).rev().collect(),
            batches: 0,
        };
        ring.register()?;
        ring.map.publish(geometry);
        ring.map.geometry().map_err(shm)?;
        Ok(ring)
    }

    fn register(&mut self) -> io::Result<()> {
        let ring_addr = self
            .map
            .map()
            .at(PBUF_RING_OFFSET, usize::from(RING_BUFFERS) * 16) as u64;
        let registration = sys::BufReg {
            ring_addr,
            ring_entries: u32::from(RING_BUFFERS),
            bgid: BUFFER_GROUP,
            flags: 0,
            resv: [0; 3],
        };
        // SAFETY: the address is a page-aligned part of the mapping that lives as long as the ring.
        unsafe { sys::register(self.fd.as_fd(), sys::REGISTER_PBUF_RING, &registration)? };
        let hot: Vec<u16> = (0..HOT_BUFFERS).collect();
        self.provide(&hot);
        let event: RawFd = self.eventfd.as_raw_fd();
        // SAFETY: the operation wants a pointer to an fd number.
        unsafe { sys::register(self.fd.as_fd(), sys::REGISTER_EVENTFD, &event) }
    }

    /// Gives buffers (back) to the kernel.
    fn provide(&mut self, buffers: &[u16]) {
        let map = self.map.map();
        for &buffer in buffers {
            let entry = PBUF_RING_OFFSET + usize::from(self.pbuf_tail & (RING_BUFFERS - 1)) * 16;
            let data = map.at(
                BUFFERS_OFFSET + usize::from(buffer) * RING_BUFFER_BYTES,
                RING_BUFFER_BYTES,
            ) as u64;
            map.write(entry, &data.to_ne_bytes());
            map.write(entry + 8, &(RING_BUFFER_BYTES as u32).to_ne_bytes());
            map.write(entry + 12, &buffer.to_ne_bytes());
            self.pbuf_tail = self.pbuf_tail.wrapping_add(1);
        }
        // The ring's tail lies in the last two bytes of its first entry.
        let tail = map.at(PBUF_RING_OFFSET + 14, 2).cast::<u16>();
        // SAFETY: inside the mapping, aligned to 2, only accessed atomically by us and the kernel.
        unsafe { AtomicU16::from_ptr(tail) }.store(self.pbuf_tail, Release);
    }

    fn push(&mut self, sqe: sys::Sqe) -> io::Result<()> {
        let map = self.map.map();
        let tail = map.atomic_u32(self.sq_tail).load(Acquire);
        if tail.wrapping_sub(map.atomic_u32(self.sq_head).load(Acquire)) >= SQ_ENTRIES {
            self.submit()?;
        }
        let map = self.map.map();
        if tail.wrapping_sub(map.atomic_u32(self.sq_head).load(Acquire)) >= SQ_ENTRIES {
            return Err(io::Error::other(
                "the submission queue of the pump stays full",
            ));
        }
        let at = map.at(SQES_OFFSET + (tail & (SQ_ENTRIES - 1)) as usize * 64, 64);
        // SAFETY: inside the mapping, aligned to 64, a free entry the kernel does not read before the tail moves.
        unsafe { at.cast::<sys::Sqe>().write(sqe) };
        map.atomic_u32(self.sq_tail)
            .store(tail.wrapping_add(1), Release);
        Ok(())
    }

    /// Queues a read that goes on until the end, an error, or until buffers run out. The fd must stay open until the
    /// next [`PumpRing::submit`].
    pub fn read_multishot(&mut self, fd: BorrowedFd<'_>, user: UserData) -> io::Result<()> {
        self.push(sys::Sqe {
            opcode: sys::OP_READ_MULTISHOT,
            flags: sys::SQE_BUFFER_SELECT,
            fd: fd.as_raw_fd(),
            off: u64::MAX,
            user_data: user.encode(),
            buf_group: BUFFER_GROUP,
            ..sys::Sqe::default()
        })
    }

    /// Queues the cancelling of a read; its final completion follows.
    pub fn cancel(&mut self, user: UserData) -> io::Result<()> {
        self.push(sys::Sqe {
            opcode: sys::OP_ASYNC_CANCEL,
            flags: sys::SQE_CQE_SKIP_SUCCESS,
            fd: -1,
            addr: user.encode(),
            user_data: NO_READ,
            ..sys::Sqe::default()
        })
    }

    /// Tells the kernel about queued operations.
    pub fn submit(&mut self) -> io::Result<()> {
        loop {
            let map = self.map.map();
            let tail = map.atomic_u32(self.sq_tail).load(Acquire);
            let queued = tail.wrapping_sub(map.atomic_u32(self.sq_head).load(Acquire));
            if queued == 0 {
                return Ok(());
            }
            match sys::enter(self.fd.as_fd(), queued) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Numbers of the completions that wait: `[head, tail)`.
    pub fn pending(&self) -> (u64, u64) {
        let tail = self
            .map
            .map()
            .atomic_u32(self.geometry.cq_tail as usize)
            .load(Acquire);
        (
            self.head,
            self.head + u64::from(tail.wrapping_sub(self.head as u32)),
        )
    }

    /// A waiting completion.
    pub fn cqe(&self, seq: u64) -> Cqe {
        self.map.cqe(&self.geometry, seq as u32)
    }

    /// The data of a waiting completion.
    pub fn data(&self, cqe: &Cqe) -> Option<&[u8]> {
        self.map.data(cqe)
    }

    /// Frees the completions below `to` and gives their buffers back. Only after what they carried is committed. If `dry`
    /// the kernel had too few of them: it gets more.
    pub fn finish(&mut self, to: u64, mut buffers: &[u16], dry: bool) {
        self.map.note_head_seq(to);
        self.head = to;
        self.map
            .map()
            .atomic_u32(self.geometry.cq_head as usize)
            .store(to as u32, Release);
        self.batches += 1;
        if dry {
            self.batches = 0;
            let more = self.spare.len().saturating_sub(usize::from(HOT_BUFFERS));
            let more = self.spare.split_off(more);
            self.provide(&more);
        } else if self.batches >= COOL_BATCHES
            && self.spare.len() < usize::from(RING_BUFFERS - HOT_BUFFERS)
            && let Some((last, rest)) = buffers.split_last()
        {
            self.batches = 0;
            self.spare.push(*last);
            buffers = rest;
        }
        self.provide(buffers);
    }

    /// Signalled when completions arrive.
    pub fn eventfd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }

    /// The memfd for the keeper.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.map.map().fd()
    }

    /// Which daemon life this is.
    pub fn epoch(&self) -> u64 {
        self.map.epoch()
    }
}

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: a plain system call.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above returned this fd to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
