//! The streams of one container.

mod buffer;
mod bulk;
mod carries;
mod output;
mod replay;
mod say;
mod stdin;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use gantry_keeper_proto::shm::{
    Cqe, JournalMap, LOST_IN_BUFFER, Lost, SlotState, Stream, UserData,
};
use gantry_rt::fd::AsyncFd;

use self::buffer::LogBuffer;
pub use self::buffer::LogBufferConfig;
pub use self::bulk::{BULK_BYTES, BULK_CLIENTS};
use self::bulk::{Mode, Pace};
use self::carries::LongCarries;
pub use self::carries::MAX_LINE_BYTES;
use crate::pump::Pump;
use crate::queue::Queue;
use crate::signal::Signal;
use crate::sink::{LogPosition, LogSink};
use crate::subscription::{SubscribeOptions, Subscription};
use crate::unix_time_ns;

/// How often a log that cannot be written is reported.
pub(crate) const REPEAT_ERROR: Duration = Duration::from_secs(10);

/// How a container's output is handled.
pub struct IoConfig {
    /// It has a terminal: one stream, `stdout`.
    pub tty: bool,
    /// The log driver; `None` keeps nothing.
    pub sink: Option<Box<dyn LogSink>>,
    /// The container does not wait for its log; what waits is kept there.
    pub buffer: Option<LogBufferConfig>,
    /// For a log with longer lines than Docker's: where unfinished ones are kept.
    pub long_lines: Option<PathBuf>,
}

/// The daemon's ends of a container's pipes, or its terminal.
#[derive(Debug, Default)]
pub struct StreamFds {
    /// Write end.
    pub stdin: Option<OwnedFd>,
    /// Read end.
    pub stdout: Option<OwnedFd>,
    /// Read end.
    pub stderr: Option<OwnedFd>,
    /// Terminal master, instead of the others.
    pub tty_master: Option<OwnedFd>,
}

#[derive(Debug, Default)]
struct Reading {
    fd: Option<Rc<OwnedFd>>,
    armed: bool,
    cancelling: bool,
    ended: bool,
    mode: Mode,
    pace: Pace,
}

/// The streams of one container: reads by the pump, its log, its clients, its stdin.
pub struct ContainerIo {
    me: Weak<ContainerIo>,
    pump: Rc<Pump>,
    journal: Rc<JournalMap>,
    slot: u32,
    generation: u16,
    tty: bool,
    started: Cell<bool>,
    streams: RefCell<[Reading; 2]>,
    sink: RefCell<Option<Box<dyn LogSink>>>,
    buffer: Option<Rc<LogBuffer>>,
    long_carries: Option<LongCarries>,
    /// A task waits to say what was lost.
    saying: Cell<bool>,
    dirty: Cell<bool>,
    /// What the clients get when the batch is committed.
    batch: RefCell<Vec<(Stream, Cqe)>>,
    clients: RefCell<Vec<Rc<Queue>>>,
    stdin: RefCell<Option<Rc<AsyncFd>>>,
    raw_bytes: Cell<[u64; 2]>,
    spill_offset: Cell<u64>,
    gap_bytes: Cell<u64>,
    done: Cell<bool>,
    closed: Cell<bool>,
    done_signal: Signal,
    stdin_signal: Signal,
    /// A client came, went, or took what was moved to it; a stream was given up.
    clients_signal: Rc<Signal>,
    /// Batches in a row that could not be logged, and when that was last said.
    failing: Cell<(u64, Option<Instant>)>,
}

impl std::fmt::Debug for ContainerIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerIo")
            .field("slot", &self.slot)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

