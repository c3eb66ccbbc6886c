//! Output of `mode=non-blocking`: a container that never waits for its log.
//!
//! What the pump takes goes into the container's spill file, the one that a keeper writes while no daemon is there, and is
//! committed as such: it is as recoverable as a log that is written. A task writes it into the log, on a thread that may
//! wait, and commits how far it came. What does not fit is dropped, by lines, and said in the log in its place.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use gantry_keeper_proto::shm::{
    LOST_IN_BUFFER, Lost, ShmError, SlotState, SpillReader, SpillRecord, SpillWriter, Stream,
};

use super::ContainerIo;
use crate::admission::Admission;
use crate::signal::Signal;
use crate::sink::{LogPosition, LogSink, WriteDone, WriteJob};
use crate::unix_time_ns;

/// How long a log that could not be written is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often that is tried when the run is over.
const TRIES_AFTER_END: u32 = 3600;
/// Read of the spill that is given back to its file system at once, at least.
const RELEASE_BYTES: u64 = 256 * 1024;

/// A buffer between a container and its log.
#[derive(Clone, Debug)]
pub struct LogBufferConfig {
    /// The container's spill file.
    pub path: PathBuf,
    /// Most bytes of output that wait.
    pub max_bytes: u64,
}

/// What the journal says of the log while more waits.
#[derive(Debug, Default)]
struct Logged {
    position: LogPosition,
    carry: [(Vec<u8>, u64); 2],
    spill_offset: u64,
    lost: Lost,
}

/// What was dropped and is not said: bytes, and lines that end in them.
#[derive(Clone, Copy, Debug, Default)]
struct Dropped {
    bytes: u64,
    records: u64,
}

impl Dropped {
    fn add(&mut self, (bytes, records): (u64, u64)) {
        self.bytes += bytes;
        self.records += records;
    }
}

/// The files of the buffer, made when there is something to keep.
struct Spill {
    writer: SpillWriter,
    reader: SpillReader,
    released: u64,
}

pub(super) struct LogBuffer {
    config: LogBufferConfig,
    spill: RefCell<Option<Spill>>,
    admission: RefCell<Admission>,
    /// Bytes of output that wait, and how many of them are being written.
    waiting_bytes: Cell<u64>,
    writing_bytes: Cell<u64>,
    dropped: Cell<Dropped>,
    /// Where in the spill that was.
    dropped_at: Cell<u64>,
    /// Dropped, and being said.
    telling: Cell<Dropped>,
    logged: RefCell<Logged>,
    /// The part of the spill that a keeper has written: its bytes are not counted yet, and its limit is another one.
    handed_over: Cell<(u64, u64)>,
    writing: Cell<bool>,
    signal: Rc<Signal>,
}

impl LogBuffer {
    /// For a log whose run had come so far; what it lost in its buffer is said here, the rest by the log.
    pub(super) fn new(config: LogBufferConfig, state: &mut SlotState) -> LogBuffer {
        let mut dropped = Dropped::default();
        if state.lost.reason == LOST_IN_BUFFER {
            dropped.add((state.lost.bytes, state.lost.records));
            state.lost = Lost::default();
        }
        LogBuffer {
            admission: RefCell::new(Admission::new(config.max_bytes)),
            config,
            spill: RefCell::default(),
            waiting_bytes: Cell::new(0),
            writing_bytes: Cell::new(0),
            dropped: Cell::new(dropped),
            dropped_at: Cell::new(state.spill_end),
            telling: Cell::default(),
            logged: RefCell::new(Logged {
                spill_offset: state.spill_offset,
                ..Logged::default()
            }),
            handed_over: Cell::new((state.spill_end, state.spill_end)),
            writing: Cell::new(false),
            signal: Rc::default(),
        }
    }

    /// Everything is in the log.
    pub(super) fn is_empty(&self) -> bool {
        let spill = self.spill.borrow();
        let read = spill
            .as_ref()
            .is_none_or(|s| s.reader.offset() >= s.writer.end());
        read && !self.writing.get() && self.dropped.get().bytes == 0
    }

