//! One pump per shard: takes completions, lets each container log them, and only then frees them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use gantry_keeper_proto::shm::{JournalMap, UserData};
use gantry_rt::fd::AsyncFd;

use crate::backend::{Backend, PumpKind};
use crate::io::{ContainerIo, REPEAT_ERROR};

/// Completions worked off before other tasks of the shard get their turn.
const BATCHES_PER_TURN: usize = 4;

/// Counters since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PumpStats {
    /// Batches committed.
    pub batches: u64,
    /// Completions worked off.
    pub completions: u64,
    /// Bytes taken from containers by the ring.
    pub bytes: u64,
    /// Bytes that went from containers to clients without being copied.
    pub moved_bytes: u64,
    /// Reads that ended because every buffer was in use (they are armed again).
    pub out_of_buffers: u64,
    /// Batches whose log write failed: their records are lost, which the log says as soon as it can.
    pub failed_writes: u64,
    /// Bytes that were dropped while no daemon was there, or could not be read back.
    pub gap_bytes: u64,
    /// Bytes that the full buffers of `mode=non-blocking` did not take.
    pub dropped_bytes: u64,
    /// Lines that end in them.
    pub dropped_records: u64,
}

/// What all pumps of the process counted, in the order of [`PumpStats::parts`].
static TOTALS: [AtomicU64; 9] = [const { AtomicU64::new(0) }; 9];

impl PumpStats {
    /// What all pumps of this process counted.
    pub fn of_process() -> PumpStats {
        let [
            batches,
            completions,
            bytes,
            moved_bytes,
            out_of_buffers,
            failed_writes,
            gap_bytes,
            dropped_bytes,
            dropped_records,
        ] = TOTALS.each_ref().map(|total| total.load(Relaxed));
        PumpStats {
            batches,
            completions,
            bytes,
            moved_bytes,
            out_of_buffers,
            failed_writes,
            gap_bytes,
            dropped_bytes,
            dropped_records,
        }
    }

    fn parts(&self) -> [u64; 9] {
        [
            self.batches,
            self.completions,
            self.bytes,
            self.moved_bytes,
            self.out_of_buffers,
            self.failed_writes,
            self.gap_bytes,
            self.dropped_bytes,
            self.dropped_records,
        ]
    }
}

/// The steps of a batch, in order. A kill after any of them loses and doubles nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes are read and no completion says so (only where the pump reads by itself).
    Read,
    /// Output that the keeper had collected is in the log, and the journal does not say so.
    ReplayWritten,
    /// A container's log is written, its journal is not.
    Written,
    /// Its journal is committed.
    Committed,
    /// The batch's completions and buffers are free again.
    Freed,
}

type StepHook = Box<dyn Fn(Step)>;

/// The pump of a shard.
pub struct Pump {
    ring: RefCell<Backend>,
    journal: RefCell<Option<Rc<JournalMap>>>,
    targets: RefCell<HashMap<u32, Weak<ContainerIo>>>,
    stats: Cell<PumpStats>,
    step_hook: RefCell<Option<StepHook>>,
    /// When it was last said that a journal cannot be written.
    uncommitted_said: Cell<Option<Instant>>,
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump")
            .field("stats", &self.stats.get())
            .finish_non_exhaustive()
    }
}

impl Pump {
    /// Sets up the ring; `epoch` must differ from that of every earlier life of the daemon (start time in ns will do).
    /// Must be called on the thread that will run it.
    pub fn new(kind: PumpKind, epoch: u64) -> io::Result<Rc<Pump>> {
        Ok(Rc::new(Pump {
            ring: RefCell::new(Backend::new(kind, epoch)?),
            journal: RefCell::new(None),
            targets: RefCell::default(),
            stats: Cell::default(),
            step_hook: RefCell::default(),
            uncommitted_said: Cell::default(),
        }))
    }

    /// The ring memfd for the keeper. It must have it before a container is started.
    pub fn ring_memfd(&self) -> io::Result<OwnedFd> {
        self.ring.borrow().memfd().try_clone_to_owned()
    }

    /// Which daemon life this is.
    pub fn epoch(&self) -> u64 {
        self.ring.borrow().epoch()
    }

    /// Takes the keeper's journal.
    pub fn set_journal(&self, memfd: OwnedFd) -> io::Result<()> {
        let map = JournalMap::open(memfd).map_err(io::Error::other)?;
        *self.journal.borrow_mut() = Some(Rc::new(map));
        Ok(())
    }

    pub(crate) fn journal(&self) -> io::Result<Rc<JournalMap>> {
        self.journal
            .borrow()
            .clone()
            .ok_or_else(|| io::Error::other("the pump has no journal yet"))
    }

    /// Calls `hook` after each step of each batch: a place for tests to be killed at.
    pub fn on_step(&self, hook: impl Fn(Step) + 'static) {
        *self.step_hook.borrow_mut() = Some(Box::new(hook));
    }

