//! The two ways to read containers' output: the kernel's ring, or reads of our own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use gantry_keeper_proto::shm::{Cqe, UserData};

use crate::pump::Step;
use crate::reads::ReadRing;
use crate::ring::PumpRing;

/// How a pump reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PumpKind {
    /// Multishot reads of an io_uring in memory that the keeper holds too (kernel 6.7).
    #[default]
    Ring,
    /// epoll and read(2), for kernels that lack it.
    Reads,
}

impl PumpKind {
    /// The name in diagnostics.
    pub fn name(self) -> &'static str {
        match self {
            PumpKind::Ring => "io_uring",
            PumpKind::Reads => "read",
        }
    }
}

/// The one that is used.
#[derive(Debug)]
pub enum Backend {
    Ring(PumpRing),
    Reads(ReadRing),
}

impl Backend {
    pub fn new(kind: PumpKind, epoch: u64) -> io::Result<Backend> {
        Ok(match kind {
            PumpKind::Ring => Backend::Ring(PumpRing::new(epoch)?),
            PumpKind::Reads => Backend::Reads(ReadRing::new(epoch)?),
        })
    }

    pub fn kind(&self) -> PumpKind {
        match self {
            Backend::Ring(_) => PumpKind::Ring,
            Backend::Reads(_) => PumpKind::Reads,
        }
    }

    /// Queues a read that goes on until the end or an error.
    pub fn read(&mut self, fd: &Rc<OwnedFd>, user: UserData) -> io::Result<()> {
        match self {
            Backend::Ring(ring) => ring.read_multishot(fd.as_fd(), user),
            Backend::Reads(reads) => reads.read(fd, user),
        }
    }

    /// Queues the end of a read; its final completion follows.
    pub fn cancel(&mut self, user: UserData) -> io::Result<()> {
        match self {
            Backend::Ring(ring) => ring.cancel(user),
            Backend::Reads(reads) => reads.cancel(user),
        }
    }

    /// What was queued takes effect.
    pub fn submit(&mut self) -> io::Result<()> {
        match self {
            Backend::Ring(ring) => ring.submit(),
            Backend::Reads(_) => Ok(()),
        }
    }

    /// Takes what can be read, where the kernel does not do it.
    pub fn collect(&mut self, step: &dyn Fn(Step)) -> io::Result<()> {
        match self {
            Backend::Ring(_) => Ok(()),
            Backend::Reads(reads) => reads.collect(step),
        }
    }

    /// Numbers of the completions that wait: `[head, tail)`.
    pub fn pending(&self) -> (u64, u64) {
        match self {
            Backend::Ring(ring) => ring.pending(),
            Backend::Reads(reads) => reads.pending(),
        }
    }

    /// A waiting completion.
    pub fn cqe(&self, seq: u64) -> Cqe {
        match self {
            Backend::Ring(ring) => ring.cqe(seq),
            Backend::Reads(reads) => reads.cqe(seq),
        }
    }

    /// The data of a waiting completion.
    pub fn data(&self, cqe: &Cqe) -> Option<&[u8]> {
        match self {
            Backend::Ring(ring) => ring.data(cqe),
            Backend::Reads(reads) => reads.data(cqe),
        }
    }

    /// Frees completions and buffers. Only after what they carried is committed.
    pub fn finish(&mut self, to: u64, buffers: &[u16], dry: bool) {
        match self {
            Backend::Ring(ring) => ring.finish(to, buffers, dry),
            Backend::Reads(reads) => reads.finish(to, buffers),
        }
    }

    /// Readable when there is work: an eventfd to be read, or an epoll set.
    pub fn waitable(&self) -> BorrowedFd<'_> {
        match self {
            Backend::Ring(ring) => ring.eventfd(),
            Backend::Reads(reads) => reads.waitable(),
        }
    }

    /// The memfd for the keeper.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        match self {
            Backend::Ring(ring) => ring.memfd(),
            Backend::Reads(reads) => reads.map().map().fd(),
        }
    }

    /// Which daemon life this is.
    pub fn epoch(&self) -> u64 {
        match self {
            Backend::Ring(ring) => ring.epoch(),
            Backend::Reads(reads) => reads.map().epoch(),
        }
    }
}
