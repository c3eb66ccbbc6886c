//! The writer of `json-file`; `local` keeps the same records under another name.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use gantry_keeper_proto::shm::{CARRY_BYTES, SlotState};
use gantry_stream::{LogPosition, LogSink, Signal, Stream};

use crate::options::JsonFileOptions;
use crate::rotate::{Files, open_file};
use crate::segment::{LogState, Segment};
use crate::{json, scan, time};

/// Buffer kept between batches; a larger one is given back.
const KEEP_BUFFER_BYTES: usize = 256 * 1024;
/// A batch is written when so much is encoded; the last piece of output may make it longer (32 KiB of empty lines are
/// 2.4 MiB of records).
const BATCH_BYTES: usize = 1024 * 1024;
/// Files that one batch is cut over at most. With a max-size that would need more, the files become larger.
const MAX_ROTATIONS_PER_BATCH: u64 = 128;
/// Files that rotation has removed and a slow follower may still read.
const MAX_REMOVED_SEGMENTS: usize = 128;
/// Their size.
const MAX_REMOVED_BYTES: u64 = 8 * 1024 * 1024;

#[derive(Debug, Default)]
struct Partial {
    carry: Vec<u8>,
    time_ns: u64,
}

/// The writer.
#[derive(Debug)]
pub struct JsonFile {
    state: Rc<LogState>,
    options: JsonFileOptions,
    attrs: Vec<u8>,
    files: Files,
    file_id: u64,
    buffer: Vec<u8>,
    written: u64,
    /// The current segment at the last commit, and its file: until the next one it must be found again.
    committed: Rc<Segment>,
    committed_id: u64,
    /// Segments that may still be on disk, oldest first; as many as rotation keeps.
    kept: VecDeque<Weak<Segment>>,
    /// Segments whose file is removed, held by slow followers only; oldest first.
    removed: VecDeque<Weak<Segment>>,
    rotation_failed: bool,
    /// A failed write left a piece of a record behind.
    torn: bool,
    partial: [Partial; 2],
    last_time_ns: u64,
    stamp: time::Stamp,
}

impl JsonFile {
    /// Opens or creates the log; a torn last record is cut off.
    pub fn open(path: &Path, options: JsonFileOptions) -> io::Result<JsonFile> {
        let files = Files::new(path, options.max_files)?;
        let (file, file_id, len) = open_current(path)?;
        let segment = Segment::new(Arc::new(file), file_id, 0, len);
        let state = LogState {
            path: path.to_owned(),
            current: RefCell::new(segment.clone()),
            signal: Signal::default(),
            closed: Cell::new(false),
            failed_batches: Cell::new(0),
        };
        let mut attrs = Vec::new();
        if !options.attrs.is_empty() {
            json::attrs_into(&mut attrs, &options.attrs);
        }
        Ok(JsonFile {
            state: Rc::new(state),
            options,
            attrs,
            files,
            file_id,
            buffer: Vec::new(),
            written: len,
            kept: VecDeque::from([Rc::downgrade(&segment)]),
            removed: VecDeque::new(),
            rotation_failed: false,
            committed: segment,
            committed_id: file_id,
            torn: false,
            partial: Default::default(),
            last_time_ns: 0,
            stamp: time::Stamp::default(),
        })
    }

    /// For readers.
    pub fn state(&self) -> Rc<LogState> {
        self.state.clone()
    }

    fn record(&mut self, stream: Stream, line: &[u8], newline: bool, time_ns: u64) {
        let stamp = self.stamp.format(time_ns);
        json::encode_into(&mut self.buffer, line, newline, stream, &self.attrs, stamp);
    }

    /// The time of the next line. Lines of one batch are read at one instant, but no two get one time: a follower that
    /// comes back with `since` tells them apart by it.
    fn next_time(&mut self, now_ns: u64) -> u64 {
        self.last_time_ns = now_ns.max(self.last_time_ns + 1);
        self.last_time_ns
    }

    /// Handles one piece of a line that has no newline yet: kept, and cut into records where Docker cuts.
    fn keep(&mut self, stream: Stream, mut piece: &[u8], time_ns: u64) {
        let i = stream.index();
        while self.partial[i].carry.len() + piece.len() >= CARRY_BYTES {
            let (head, rest) = piece.split_at(CARRY_BYTES - self.partial[i].carry.len());
            let mut line = std::mem::take(&mut self.partial[i].carry);
            line.extend_from_slice(head);
            self.write_partial(stream, &line, time_ns);
            line.clear();
            self.partial[i].carry = line;
            piece = rest;
        }
        self.partial[i].carry.extend_from_slice(piece);
    }

