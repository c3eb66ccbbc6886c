//! The pump's other back end, for kernels without multishot reads (6.7) or rings in memory of ours (6.5): epoll and
//! read(2), into the same memory and with the same completions as the kernel would make, so that a keeper cannot tell
//! the two apart. What a kill may find between a read and its completion is written down before (`shm::Intent`).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::Release;

use gantry_keeper_proto::shm::{
    BUFFERS_OFFSET, CQ_ENTRIES, Cqe, Intent, MARK_BYTES, RING_BUFFER_BYTES, RING_BUFFERS,
    RINGS_OFFSET, RingGeometry, RingMap, ShmError, UserData,
};

use crate::pump::Step;

/// Streams read in one turn, one buffer each: what others of the shard wait for.
const READS_PER_TURN: usize = 32;
/// Tag of the eventfd in the epoll set: no read has it.
const WAKE: u64 = u64::MAX;
/// Where this back end puts the queue: head, tail, entries.
const GEOMETRY: RingGeometry = RingGeometry {
    cq_head: RINGS_OFFSET as u32,
    cq_tail: RINGS_OFFSET as u32 + 4,
    cqes: RINGS_OFFSET as u32 + 64,
    cq_entries: CQ_ENTRIES,
};

/// Most bytes of one read of a terminal: what its line discipline holds.
const TERMINAL_BYTES: usize = 4096;

#[derive(Debug)]
struct Source {
    fd: Rc<OwnedFd>,
    /// A pipe gives as many bytes as it says it has; a terminal may give fewer.
    pipe: bool,
}

/// Reads, their memory, and what waits for them.
#[derive(Debug)]
pub struct ReadRing {
    map: RingMap,
    epoll: OwnedFd,
    wake: OwnedFd,
    reads: HashMap<u64, Source>,
    head: u64,
    tail: u64,
    free: Vec<u16>,
}

fn shm(e: ShmError) -> io::Error {
    io::Error::other(e)
}

