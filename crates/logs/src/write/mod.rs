//! The writer of logs in files: lines to records, records to batches, batches to files.

mod compress;
mod disk;
mod encoder;
mod files;
mod lines;
mod lost;
pub(crate) mod numbered;
mod output;
mod shifted;
mod untold;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::rc::{Rc, Weak};

use gantry_keeper_proto::shm::{Lost, SlotState};
use gantry_stream::{LogPosition, LogSink, Stream, WriteDone, WriteJob};

use crate::loss::{Loss, LossReason};
use crate::options::FileOptions;
use crate::segment::{Format, LogState, Segment};
use compress::Compressor;
use disk::{Change, Disk, NewSegment, Written};
use encoder::{Encoder, Line};
pub(crate) use files::{Files, SharedFiles};
use lines::Lines;
pub use lost::LostLog;
use numbered::Numbered;
use output::Output;
use shifted::Shifted;

/// Buffer kept between batches; a larger one is given back after the first batch that needed no more than this. Not
/// before: in bulk every batch is large, and memory that is given back is cleared by the kernel when it is asked for again.
const KEEP_BUFFER_BYTES: usize = 256 * 1024;
/// A batch is written when so much is encoded; the last piece of output may make it longer (32 KiB of empty lines are
/// 2.4 MiB of records).
pub const BATCH_BYTES: usize = 1024 * 1024;
/// Files that one batch is cut over at most. With a max-size that would need more, the files become larger.
const MAX_ROTATIONS_PER_BATCH: u64 = 128;
/// Files that rotation has removed and a slow follower may still read.
pub const MAX_REMOVED_SEGMENTS: usize = 128;
/// Their size.
pub const MAX_REMOVED_BYTES: u64 = 8 * 1024 * 1024;

/// The writer.
#[derive(Debug)]
pub struct FileLog {
    state: Rc<LogState>,
    options: FileOptions,
    compressor: Option<Rc<Compressor>>,
    /// Away while another thread writes.
    disk: Option<Box<Disk>>,
    /// The shard must not wait for the files.
    detached: bool,
    position: LogPosition,
    lines: Lines,
    buffer: Vec<u8>,
    /// Records and bytes of output in the buffer.
    buffered: (u64, u64),
    /// The current segment at the last commit.
    committed: Rc<Segment>,
    /// Segments that may still be on disk, oldest first; as many as rotation keeps.
    kept: VecDeque<Weak<Segment>>,
    /// Segments whose file is removed, held by slow followers only; oldest first.
    removed: VecDeque<Weak<Segment>>,
    /// What was lost since the last record that is written.
    loss: Option<Loss>,
    /// The batch begins with a record that says so.
    loss_is_told: bool,
}

impl FileLog {
    /// Opens or creates a log of Docker's json-file; a torn last record is cut off.
    pub fn open_json(path: &Path, options: FileOptions) -> io::Result<FileLog> {
        let files = Files::Shifted(Shifted::new(path, options.max_files)?);
        FileLog::open(path, Format::Json, files, options)
    }

    /// Opens or creates a log of `local`: `base` is what the names of its files begin with.
    pub fn open_local(base: &Path, options: FileOptions) -> io::Result<FileLog> {
        let files = Files::Numbered(Numbered::new(base, options.max_files)?);
        FileLog::open(base, Format::Frames, files, options)
    }

    fn open(
        path: &Path,
        format: Format,
        files: Files,
        options: FileOptions,
    ) -> io::Result<FileLog> {
        compress::remove_left_over(path)?;
        let output = Output::open(files.open()?, None)?;
        let segment = new_segment(output.new_segment(0));
        let mut lines = options
            .max_line_bytes
            .map_or_else(Lines::default, Lines::new);
        lines.go_on_after(output.last_time_ns);
        let encoder = match format {
            Format::Json => Encoder::json(&options.attrs),
            Format::Frames => Encoder::frames(output.last_time_ns),
        };
        let files = SharedFiles::new(files);
        let compressor = options
            .compress
            .then(|| Compressor::new(path, files.clone()));
        let position = output.position();
        let disk = Disk {
            files: files.clone(),
            encoder,
            path: path.to_owned(),
            max_size_bytes: options.max_size_bytes.unwrap_or(u64::MAX),
            committed_id: output.id,
            untold_commit: false,
            rotation_failed: false,
            output,
        };
        Ok(FileLog {
            state: LogState::new(path, format, segment.clone(), files),
            options,
            compressor,
            disk: Some(Box::new(disk)),
            detached: false,
            position,
            lines,
            buffer: Vec::new(),
            buffered: (0, 0),
            kept: VecDeque::from([Rc::downgrade(&segment)]),
            removed: VecDeque::new(),
            committed: segment,
            loss: untold::take_over(path),
            loss_is_told: false,
        })
    }

    /// For readers.
    pub fn state(&self) -> Rc<LogState> {
        self.state.clone()
    }