impl ContainerIo {
    /// For a new container: the journal slot is emptied.
    pub fn new(pump: &Rc<Pump>, slot: u32, mut config: IoConfig) -> io::Result<Rc<ContainerIo>> {
        let generation = pump.journal()?.reset(slot).map_err(io::Error::other)?;
        let mut state = SlotState::default();
        let long_carries = config.long_lines.take();
        let long_carries = long_carries.map(|path| LongCarries::load(path, &mut state));
        let io = Self::build(pump, slot, generation, config, long_carries, state)?;
        // Where the log begins is recorded before anything is written to it: what a kill leaves of the first batch
        // must be told from what an earlier run left.
        io.commit(0, 0)?;
        Ok(io)
    }

    /// For a container that ran while the daemon was away: takes over what was committed. Next: [`Self::replay`], then
    /// [`Self::start`].
    pub fn adopt(pump: &Rc<Pump>, slot: u32, mut config: IoConfig) -> io::Result<Rc<ContainerIo>> {
        let journal = pump.journal()?;
        let mut state = journal.load(slot).map_err(io::Error::other)?;
        let long_carries = config.long_lines.take();
        let long_carries = long_carries.map(|path| LongCarries::load(path, &mut state));
        let journaled = state.lost;
        if config.buffer.is_some() && state.lost.reason == LOST_IN_BUFFER {
            state.lost = Lost::default();
        }
        if let Some(sink) = &mut config.sink {
            sink.restore(&state)?;
        }
        state.lost = journaled;
        let generation = journal.generation(slot).map_err(io::Error::other)?;
        Self::build(pump, slot, generation, config, long_carries, state)
    }

    fn build(
        pump: &Rc<Pump>,
        slot: u32,
        generation: u16,
        config: IoConfig,
        long_carries: Option<LongCarries>,
        mut state: SlotState,
    ) -> io::Result<Rc<ContainerIo>> {
        let journal = pump.journal()?;
        let buffer = config.buffer.filter(|_| config.sink.is_some());
        let buffer = buffer.map(|config| Rc::new(LogBuffer::new(config, &mut state)));
        if let (Some(buffer), Some(sink)) = (&buffer, &config.sink) {
            buffer.note_logged(&**sink);
        }
        let io = Rc::new_cyclic(|me| ContainerIo {
            me: me.clone(),
            pump: pump.clone(),
            journal,
            slot,
            generation,
            tty: config.tty,
            started: Cell::new(false),
            streams: RefCell::default(),
            sink: RefCell::new(config.sink),
            buffer: buffer.clone(),
            long_carries,
            saying: Cell::new(false),
            dirty: Cell::new(false),
            batch: RefCell::default(),
            clients: RefCell::default(),
            stdin: RefCell::new(None),
            raw_bytes: Cell::new(state.raw_bytes),
            spill_offset: Cell::new(state.spill_offset),
            gap_bytes: Cell::new(0),
            done: Cell::new(false),
            closed: Cell::new(false),
            done_signal: Signal::default(),
            stdin_signal: Signal::default(),
            clients_signal: Rc::default(),
            failing: Cell::default(),
        });
        pump.add(slot, Rc::downgrade(&io));
        if let Some(buffer) = &buffer {
            io.start_writer(buffer);
        }
        Ok(io)
    }

    /// Takes the fds and starts reading. Streams without an fd count as ended.
    pub fn start(self: &Rc<Self>, fds: StreamFds) -> io::Result<()> {
        let StreamFds {
            stdin,
            stdout,
            stderr,
            tty_master,
        } = fds;
        let (stdout, stdin) = match tty_master {
            Some(master) => {
                let input = master.try_clone()?;
                (Some(master), Some(input))
            }
            None => (stdout, stdin),
        };
        if let Some(stdin) = stdin {
            *self.stdin.borrow_mut() = Some(Rc::new(AsyncFd::new_nonblocking(stdin)?));
        }
        self.stdin_signal.raise();
        {
            let mut streams = self.streams.borrow_mut();
            for (reading, fd) in streams.iter_mut().zip([stdout, stderr]) {
                if let Some(fd) = &fd {
                    set_nonblocking(fd)?;
                }
                reading.ended = fd.is_none();
                reading.fd = fd.map(Rc::new);
            }
        }
        self.started.set(true);
        self.arm()?;
        self.pump.with_ring(|ring| ring.submit())?;
        self.finish_if_ended();
        Ok(())
    }