    fn with_spill<R>(
        &self,
        f: impl FnOnce(&mut Spill) -> Result<R, ShmError>,
    ) -> Result<R, ShmError> {
        let mut spill = self.spill.borrow_mut();
        if spill.is_none() {
            let path = &self.config.path;
            let failed = |source| ShmError::Io {
                step: "open of a spill",
                source,
            };
            // What is there was never committed.
            let mut how = File::options();
            how.read(true).write(true).create(true).truncate(true);
            let file = how.open(path).map_err(failed)?;
            *spill = Some(Spill::new(file, 0, 0)?);
        }
        let spill = spill.as_mut().ok_or(ShmError::Corrupt("no spill"))?;
        f(spill)
    }

    /// What a keeper hands over goes on to the log like all that waits.
    pub(super) fn take_spill(&self, file: File, end: u64) -> Result<(), ShmError> {
        let offset = self.logged.borrow().spill_offset;
        self.handed_over.set((self.handed_over.get().0, end));
        *self.spill.borrow_mut() = Some(Spill::new(file, offset, end)?);
        self.signal.raise();
        Ok(())
    }

    /// Takes output: into the spill, as far as it fits. Answers what was dropped: bytes, and lines that end in them.
    pub(super) fn push(&self, stream: Stream, data: &[u8], time_ns: u64) -> (u64, u64) {
        let waiting = self.waiting_bytes.get();
        let admitted = self.admission.borrow_mut().admit(stream, data, waiting);
        let (before, mut after) = (admitted.before, admitted.after);
        self.drop_output(before);
        let kept = &data[admitted.kept.0..admitted.kept.1];
        if !kept.is_empty() {
            match self.append(time_ns, |writer| writer.append(stream, kept, time_ns)) {
                Ok(()) => self.waiting_bytes.set(waiting + kept.len() as u64),
                Err(error) => {
                    tracing::error!(%error, "output that waits for its log can't be kept");
                    let ends = memchr::memchr_iter(b'\n', kept).count();
                    after = (after.0 + kept.len() as u64, after.1 + ends as u64);
                }
            }
        }
        self.drop_output(after);
        self.signal.raise();
        (before.0 + after.0, before.1 + after.1)
    }

    /// A stream has ended, after what waits of it.
    pub(super) fn push_end(&self, stream: Stream, time_ns: u64) {
        let records = self.admission.borrow_mut().end(stream);
        let mut dropped = self.dropped.get();
        dropped.records += records;
        self.dropped.set(dropped);
        let ended = self.append(time_ns, |writer| writer.append_end(stream, time_ns));
        if let Err(error) = ended {
            tracing::error!(%error, "the end of a stream can't be noted");
        }
        self.signal.raise();
    }

    fn drop_output(&self, more: (u64, u64)) {
        if more.0 > 0 {
            let mut dropped = self.dropped.get();
            if dropped.bytes == 0 {
                let spill = self.spill.borrow();
                let end = spill.as_ref().map_or(0, |s| s.writer.end());
                self.dropped_at.set(end);
            }
            dropped.add(more);
            self.dropped.set(dropped);
        }
    }

    /// Appends a record, and before it what was dropped since the one before.
    fn append(
        &self,
        time_ns: u64,
        f: impl FnOnce(&mut SpillWriter) -> Result<(), ShmError>,
    ) -> Result<(), ShmError> {
        let dropped = self.dropped.get();
        self.with_spill(|spill| {
            if dropped.bytes > 0 && self.dropped_at.get() == spill.writer.end() {
                let Dropped { bytes, records } = dropped;
                spill.writer.append_dropped(bytes, records, time_ns)?;
                self.dropped.set(Dropped::default());
            }
            f(&mut spill.writer)?;
            spill.reader.set_end(spill.writer.end());
            Ok(())
        })
    }

    /// What the journal is to say: how far the log is, and what of the spill is the daemon's.
    pub(super) fn committed<R>(
        &self,
        f: impl FnOnce(LogPosition, [(&[u8], u64); 2], (u64, u64), Lost) -> R,
    ) -> R {
        let logged = self.logged.borrow();
        let carry = [0, 1].map(|n| (&logged.carry[n].0[..], logged.carry[n].1));
        let end = self.spill.borrow().as_ref().map_or(0, |s| s.writer.end());
        let mut lost = logged.lost;
        for dropped in [self.dropped.get(), self.telling.get()] {
            if dropped.bytes > 0 {
                lost.bytes += dropped.bytes;
                lost.records += dropped.records;
                if lost.reason == 0 {
                    lost.reason = LOST_IN_BUFFER;
                }
            }
        }
        f(logged.position, carry, (logged.spill_offset, end), lost)
    }