    /// A follower may be behind, but not without limit: what is removed takes descriptors and disk as long as it reads.
    fn bound_removed(&mut self) {
        while self.kept.len() > self.options.max_files.max(1) as usize {
            self.removed.extend(self.kept.pop_front());
        }
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

    /// What is written next belongs to a new segment; the one before has `written` bytes.
    fn follow_on(&mut self, written: u64, next: NewSegment) {
        let next = new_segment(next);
        let old = self.state.current.replace(next.clone());
        old.written.set(written);
        old.link(&next);
        self.kept.push_back(Rc::downgrade(&next));
        if let (0, Some(compressor)) = (next.start, &self.compressor) {
            compressor.rotated();
        }
    }

    /// What was encoded is gone from here, whatever becomes of it.
    fn take_batch(&mut self) -> (Vec<u8>, (u64, u64), u64) {
        let batch = std::mem::take(&mut self.buffer);
        (batch, self.buffered, self.lines.last_time_ns())
    }

    /// Takes note of what a write did.
    fn written(&mut self, disk: Box<Disk>, written: Written) -> io::Result<LogPosition> {
        let Written {
            mut batch,
            changes,
            failed,
        } = written;
        for change in changes {
            match change {
                Change::Next { written, next } => self.follow_on(written, next),
                Change::Output { records, bytes } => {
                    let output = &self.state.current.borrow().output;
                    output.set((output.get().0 + records, output.get().1 + bytes));
                }
            }
        }
        let disk = self.disk.insert(disk);
        self.position = disk.output.position();
        let lost = failed.as_ref();
        let lost = lost.map(|(at, error)| (*at, disk.encoder.count(&batch[*at..]), reason(error)));
        disk.encoder.clear();
        match lost {
            None if std::mem::take(&mut self.loss_is_told) => {
                self.loss = None;
                self.state.untold.set(None);
            }
            None => {}
            Some((at, amount, reason)) => self.lose(amount, at, reason),
        }
        self.buffered = (0, 0);
        if batch.len() <= KEEP_BUFFER_BYTES {
            batch.shrink_to(KEEP_BUFFER_BYTES);
        }
        batch.clear();
        self.buffer = batch;
        match failed {
            None => Ok(self.position),
            Some((_, error)) => Err(error),
        }
    }

    /// The thread that had the files has failed: nothing is written any more.
    fn writer_is_gone(&mut self) -> io::Result<LogPosition> {
        let (records, bytes) = std::mem::take(&mut self.buffered);
        self.buffer.clear();
        self.loss_is_told = false;
        let reason = LossReason::Write(libc::EIO);
        self.add_loss(Loss {
            records,
            bytes,
            reason,
        });
        Err(io::Error::other("the writer of this log has failed"))
    }

    /// The batch from `at` on is lost, with so many records and bytes.
    fn lose(&mut self, (mut records, mut bytes): (u64, u64), at: usize, reason: LossReason) {
        if std::mem::take(&mut self.loss_is_told) {
            if at > 0 {
                // What was lost before is said and written.
                self.loss = None;
            } else if let Some(loss) = &self.loss {
                records = records.saturating_sub(1);
                bytes = bytes.saturating_sub(loss.text().len() as u64 + 1);
            }
        }
        if records > 0 {
            self.add_loss(Loss {
                records,
                bytes,
                reason,
            });
        }
    }

    fn add_loss(&mut self, more: Loss) {
        self.state.count_loss(&more);
        match &mut self.loss {
            None => self.loss = Some(more),
            Some(loss) => loss.add(more),
        }
    }

    /// What was lost is said before what comes next.
    fn tell_loss(&mut self, now_ns: u64) -> bool {
        let (false, Some(loss)) = (self.loss_is_told, &self.loss) else {
            return false;
        };
        let Some(disk) = &mut self.disk else {
            return false;
        };
        self.loss_is_told = true;
        let (text, attributes) = (loss.text(), loss.attributes());
        let line = Line {
            stream: Stream::Stderr,
            text: text.as_bytes(),
            newline: true,
            time_ns: self.lines.next_time(now_ns),
            gap: Some(&attributes),
        };
        disk.encoder.put(&mut self.buffer, line);
        true
    }

    /// Output is missing here: what follows does not go on the lines before it.
    fn interrupt(&mut self, loss: Loss) {
        let last_time_ns = self.lines.last_time_ns();
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.encode(|lines, put| lines.finish(stream, last_time_ns, put));
        }
        self.add_loss(loss);
    }