    /// A part of a line; all parts of a line have the time of the first one.
    fn write_partial(&mut self, stream: Stream, line: &[u8], time_ns: u64) {
        let first = &mut self.partial[stream.index()].time_ns;
        if *first == 0 {
            *first = time_ns;
        }
        let time_ns = *first;
        self.record(stream, line, false, time_ns);
    }

    fn rotate(&mut self) -> io::Result<()> {
        let dropped = self.files.rotate(self.committed_id)?;
        let (file, id) = open_file(&self.state.path)?;
        self.file_id = id;
        self.follow_on(Arc::new(file), 0);
        if dropped {
            self.removed.extend(self.kept.pop_front());
            self.bound_removed();
        }
        Ok(())
    }

    /// A follower may be behind, but not without limit: what is removed takes descriptors and disk as long as it reads.
    fn bound_removed(&mut self) {
        self.removed.retain(|s| s.strong_count() > 0);
        let alive = || self.removed.iter().rev().filter_map(Weak::upgrade);
        let mut bytes = 0;
        let fit = alive().take_while(|s| {
            bytes += s.written.get() - s.start;
            bytes <= MAX_REMOVED_BYTES
        });
        let excess = self.removed.len() - fit.count().min(MAX_REMOVED_SEGMENTS);
        for oldest in self.removed.drain(..excess).filter_map(|s| s.upgrade()) {
            oldest.unlink();
        }
    }

    /// What is written next belongs to a new segment that begins at `start`.
    fn follow_on(&mut self, file: Arc<File>, start: u64) {
        let next = Segment::new(file, self.file_id, start, start);
        let old = self.state.current.replace(next.clone());
        old.written.set(self.written);
        old.link(&next);
        self.written = start;
        self.kept.push_back(Rc::downgrade(&next));
    }

    /// Writes a batch, cut after the records that fill a file.
    fn write_out(&mut self, batch: &[u8]) -> io::Result<()> {
        let max = self.options.max_size_bytes.unwrap_or(u64::MAX);
        let max = max.max(batch.len() as u64 / MAX_ROTATIONS_PER_BATCH);
        let mut rest = batch;
        while !rest.is_empty() {
            let mut room = usize::try_from(max.saturating_sub(self.written)).unwrap_or(usize::MAX);
            if room == 0 {
                room = self.rotate_if_possible(max);
            }
            let (piece, left) = rest.split_at(whole_records(rest, room));
            self.append_to_file(piece)?;
            rest = left;
        }
        Ok(())
    }

    /// How much may be written now.
    fn rotate_if_possible(&mut self, max: u64) -> usize {
        match self.rotate() {
            Ok(()) => {
                self.rotation_failed = false;
                usize::try_from(max).unwrap_or(usize::MAX)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.rotation_failed, true) {
                    tracing::error!(path = %self.state.path.display(), %error, "rotating a log failed; it goes on growing");
                }
                usize::MAX
            }
        }
    }

    fn append_to_file(&mut self, piece: &[u8]) -> io::Result<()> {
        let file = self.state.current.borrow().file.clone();
        if let Err(e) = (&*file).write_all(piece) {
            self.cut_off(&file);
            return Err(e);
        }
        let end = (&*file).stream_position()?;
        let expected = self.written + piece.len() as u64;
        if end != expected {
            // Somebody emptied the file (`truncate -s 0`, logrotate's copytruncate): readers go on from there.
            self.follow_on(file, end.saturating_sub(piece.len() as u64));
        }
        self.written = end;
        Ok(())
    }

    /// After a failed write: the file is as it was, or, when that fails too, what it has more is skipped by readers.
    fn cut_off(&mut self, file: &File) {
        if let Err(error) = file.set_len(self.written) {
            tracing::error!(path = %self.state.path.display(), %error, "a torn log record can't be cut off");
            self.torn = true;
            self.written = file.metadata().map_or(self.written, |stat| stat.len());
        }
    }
}

/// Opens the current file, without a torn last record: with its id and length.
fn open_current(path: &Path) -> io::Result<(File, u64, u64)> {
    let (file, id) = open_file(path)?;
    let len = end_of_last_record(&file)?;
    file.set_len(len)?;
    Ok((file, id, len))
}