    /// Takes note of what the log has.
    pub(super) fn note_logged(&self, sink: &dyn LogSink) {
        let mut logged = self.logged.borrow_mut();
        logged.position = sink.position();
        logged.lost = sink.lost();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let (bytes, time_ns) = sink.carry(stream);
            let (kept, kept_time_ns) = &mut logged.carry[stream.index()];
            kept.clear();
            kept.extend_from_slice(bytes);
            *kept_time_ns = time_ns;
        }
        if let Some(spill) = &*self.spill.borrow() {
            logged.spill_offset = spill.reader.offset();
        }
    }

    /// Encodes what waits, up to a batch; with the bytes of each stream that were not counted before. False: nothing.
    fn fill(&self, sink: &mut dyn LogSink, uncounted: &mut [u64; 2]) -> bool {
        let mut any = false;
        while !sink.batch_full() {
            if self.say_dropped(sink) {
                any = true;
                continue;
            }
            let Some(record) = self.next_record(sink) else {
                break;
            };
            any = true;
            match record {
                SpillRecord::Gap(bytes) => sink.gap(bytes),
                SpillRecord::Dropped { bytes, records } => sink.dropped(bytes, records),
                SpillRecord::End { stream, time_ns } => sink.finish(stream, time_ns),
                SpillRecord::Data {
                    stream,
                    time_ns,
                    bytes,
                } => {
                    let len = bytes.len() as u64;
                    sink.append(stream, &bytes, time_ns);
                    let (from, to) = self.handed_over.get();
                    if self.offset() > to {
                        self.writing_bytes.set(self.writing_bytes.get() + len);
                    } else if self.offset() > from {
                        uncounted[stream.index()] += len;
                    }
                }
            }
        }
        let told = sink.tell_lost(unix_time_ns());
        any || told
    }

    /// Up to here the spill is read.
    fn offset(&self) -> u64 {
        self.spill
            .borrow()
            .as_ref()
            .map_or(0, |s| s.reader.offset())
    }

    /// What was dropped is said where nothing of before waits any more.
    fn say_dropped(&self, sink: &mut dyn LogSink) -> bool {
        let dropped = self.dropped.get();
        if dropped.bytes == 0 || self.offset() < self.dropped_at.get() {
            return false;
        }
        sink.dropped(dropped.bytes, dropped.records);
        let mut telling = self.telling.get();
        telling.add((dropped.bytes, dropped.records));
        self.telling.set(telling);
        self.dropped.set(Dropped::default());
        true
    }

    /// The next record. One that cannot be read ends what waits: that much is lost.
    fn next_record(&self, sink: &mut dyn LogSink) -> Option<SpillRecord> {
        let mut spill = self.spill.borrow_mut();
        let spill = spill.as_mut()?;
        match spill.reader.next_record() {
            Ok(record) => record,
            Err(error) => {
                let (offset, end) = (spill.reader.offset(), spill.writer.end());
                tracing::error!(%error, lost_bytes = end - offset, "output that waits for its log can't be read back");
                sink.gap(end - offset);
                let file = spill.writer.file().try_clone().ok()?;
                spill.reader = SpillReader::new(file, end, end);
                None
            }
        }
    }

    /// A write has ended, well or not.
    fn written(&self, sink: &dyn LogSink) {
        self.writing.set(false);
        self.telling.set(Dropped::default());
        let written = self.writing_bytes.replace(0);
        let left = self.waiting_bytes.get().saturating_sub(written);
        self.note_logged(sink);
        let spill = self.spill.borrow();
        let empty = spill
            .as_ref()
            .is_none_or(|s| s.reader.offset() >= s.writer.end());
        self.waiting_bytes.set(if empty { 0 } else { left });
    }

    /// What was written is committed.
    fn release(&self) {
        if let Some(spill) = &mut *self.spill.borrow_mut() {
            spill.release(spill.reader.offset() >= spill.writer.end());
        }
    }

    /// It is the container's no more; what waits is written from what is open.
    pub(super) fn unlink(&self) {
        if self.spill.borrow().is_some()
            && let Err(error) = std::fs::remove_file(&self.config.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.config.path.display(), "a spill is left");
        }
        self.signal.raise();
    }
}

