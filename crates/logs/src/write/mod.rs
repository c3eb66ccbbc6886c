//! The writer of logs in files: lines to records, records to batches, batches to files.

mod compress;
mod encoder;
mod files;
mod lines;
mod lost;
pub(crate) mod numbered;
mod output;
mod shifted;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::rc::{Rc, Weak};

use gantry_keeper_proto::shm::{Lost, SlotState};
use gantry_stream::{LogPosition, LogSink, Stream};

use crate::loss::{Loss, LossReason};
use crate::options::FileOptions;
use crate::segment::{Format, LogState, Segment};
use compress::Compressor;
use encoder::{Encoder, Line};
use files::Files;
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
    files: Rc<RefCell<Files>>,
    compressor: Option<Rc<Compressor>>,
    output: Output,
    encoder: Encoder,
    lines: Lines,
    buffer: Vec<u8>,
    /// Records and bytes of output in the buffer.
    buffered: (u64, u64),
    /// The current segment at the last commit, and its file: until the next one it must be found again.
    committed: Rc<Segment>,
    committed_id: u64,
    /// Segments that may still be on disk, oldest first; as many as rotation keeps.
    kept: VecDeque<Weak<Segment>>,
    /// Segments whose file is removed, held by slow followers only; oldest first.
    removed: VecDeque<Weak<Segment>>,
    rotation_failed: bool,
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
        let segment = output.segment(0);
        let mut lines = Lines::default();
        lines.go_on_after(output.last_time_ns);
        let encoder = match format {
            Format::Json => Encoder::json(&options.attrs),
            Format::Frames => Encoder::frames(output.last_time_ns),
        };
        let files = Rc::new(RefCell::new(files));
        let compressor = options
            .compress
            .then(|| Compressor::new(path, files.clone()));
        Ok(FileLog {
            state: LogState::new(path, format, segment.clone()),
            options,
            files,
            compressor,
            encoder,
            lines,
            buffer: Vec::new(),
            buffered: (0, 0),
            kept: VecDeque::from([Rc::downgrade(&segment)]),
            removed: VecDeque::new(),
            rotation_failed: false,
            committed: segment,
            committed_id: output.id,
            output,
            loss: None,
            loss_is_told: false,
        })
    }

    /// For readers.
    pub fn state(&self) -> Rc<LogState> {
        self.state.clone()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.output.seal(self.lines.last_time_ns())?;
        let opened = self.files.borrow_mut().rotate(self.committed_id)?;
        let next = Output::open(opened, None)?;
        let old = std::mem::replace(&mut self.output, next);
        self.follow_on(old.written, 0);
        if let Some(compressor) = &self.compressor {
            compressor.rotated();
        }
        Ok(())
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

    /// What is written next belongs to a new segment that begins at `start`; the one before has `written` bytes.
    fn follow_on(&mut self, written: u64, start: u64) {
        let next = self.output.segment(start);
        let old = self.state.current.replace(next.clone());
        old.written.set(written);
        old.link(&next);
        self.kept.push_back(Rc::downgrade(&next));
    }

    /// Writes a batch, cut after the records that fill a file. On an error: where the batch ends that is written.
    fn write_out(&mut self, batch: &[u8]) -> Result<(), (usize, io::Error)> {
        let max = self.options.max_size_bytes.unwrap_or(u64::MAX);
        let max = max.max(batch.len() as u64 / MAX_ROTATIONS_PER_BATCH);
        let mut at = 0;
        while at < batch.len() {
            let room = max.saturating_sub(self.output.written);
            let mut room = usize::try_from(room).unwrap_or(usize::MAX);
            if room == 0 {
                room = self.rotate_if_possible(max);
            }
            let end = self.encoder.cut(batch, at, room);
            let before = self.output.written;
            match self.output.append(&self.encoder, batch, at..end) {
                Ok(None) => {}
                // Somebody emptied the file: readers go on from there.
                Ok(Some(start)) => self.follow_on(before, start),
                Err(e) => return Err((at, e)),
            }
            let (records, bytes) = match end - at == batch.len() {
                true => self.buffered,
                false => self.encoder.count(&batch[at..end]),
            };
            let written = &self.state.current.borrow().output;
            written.set((written.get().0 + records, written.get().1 + bytes));
            at = end;
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

    /// The batch from `at` on is lost.
    fn lose(&mut self, lost: &[u8], at: usize, error: &io::Error) {
        let (mut records, mut bytes) = self.encoder.count(lost);
        if std::mem::take(&mut self.loss_is_told) {
            if at > 0 {
                // What was lost before is said and written.
                self.loss = None;
            } else if let Some(loss) = &self.loss {
                records = records.saturating_sub(1);
                bytes = bytes.saturating_sub(loss.text().len() as u64 + 1);
            }
        }
        self.add_loss(Loss {
            records,
            bytes,
            reason: LossReason::Write(error.raw_os_error().unwrap_or(0)),
        });
    }

    fn add_loss(&mut self, more: Loss) {
        self.state.count_loss(&more);
        match &mut self.loss {
            None => self.loss = Some(more),
            Some(loss) => loss.add(more),
        }
    }

    /// What was lost is said before what comes next.
    fn tell_loss(&mut self, now_ns: u64) {
        if self.loss_is_told {
            return;
        }
        if let Some(loss) = &self.loss {
            self.loss_is_told = true;
            let (text, attributes) = (loss.text(), loss.attributes());
            let line = Line {
                stream: Stream::Stderr,
                text: text.as_bytes(),
                newline: true,
                time_ns: self.lines.next_time(now_ns),
                gap: Some(&attributes),
            };
            self.encoder.put(&mut self.buffer, line);
        }
    }

    /// `None`: all of the file is kept.
    fn open_again(&mut self, committed_bytes: Option<u64>) -> io::Result<()> {
        let opened = self.files.borrow().open()?;
        self.output = Output::open(opened, committed_bytes)?;
        let segment = self.output.segment(0);
        self.state.current.replace(segment.clone());
        self.kept = VecDeque::from([Rc::downgrade(&segment)]);
        (self.committed, self.committed_id) = (segment, self.output.id);
        self.lines.go_on_after(self.output.last_time_ns);
        Ok(())
    }
}

impl LogSink for FileLog {
    fn append(&mut self, stream: Stream, bytes: &[u8], now_ns: u64) {
        self.tell_loss(now_ns);
        let (encoder, buffer, output) = (&mut self.encoder, &mut self.buffer, &mut self.buffered);
        self.lines.take(stream, bytes, now_ns, |line| {
            *output = (output.0 + 1, output.1 + line.len());
            encoder.put(buffer, line);
        });
    }

    fn gap(&mut self, bytes: u64) {
        self.add_loss(Loss {
            records: 0,
            bytes,
            reason: LossReason::Spill,
        });
    }

    fn finish(&mut self, stream: Stream, now_ns: u64) {
        self.tell_loss(now_ns);
        let (encoder, buffer, output) = (&mut self.encoder, &mut self.buffer, &mut self.buffered);
        self.lines.finish(stream, now_ns, |line| {
            *output = (output.0 + 1, output.1 + line.len());
            encoder.put(buffer, line);
        });
    }

    fn write(&mut self) -> io::Result<LogPosition> {
        let mut batch = std::mem::take(&mut self.buffer);
        let result = self.write_out(&batch);
        match &result {
            Ok(()) if std::mem::take(&mut self.loss_is_told) => self.loss = None,
            Ok(()) => {}
            Err((at, error)) => self.lose(&batch[*at..], *at, error),
        }
        self.encoder.clear();
        self.buffered = (0, 0);
        if batch.len() <= KEEP_BUFFER_BYTES {
            batch.shrink_to(KEEP_BUFFER_BYTES);
        }
        batch.clear();
        self.buffer = batch;
        result.map_err(|(_, error)| error)?;
        Ok(self.position())
    }

    fn position(&self) -> LogPosition {
        LogPosition {
            bytes: self.output.written,
            file_id: self.output.id,
        }
    }

    fn carry(&self, stream: Stream) -> (&[u8], u64) {
        self.lines.carry(stream)
    }

    fn lost(&self) -> Lost {
        Loss::journaled(self.loss.as_ref())
    }

    fn committed(&mut self) {
        let current = self.state.current.borrow().clone();
        current.written.set(self.output.written);
        let mut segment = std::mem::replace(&mut self.committed, current);
        self.committed_id = self.output.id;
        loop {
            segment.committed.set(segment.written.get());
            let next = segment.next.borrow().clone();
            let Some(next) = next else { break };
            segment = next;
        }
        self.files.borrow_mut().committed();
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
            let found = self.files.borrow_mut().go_back_to(state.log_id)?;
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
        self.state.close();
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        self.close();
    }
}