/// Length of the records that begin in the first `room` bytes; all of them if they fit.
fn whole_records(batch: &[u8], room: usize) -> usize {
    let Some(from) = room.checked_sub(1).filter(|from| *from < batch.len()) else {
        return batch.len();
    };
    let end = scan::position(&batch[from..], |b| b == b'\n');
    end.map_or(batch.len(), |n| from + n + 1)
}

/// Length of the file up to its last newline.
fn end_of_last_record(file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut chunk = [0u8; 4096];
    while end > 0 {
        let start = end.saturating_sub(chunk.len() as u64);
        let piece = &mut chunk[..(end - start) as usize];
        file.read_exact_at(piece, start)?;
        if let Some(at) = piece.iter().rposition(|b| *b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

impl LogSink for JsonFile {
    fn append(&mut self, stream: Stream, bytes: &[u8], now_ns: u64) {
        let i = stream.index();
        let mut rest = bytes;
        while let Some(n) = scan::position(rest, |b| b == b'\n') {
            let line = &rest[..n];
            rest = &rest[n + 1..];
            let time_ns = self.next_time(now_ns);
            if self.partial[i].carry.is_empty()
                && self.partial[i].time_ns == 0
                && line.len() < CARRY_BYTES
            {
                self.record(stream, line, true, time_ns);
                continue;
            }
            self.keep(stream, line, time_ns);
            let Partial {
                carry,
                time_ns: first,
            } = std::mem::take(&mut self.partial[i]);
            self.record(
                stream,
                &carry,
                true,
                if first == 0 { time_ns } else { first },
            );
        }
        self.keep(stream, rest, now_ns.max(self.last_time_ns));
    }

    fn finish(&mut self, stream: Stream, now_ns: u64) {
        let time_ns = now_ns.max(self.last_time_ns);
        let carry = std::mem::take(&mut self.partial[stream.index()].carry);
        if !carry.is_empty() {
            self.write_partial(stream, &carry, time_ns);
        }
        self.partial[stream.index()] = Partial::default();
    }

    fn write(&mut self) -> io::Result<LogPosition> {
        let mut batch = std::mem::take(&mut self.buffer);
        let result = self.write_out(&batch);
        batch.clear();
        batch.shrink_to(KEEP_BUFFER_BYTES);
        if std::mem::take(&mut self.torn) {
            batch.push(b'\n');
        }
        self.buffer = batch;
        if let Err(e) = result {
            let failed = &self.state.failed_batches;
            failed.set(failed.get() + 1);
            return Err(e);
        }
        Ok(self.position())
    }

    fn position(&self) -> LogPosition {
        LogPosition {
            bytes: self.written,
            file_id: self.file_id,
        }
    }

    fn carry(&self, stream: Stream) -> (&[u8], u64) {
        let partial = &self.partial[stream.index()];
        (&partial.carry, partial.time_ns)
    }

    fn committed(&mut self) {
        let current = self.state.current.borrow().clone();
        current.written.set(self.written);
        let mut segment = std::mem::replace(&mut self.committed, current);
        self.committed_id = self.file_id;
        loop {
            segment.committed.set(segment.written.get());
            let next = segment.next.borrow().clone();
            let Some(next) = next else { break };
            segment = next;
        }
        self.files.committed();
        self.state.signal.raise();
    }

    fn batch_full(&self) -> bool {
        self.buffer.len() >= BATCH_BYTES
    }

    fn restore(&mut self, state: &SlotState) -> io::Result<()> {
        // With no commit at all the file is what an earlier run of the container left.
        if state.log_id != 0 {
            let found = self.files.go_back_to(state.log_id)?;
            let (file, id, len) = open_current(&self.state.path)?;
            // A file that the last commit does not name has nothing that was committed.
            let len = if found { state.log_bytes.min(len) } else { 0 };
            file.set_len(len)?;
            let segment = Segment::new(Arc::new(file), id, 0, len);
            self.state.current.replace(segment.clone());
            self.kept = VecDeque::from([Rc::downgrade(&segment)]);
            (self.file_id, self.written) = (id, len);
            (self.committed, self.committed_id) = (segment, id);
        }
        for (partial, carry) in self.partial.iter_mut().zip(&state.carry) {
            *partial = Partial {
                carry: carry.bytes.clone(),
                time_ns: carry.partial_time_ns,
            };
        }
        Ok(())
    }

    fn close(&mut self) {
        self.state.close();
    }
}