/// Takes ownership of what a system call that makes a descriptor returned.
fn made(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call returned this descriptor to our caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl ReadRing {
    /// All buffers free, nothing to read.
    pub fn new(epoch: u64) -> io::Result<ReadRing> {
        let map = RingMap::create(epoch).map_err(shm)?;
        let mut mark = [0u8; MARK_BYTES];
        // SAFETY: the kernel fills at most the bytes of `mark`.
        let filled = unsafe { libc::getrandom(mark.as_mut_ptr().cast(), mark.len(), 0) };
        if filled != MARK_BYTES as isize {
            return Err(io::Error::last_os_error());
        }
        map.set_mark(mark);
        map.publish(GEOMETRY);
        map.geometry().map_err(shm)?;
        let ring = ReadRing {
            map,
            // SAFETY: plain system calls.
            epoll: made(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?,
            // SAFETY: as above.
            wake: made(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?,
            reads: HashMap::new(),
            head: 0,
            tail: 0,
            free: (0..RING_BUFFERS).collect(),
        };
        ring.control(libc::EPOLL_CTL_ADD, ring.wake.as_fd(), WAKE)?;
        Ok(ring)
    }

    fn control(&self, operation: i32, fd: BorrowedFd<'_>, tag: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: tag,
        };
        // SAFETY: both descriptors are open; the kernel reads the event during the call.
        let done = unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                operation,
                fd.as_raw_fd(),
                &mut event,
            )
        };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reads from now on until the end, an error, or [`ReadRing::cancel`]. The descriptor must not block.
    pub fn read(&mut self, fd: &Rc<OwnedFd>, user: UserData) -> io::Result<()> {
        let mode = rustix::fs::fstat(fd)?.st_mode;
        let source = Source {
            fd: fd.clone(),
            pipe: rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::Fifo,
        };
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd(), user.encode())?;
        self.reads.insert(user.encode(), source);
        Ok(())
    }

    /// Ends a read; its final completion follows.
    pub fn cancel(&mut self, user: UserData) -> io::Result<()> {
        let known = self.reads.contains_key(&user.encode());
        if known {
            self.end(user, -libc::ECANCELED)?;
            let one = 1u64.to_ne_bytes();
            // SAFETY: the kernel reads the 8 bytes during the call. It cannot block: the counter is far from full.
            unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
        Ok(())
    }

    fn end(&mut self, user: UserData, res: i32) -> io::Result<()> {
        if let Some(source) = self.reads.remove(&user.encode()) {
            self.control(libc::EPOLL_CTL_DEL, source.fd.as_fd(), 0)?;
            self.post(user, res, 0);
        }
        Ok(())
    }

    fn post(&mut self, user: UserData, res: i32, flags: u32) {
        // As many as buffers and ends of reads can be: the queue is larger, see `CQ_ENTRIES`.
        debug_assert!(self.tail - self.head < u64::from(CQ_ENTRIES));
        let at =
            GEOMETRY.cqes as usize + (self.tail as u32 & (GEOMETRY.cq_entries - 1)) as usize * 16;
        let map = self.map.map();
        map.write(at, &user.encode().to_ne_bytes());
        map.write(at + 8, &res.to_ne_bytes());
        map.write(at + 12, &flags.to_ne_bytes());
        self.tail += 1;
        map.atomic_u32(GEOMETRY.cq_tail as usize)
            .store(self.tail as u32, Release);
    }

    /// Reads what is there, one buffer for each stream, as far as there are buffers. `step` hears [`Step::Read`] when bytes
    /// are out of their pipe and have no completion.
    pub fn collect(&mut self, step: &dyn Fn(Step)) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; READS_PER_TURN];
        // SAFETY: the kernel fills at most as many events as there are; it does not wait.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                READS_PER_TURN as i32,
                0,
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(error),
            };
        }
        for event in &events[..count as usize] {
            let tag = event.u64;
            if tag == WAKE {
                let mut counter = [0u8; 8];
                // SAFETY: the kernel fills the 8 bytes; the descriptor does not block.
                unsafe { libc::read(self.wake.as_raw_fd(), counter.as_mut_ptr().cast(), 8) };
            } else if let Some(user) = UserData::decode(tag) {
                self.read_once(user, step)?;
            }
        }
        Ok(())
    }

    fn read_once(&mut self, user: UserData, step: &dyn Fn(Step)) -> io::Result<()> {
        let (Some(&buffer), Some(source)) = (self.free.last(), self.reads.get(&user.encode()))
        else {
            // It stays readable and is read when buffers are free again.
            return Ok(());
        };
        let (fd, pipe) = (source.fd.as_raw_fd(), source.pipe);
        let (bytes, exact) = match (pipe, waiting_bytes(fd)) {
            (false, _) => (TERMINAL_BYTES, false),
            // The end, or what has come just now.
            (true, 0) => (MARK_BYTES, false),
            (true, n) => (n.min(RING_BUFFER_BYTES), true),
        };
        self.map.intend(&Intent {
            user,
            seq: self.tail,
            buffer,
            bytes,
            exact,
        });
        let at = BUFFERS_OFFSET + usize::from(buffer) * RING_BUFFER_BYTES;
        let place = self.map.map().at(at, bytes);
        // SAFETY: the kernel fills at most `bytes` of a buffer of the mapping that nobody else uses: it is free.
        let read = unsafe { libc::read(fd, place.cast(), bytes) };
        let error = io::Error::last_os_error();
        if read > 0 {
            step(Step::Read);
            self.free.pop();
            let flags = u32::from(buffer) << 16 | Cqe::F_BUFFER | Cqe::F_MORE;
            self.post(user, read as i32, flags);
            return Ok(());
        }
        self.map.forget_intent();
        match error.raw_os_error() {
            _ if read == 0 => self.end(user, 0),
            Some(libc::EAGAIN | libc::EINTR) => Ok(()),
            code => self.end(user, -code.unwrap_or(libc::EIO)),
        }
    }

    /// Numbers of the completions that wait: `[head, tail)`.
    pub fn pending(&self) -> (u64, u64) {
        (self.head, self.tail)
    }

    /// A waiting completion.
    pub fn cqe(&self, seq: u64) -> Cqe {
        self.map.cqe(&GEOMETRY, seq as u32)
    }

    /// The data of a waiting completion.
    pub fn data(&self, cqe: &Cqe) -> Option<&[u8]> {
        self.map.data(cqe)
    }

    /// Frees the completions below `to` and their buffers. Only after what they carried is committed.
    pub fn finish(&mut self, to: u64, buffers: &[u16]) {
        self.map.note_head_seq(to);
        self.head = to;
        self.map
            .map()
            .atomic_u32(GEOMETRY.cq_head as usize)
            .store(to as u32, Release);
        self.free.extend_from_slice(buffers);
    }

    /// Readable when there is something to collect.
    pub fn waitable(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// The memory.
    pub fn map(&self) -> &RingMap {
        &self.map
    }
}

/// Bytes that can be read at once; 0 also where that is not known.
fn waiting_bytes(fd: i32) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    let known = unsafe { libc::ioctl(fd, libc::FIONREAD, &mut bytes) } == 0;
    usize::try_from(bytes).ok().filter(|_| known).unwrap_or(0)
}