    fn encode(&mut self, f: impl FnOnce(&mut Lines, &mut dyn FnMut(Line<'_>))) {
        let (buffer, output) = (&mut self.buffer, &mut self.buffered);
        let disk = &mut self.disk;
        f(&mut self.lines, &mut |line| {
            *output = (output.0 + 1, output.1 + line.len());
            if let Some(disk) = disk {
                disk.encoder.put(buffer, line);
            }
        });
    }

    /// `None`: all of the file is kept.
    fn open_again(&mut self, committed_bytes: Option<u64>) -> io::Result<()> {
        let disk = self.disk.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let opened = disk.files.lock().open()?;
        disk.output = Output::open(opened, committed_bytes)?;
        disk.committed_id = disk.output.id;
        self.position = disk.output.position();
        self.lines.go_on_after(disk.output.last_time_ns);
        let segment = new_segment(disk.output.new_segment(0));
        self.state.current.replace(segment.clone());
        self.kept = VecDeque::from([Rc::downgrade(&segment)]);
        self.committed = segment;
        Ok(())
    }
}

fn new_segment(new: NewSegment) -> Rc<Segment> {
    Segment::new(new.data, new.index, new.id, new.start, new.len)
}

fn reason(error: &io::Error) -> LossReason {
    LossReason::Write(error.raw_os_error().unwrap_or(0))
}

impl LogSink for FileLog {
    fn append(&mut self, stream: Stream, bytes: &[u8], now_ns: u64) {
        self.tell_loss(now_ns);
        self.encode(|lines, put| lines.take(stream, bytes, now_ns, put));
    }

    fn gap(&mut self, bytes: u64) {
        self.interrupt(Loss {
            records: 0,
            bytes,
            reason: LossReason::Spill,
        });
    }

    fn dropped(&mut self, bytes: u64, records: u64) {
        self.interrupt(Loss {
            records,
            bytes,
            reason: LossReason::Buffer,
        });
    }

    fn tell_lost(&mut self, now_ns: u64) -> bool {
        self.tell_loss(now_ns)
    }

    fn finish(&mut self, stream: Stream, now_ns: u64) {
        self.tell_loss(now_ns);
        self.encode(|lines, put| lines.finish(stream, now_ns, put));
    }

    fn write(&mut self) -> io::Result<LogPosition> {
        let Some(mut disk) = self.disk.take() else {
            return self.writer_is_gone();
        };
        let (batch, output, last_time_ns) = self.take_batch();
        let written = disk.write(batch, output, last_time_ns);
        self.written(disk, written)
    }

    fn begin_write(&mut self) -> WriteJob {
        self.detached = true;
        if let Some(compressor) = &self.compressor {
            compressor.detach();
        }
        let Some(mut disk) = self.disk.take() else {
            return Box::new(|| Box::new(()));
        };
        let (batch, output, last_time_ns) = self.take_batch();
        Box::new(move || {
            let written = disk.write(batch, output, last_time_ns);
            Box::new((disk, written))
        })
    }

    fn end_write(&mut self, done: Option<WriteDone>) -> io::Result<LogPosition> {
        match done.and_then(|done| done.downcast::<(Box<Disk>, Written)>().ok()) {
            Some(done) => {
                let (disk, written) = *done;
                self.written(disk, written)
            }
            None => self.write(),
        }
    }

    fn is_superseded(&self) -> bool {
        self.state.superseded.get()
    }

    fn position(&self) -> LogPosition {
        self.position
    }

    fn carry(&self, stream: Stream) -> (&[u8], u64) {
        self.lines.carry(stream)
    }

    fn lost(&self) -> Lost {
        Loss::journaled(self.loss.as_ref())
    }

    fn committed(&mut self) {
        let current = self.state.current.borrow().clone();
        current.written.set(self.position.bytes);
        let mut segment = std::mem::replace(&mut self.committed, current);
        loop {
            segment.committed.set(segment.written.get());
            let next = segment.next.borrow().clone();
            let Some(next) = next else { break };
            segment = next;
        }
        if let Some(disk) = &mut self.disk {
            disk.committed_id = self.position.file_id;
            disk.untold_commit = true;
            disk.files.set_uncommitted(false);
            if !self.detached {
                disk.tell_commit();
            }
        }
        self.bound_removed();
        if let Some(compressor) = &self.compressor {
            compressor.start();
        }
        self.state.signal.raise();
    }

    fn batch_full(&self) -> bool {
        self.buffer.len() >= BATCH_BYTES
    }

    fn restore(&mut self, state: &SlotState) -> io::Result<()> {
        // With no commit at all the file is what an earlier run of the container left.
        if state.log_id != 0 {
            let disk = self.disk.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            let found = disk.files.lock().go_back_to(state.log_id)?;
            // That file may have gone (somebody removed it) or have another number (another file system): what is there
            // instead is not ours to cut.
            self.open_again(found.then_some(state.log_bytes))?;
        }
        self.lines.restore(&state.carry);
        self.loss = Loss::of_journal(state.lost);
        Ok(())
    }

    fn close(&mut self) {
        if let Some(compressor) = &self.compressor {
            compressor.stop();
        }
        if !self.state.closed.get() {
            untold::leave(&self.state, self.loss);
        }
        self.state.close();
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        self.close();
    }
}