    /// Copies of what it has, for a keeper; closed streams are left out.
    pub fn copy_ends(&self) -> io::Result<StreamFds> {
        let streams = self.streams.borrow();
        let read_end = |stream: Stream| match &streams[stream.index()] {
            Reading {
                fd: Some(fd),
                ended: false,
                ..
            } => fd.try_clone().map(Some),
            _ => Ok(None),
        };
        let stdin = self
            .stdin
            .borrow()
            .as_ref()
            .map(|fd| fd.as_fd().try_clone_to_owned());
        let (stdout, stderr) = (read_end(Stream::Stdout)?, read_end(Stream::Stderr)?);
        Ok(match self.tty {
            true => StreamFds {
                tty_master: stdout,
                ..StreamFds::default()
            },
            false => StreamFds {
                stdin: stdin.transpose()?,
                stdout,
                stderr,
                tty_master: None,
            },
        })
    }

    pub(crate) fn generation(&self) -> u16 {
        self.generation
    }

    /// Whether it has a terminal.
    pub fn tty(&self) -> bool {
        self.tty
    }

    /// Bytes seen on a stream.
    pub fn raw_bytes(&self, stream: Stream) -> u64 {
        self.raw_bytes.get()[stream.index()]
    }

    /// Bytes seen on both streams.
    pub fn total_bytes(&self) -> u64 {
        let [stdout, stderr] = self.raw_bytes.get();
        stdout.wrapping_add(stderr)
    }

    /// Bytes that were declared dropped.
    pub fn gap_bytes(&self) -> u64 {
        self.gap_bytes.get()
    }

    /// How far the log is written.
    pub fn log_position(&self) -> Option<LogPosition> {
        self.sink.borrow().as_ref().map(|sink| sink.position())
    }

    fn finish_if_ended(&self) {
        let logged = self.buffer.as_ref().is_none_or(|b| b.is_empty());
        let ended = self.started.get() && self.streams.borrow().iter().all(|r| r.ended);
        if self.done.get() || !ended || !logged {
            return;
        }
        self.done.set(true);
        self.done_signal.raise();
    }

    /// The run is over and recorded as such: clients and followers of the log end once they have what was printed. Not
    /// before that, although the output may have ended: who sees the end asks for the exit next, and as with Docker it
    /// must be there.
    pub fn close(&self) {
        if self.closed.replace(true) {
            return;
        }
        if let Some(sink) = &mut *self.sink.borrow_mut() {
            sink.close();
        }
        if let Some(buffer) = &self.buffer {
            if !buffer.is_empty() {
                tracing::error!(
                    slot = self.slot,
                    "a run has ended and its log can't be written; the rest is tried to be written on"
                );
            }
            buffer.unlink();
        }
        if let Some(carries) = &self.long_carries {
            carries.unlink();
        }
        self.say_lost_later();
        for client in self.clients.borrow().iter() {
            client.end();
        }
    }

    /// Whether its container does not wait for its log.
    pub fn has_buffer(&self) -> bool {
        self.buffer.is_some()
    }

    /// As [`ContainerIo::replay`] for a log with a buffer: what a keeper collected waits like what comes after it.
    pub fn take_spill(&self, spill: std::fs::File, end: u64) -> io::Result<()> {
        match &self.buffer {
            Some(buffer) => buffer.take_spill(spill, end).map_err(io::Error::other),
            None => Ok(()),
        }
    }

    /// Whether a client has not yet taken what it was given.
    pub fn has_backlog(&self) -> bool {
        self.clients.borrow().iter().any(|c| c.backlog() > 0)
    }