impl Spill {
    fn new(file: File, offset: u64, end: u64) -> Result<Spill, ShmError> {
        let copy = file.try_clone().map_err(|source| ShmError::Io {
            step: "dup of a spill",
            source,
        })?;
        let mut writer = SpillWriter::new(file)?;
        writer.go_on_at(end)?;
        Ok(Spill {
            writer,
            reader: SpillReader::new(copy, offset, end),
            released: offset,
        })
    }

    /// What is in the log is taken out of the file: whoever reads it without the journal must not find it again.
    fn release(&mut self, all: bool) {
        let offset = self.reader.offset();
        if offset < self.released + RELEASE_BYTES && !(all && offset > self.released) {
            return;
        }
        self.released = offset;
        if let Err(error) = self.writer.release(offset) {
            tracing::warn!(%error, "written output is not freed");
        }
    }
}

enum Next {
    Write(WriteJob),
    Wait,
    End,
}

impl ContainerIo {
    /// Starts the task that writes what waits. It holds the container's streams only while there is something to write.
    pub(super) fn start_writer(self: &Rc<Self>, buffer: &Rc<LogBuffer>) {
        let (me, signal) = (Rc::downgrade(self), buffer.signal.clone());
        gantry_rt::spawn("logs.buffer", async move {
            let mut tries_after_end = 0;
            // From one write to the next: after the run nobody else has it.
            let mut held = None;
            while tries_after_end < TRIES_AFTER_END {
                let known = signal.count();
                let Some(io) = held.take().or_else(|| me.upgrade()) else {
                    return;
                };
                match io.next_write() {
                    Next::Write(job) => {
                        let done = gantry_rt::workers::run_log(job).await;
                        if !io.end_write(done.ok()) {
                            tries_after_end += u32::from(io.closed.get());
                            gantry_rt::sleep(RETRY_AFTER).await;
                        }
                        held = Some(io);
                    }
                    Next::End => return,
                    Next::Wait => {
                        drop(io);
                        signal.changed(known).await;
                    }
                }
            }
        });
    }

    /// See [`ContainerIo::replace_log`].
    pub(super) fn replace_buffered(
        &self,
        buffer: &LogBuffer,
        mut log: Box<dyn LogSink>,
        state: &mut SlotState,
    ) -> io::Result<()> {
        if buffer.writing.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // What the buffer dropped it says itself.
        state.lost = self
            .sink
            .borrow()
            .as_ref()
            .map_or(Lost::default(), |s| s.lost());
        log.restore(state)?;
        buffer.note_logged(&*log);
        *self.sink.borrow_mut() = Some(log);
        self.commit_now()?;
        buffer.signal.raise();
        Ok(())
    }

    fn next_write(&self) -> Next {
        let Some(buffer) = &self.buffer else {
            return Next::End;
        };
        let mut sink = self.sink.borrow_mut();
        let Some(sink) = sink.as_mut() else {
            return Next::End;
        };
        if sink.is_superseded() {
            tracing::error!(
                slot = self.slot,
                "the rest of what a container printed in its last run is not logged"
            );
            return Next::End;
        }
        let mut uncounted = [0; 2];
        let filled = buffer.fill(&mut **sink, &mut uncounted);
        let mut raw = self.raw_bytes.get();
        (raw[0], raw[1]) = (raw[0] + uncounted[0], raw[1] + uncounted[1]);
        self.raw_bytes.set(raw);
        match (filled, self.closed.get()) {
            (true, _) => {
                buffer.writing.set(true);
                Next::Write(sink.begin_write())
            }
            (false, true) => Next::End,
            (false, false) => Next::Wait,
        }
    }

    /// Takes note of a write; false if it failed.
    fn end_write(&self, done: Option<WriteDone>) -> bool {
        let Some(buffer) = &self.buffer else {
            return true;
        };
        let mut well = true;
        if let Some(sink) = &mut *self.sink.borrow_mut() {
            let result = sink.end_write(done);
            self.note_write(&result);
            well = result.is_ok();
            buffer.written(&**sink);
        }
        let committed = match self.closed.get() {
            true => Ok(()),
            false => self.commit_now(),
        };
        match committed {
            Ok(()) => buffer.release(),
            Err(error) => {
                tracing::error!(slot = self.slot, %error, "how far a log is written could not be noted");
            }
        }
        if let Some(sink) = &mut *self.sink.borrow_mut() {
            sink.committed();
        }
        self.finish_if_ended();
        well
    }
}