    pub(crate) fn step(&self, step: Step) {
        if let Some(hook) = &*self.step_hook.borrow() {
            hook(step);
        }
    }

    /// Counters.
    pub fn stats(&self) -> PumpStats {
        self.stats.get()
    }

    pub(crate) fn count(&self, f: impl FnOnce(&mut PumpStats)) {
        let before = self.stats.get();
        let mut stats = before;
        f(&mut stats);
        self.stats.set(stats);
        let changes = stats.parts().into_iter().zip(before.parts());
        for (total, (now, before)) in TOTALS.iter().zip(changes) {
            if now != before {
                total.fetch_add(now - before, Relaxed);
            }
        }
    }

    pub(crate) fn add(&self, slot: u32, io: Weak<ContainerIo>) {
        self.targets.borrow_mut().insert(slot, io);
    }

    pub(crate) fn remove(&self, slot: u32, io: *const ContainerIo) {
        let mut targets = self.targets.borrow_mut();
        if targets
            .get(&slot)
            .is_some_and(|w| std::ptr::eq(w.as_ptr(), io))
        {
            targets.remove(&slot);
        }
    }

    pub(crate) fn with_ring<R>(&self, f: impl FnOnce(&mut Backend) -> R) -> R {
        f(&mut self.ring.borrow_mut())
    }

    /// Works until the process ends. Spawn it once per shard.
    pub async fn run(self: Rc<Self>) -> io::Result<()> {
        let waitable = self.ring.borrow().waitable().try_clone_to_owned()?;
        let kind = self.ring.borrow().kind();
        let waitable = match kind {
            PumpKind::Ring => AsyncFd::new_nonblocking(waitable)?,
            PumpKind::Reads => AsyncFd::new(waitable)?,
        };
        loop {
            match kind {
                PumpKind::Ring => drop(waitable.read_eventfd().await?),
                PumpKind::Reads => waitable.readable().await?,
            }
            loop {
                let mut more = true;
                for _ in 0..BATCHES_PER_TURN {
                    more = self.work()?;
                    if !more {
                        break;
                    }
                }
                if !more {
                    break;
                }
                gantry_rt::yield_now().await;
            }
        }
    }

    /// Works off one batch; false if there was none.
    pub(crate) fn work(&self) -> io::Result<bool> {
        self.ring.borrow_mut().collect(&|step| self.step(step))?;
        let (head, tail) = self.ring.borrow().pending();
        if head == tail {
            return Ok(false);
        }
        let mut touched: Vec<Rc<ContainerIo>> = Vec::new();
        let mut buffers = Vec::new();
        let (mut seq, mut bytes, mut dry) = (head, 0, 0);
        while seq < tail {
            let ring = self.ring.borrow();
            let cqe = ring.cqe(seq);
            seq += 1;
            buffers.extend(cqe.buffer());
            let Some(user) = UserData::decode(cqe.user_data) else {
                continue;
            };
            let Some(io) = self.target(user) else {
                continue;
            };
            let mut full = false;
            if let Some(data) = ring.data(&cqe) {
                bytes += data.len() as u64;
                full = io.take(user.stream, cqe, data);
            }
            if !cqe.more() {
                dry += u64::from(cqe.res == -libc::ENOBUFS);
                io.read_ended(user.stream, cqe.res);
            }
            if !touched.iter().any(|t| Rc::ptr_eq(t, &io)) {
                touched.push(io);
            }
            if full {
                break;
            }
        }
        let epoch = self.epoch();
        for io in &touched {
            if let Err(error) = io.commit(epoch, seq) {
                self.note_uncommitted(&error);
            }
        }
        for io in &touched {
            io.deliver(&self.ring.borrow());
        }
        self.ring.borrow_mut().finish(seq, &buffers, dry > 0);
        self.step(Step::Freed);
        self.count(|s| {
            s.batches += 1;
            s.completions += seq - head;
            s.bytes += bytes;
            s.out_of_buffers += dry;
        });
        for io in &touched {
            io.publish();
        }
        self.ring.borrow_mut().submit()?;
        Ok(true)
    }

    /// One container's journal cannot be written: the others' output, and its own, goes on.
    fn note_uncommitted(&self, error: &io::Error) {
        let now = Instant::now();
        let due = |said: Instant| now.duration_since(said) >= REPEAT_ERROR;
        if self.uncommitted_said.get().is_none_or(due) {
            self.uncommitted_said.set(Some(now));
            tracing::error!(%error, "output can't be noted in the journal: a kill now may lose or double some");
        }
    }

    fn target(&self, user: UserData) -> Option<Rc<ContainerIo>> {
        let io = self.targets.borrow().get(&user.slot)?.upgrade()?;
        (io.generation() == user.generation).then_some(io)
    }
}