    /// Another log in the place of the present one, whose files could not be opened: it goes on from what is committed, and
    /// says what was lost. After an error the present one stays.
    pub fn replace_log(&self, mut log: Box<dyn LogSink>) -> io::Result<()> {
        // The present one counts what it took.
        self.commit_now()?;
        let mut state = self.journal.load(self.slot).map_err(io::Error::other)?;
        if let Some(sink) = self.sink.borrow().as_ref() {
            // Also where it is too long for the journal.
            for stream in [Stream::Stdout, Stream::Stderr] {
                state.carry[stream.index()].bytes = sink.carry(stream).0.to_vec();
            }
        }
        if let Some(buffer) = &self.buffer {
            return self.replace_buffered(buffer, log, &mut state);
        }
        log.restore(&state)?;
        // Nothing is printed, so that only the loss is written.
        log.append(Stream::Stderr, &[], unix_time_ns());
        *self.sink.borrow_mut() = Some(log);
        self.dirty.set(true);
        self.commit_now()?;
        self.publish();
        Ok(())
    }

    /// Outside the pump's turn: everything below the ring's head has been taken.
    fn commit_now(&self) -> io::Result<()> {
        let head = self.pump.with_ring(|ring| ring.pending().0);
        self.commit(self.pump.epoch(), head)
    }

    /// Stops waiting for output although somebody still holds the pipes open (a daemonised child that left the
    /// container's init behind): what was read so far is the output.
    pub fn abandon(&self) -> io::Result<()> {
        {
            let mut streams = self.streams.borrow_mut();
            for stream in [Stream::Stdout, Stream::Stderr] {
                let reading = &mut streams[stream.index()];
                if reading.armed && !reading.cancelling {
                    self.pump.with_ring(|ring| ring.cancel(self.user(stream)))?;
                }
                *reading = Reading {
                    ended: true,
                    ..Reading::default()
                };
                self.finish(stream, unix_time_ns());
            }
        }
        self.started.set(true);
        self.clients_changed();
        self.pump.with_ring(|ring| ring.submit())?;
        self.commit_now()?;
        self.publish();
        Ok(())
    }

    /// Both streams have ended and everything is in the log and handed to the clients.
    pub async fn drained(&self) {
        while !self.done.get() {
            let known = self.done_signal.count();
            self.done_signal.changed(known).await;
        }
    }

    /// Whether [`Self::drained`] would return at once.
    pub fn is_drained(&self) -> bool {
        self.done.get()
    }

    /// Live output from now on.
    pub fn subscribe(self: &Rc<Self>, options: SubscribeOptions) -> Subscription {
        let queue = Rc::new(Queue::new(options));
        if self.closed.get() {
            queue.end();
        } else {
            self.clients.borrow_mut().push(queue.clone());
            self.clients_changed();
        }
        Subscription {
            queue,
            io: Rc::downgrade(self),
        }
    }

    pub(crate) fn unsubscribe(&self, queue: &Rc<Queue>) {
        self.clients.borrow_mut().retain(|c| !Rc::ptr_eq(c, queue));
        self.clients_changed();
        self.consumers_changed();
    }
}

/// A multishot read of a blocking file without FMODE_NOWAIT (terminals, pipes opened by path) never completes on a bare
/// hang-up, only on data (measured on 6.18); with O_NONBLOCK it does. The container's end is another file description;
/// the keeper, which shares this one, polls before it reads.
fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(
        fd,
        flags | rustix::fs::OFlags::NONBLOCK,
    )?)
}

impl Drop for ContainerIo {
    fn drop(&mut self) {
        self.close();
        self.clients_signal.raise();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let reading = &self.streams.get_mut()[stream.index()];
            if reading.armed && !reading.cancelling {
                let user = UserData {
                    slot: self.slot,
                    generation: self.generation,
                    stream,
                };
                let cancelled = self
                    .pump
                    .with_ring(|ring| ring.cancel(user).and_then(|()| ring.submit()));
                if let Err(error) = cancelled {
                    tracing::error!(slot = self.slot, %error, "a read of a container's output could not be cancelled");
                }
            }
        }
        self.pump.remove(self.slot, self);
    }
}
