//! The `json-file` driver's writer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use gantry_keeper_proto::shm::{CARRY_BYTES, SlotState};
use gantry_stream::{LogPosition, LogSink, Signal, Stream};

use crate::{json, time};

/// Buffer kept between batches; a larger one is given back.
const KEEP_BUFFER_BYTES: usize = 256 * 1024;
/// Most rotated files of a container.
pub const MAX_LOG_FILES: u32 = 1000;

/// log option cannot be used
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOption {
    /// Not an option of this driver.
    #[error("unknown log opt '{0}' for json-file log driver")]
    Unknown(String),
    /// A size that cannot be read.
    #[error("invalid size: '{0}'")]
    Size(String),
    /// A size of nothing.
    #[error("max-size must be a positive number")]
    NoSize,
    /// A number that cannot be read.
    #[error("strconv.Atoi: parsing {0:?}: invalid syntax")]
    Number(String),
    /// A boolean that cannot be read.
    #[error("strconv.ParseBool: parsing {0:?}: invalid syntax")]
    Boolean(String),
    /// Not even the current file.
    #[error("max-file cannot be less than 1")]
    NoFile,
    /// More files than a rotation may rename.
    #[error("max-file cannot be more than {MAX_LOG_FILES}")]
    TooManyFiles,
    /// Nothing would ever be compressed.
    #[error("compress cannot be true when max-file is less than 2 or max-size is not set")]
    NothingToCompress,
    /// Neither blocking nor non-blocking.
    #[error("logger: logging mode not supported: {0}")]
    Mode(String),
    /// A size without its mode.
    #[error("logger: max-buffer-size option is only supported with 'mode=non-blocking'")]
    BufferWithoutMode,
    /// The size of the buffer cannot be read.
    #[error("error parsing option max-buffer-size: invalid size: '{0}'")]
    BufferSize(String),
}

/// Options of the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonFileOptions {
    /// Rotate a file that has reached this size.
    pub max_size_bytes: Option<u64>,
    /// Keep so many files, the current one included (0 and 1: only the current one).
    pub max_files: u32,
    /// Added to every record.
    pub attrs: BTreeMap<String, String>,
}

impl JsonFileOptions {
    /// From a container's or the daemon's log options. `attrs` (from `labels`, `env`, `tag`) is up to the caller, and
    /// rotated files are never compressed.
    pub fn parse<'a>(
        opts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<JsonFileOptions, BadOption> {
        let mut options = JsonFileOptions {
            max_files: 1,
            ..JsonFileOptions::default()
        };
        let (mut compress, mut mode, mut buffer_size) = (false, "", None);
        for (name, value) in opts {
            match name {
                "max-size" => options.max_size_bytes = max_size(value)?,
                "max-file" => options.max_files = max_files(value)?,
                "compress" => compress = boolean(value)?,
                "mode" => mode = value,
                "max-buffer-size" => buffer_size = Some(value),
                "labels" | "labels-regex" | "env" | "env-regex" | "tag" => {}
                other => return Err(BadOption::Unknown(other.to_owned())),
            }
        }
        if compress && (options.max_files == 1 || options.max_size_bytes.is_none()) {
            return Err(BadOption::NothingToCompress);
        }
        check_mode(mode, buffer_size)?;
        Ok(options)
    }
}

fn max_size(text: &str) -> Result<Option<u64>, BadOption> {
    match parse_size(text) {
        None => Err(BadOption::Size(text.to_owned())),
        Some(Some(0)) => Err(BadOption::NoSize),
        Some(size) => Ok(size),
    }
}

fn max_files(text: &str) -> Result<u32, BadOption> {
    match text.parse::<i64>() {
        Err(_) => Err(BadOption::Number(text.to_owned())),
        Ok(n) if n < 1 => Err(BadOption::NoFile),
        Ok(n) => u32::try_from(n)
            .ok()
            .filter(|n| *n <= MAX_LOG_FILES)
            .ok_or(BadOption::TooManyFiles),
    }
}

/// Go's words for a boolean.
fn boolean(text: &str) -> Result<bool, BadOption> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(BadOption::Boolean(text.to_owned())),
    }
}

fn check_mode(mode: &str, buffer_size: Option<&str>) -> Result<(), BadOption> {
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return Err(BadOption::Mode(mode.to_owned()));
    }
    match buffer_size {
        Some(_) if mode != "non-blocking" => Err(BadOption::BufferWithoutMode),
        Some(size) if parse_size(size).is_none() => Err(BadOption::BufferSize(size.to_owned())),
        _ => Ok(()),
    }
}

/// "10m", "512k", "1.5g", "100", with binary units; "-1" is no limit.
fn parse_size(text: &str) -> Option<Option<u64>> {
    if text == "-1" {
        return Some(None);
    }
    let lower = text.trim().to_ascii_lowercase();
    let number_end = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let unit: u64 = match lower[number_end..].trim() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    let number: f64 = lower[..number_end].parse().ok()?;
    let bytes = number * unit as f64;
    (0.0..1e18).contains(&bytes).then_some(Some(bytes as u64))
}

/// A log file and how much of it may be read.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<File>,
    pub(crate) committed: Cell<u64>,
    pub(crate) next: RefCell<Option<Rc<Segment>>>,
}

/// What readers and the writer share.
#[derive(Debug)]
pub struct LogState {
    pub(crate) path: PathBuf,
    pub(crate) current: RefCell<Rc<Segment>>,
    pub(crate) signal: Signal,
    pub(crate) closed: Cell<bool>,
    failed_batches: Cell<u64>,
}

impl LogState {
    /// The current file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the current file that may be read.
    pub fn committed_bytes(&self) -> u64 {
        self.current.borrow().committed.get()
    }

    /// Batches whose write failed; their records are not in the log.
    pub fn failed_batches(&self) -> u64 {
        self.failed_batches.get()
    }

    /// Tells followers that no more output will come.
    pub fn close(&self) {
        self.closed.set(true);
        self.signal.raise();
    }
}

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
    file_id: u64,
    buffer: Vec<u8>,
    written: u64,
    partial: [Partial; 2],
    last_time_ns: u64,
    stamp: Vec<u8>,
}

/// The path of the `n`-th rotated file.
pub(crate) fn rotated(path: &Path, n: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

fn open_file(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

impl JsonFile {
    /// Opens or creates the log; a torn last record is cut off.
    pub fn open(path: &Path, options: JsonFileOptions) -> io::Result<JsonFile> {
        let file = open_file(path)?;
        let len = end_of_last_record(&file)?;
        file.set_len(len)?;
        let file_id = file.metadata()?.ino();
        let segment = Segment {
            file: Arc::new(file),
            committed: Cell::new(len),
            next: RefCell::new(None),
        };
        let attrs = if options.attrs.is_empty() {
            Vec::new()
        } else {
            serde_json::to_vec(&options.attrs)?
        };
        let state = LogState {
            path: path.to_owned(),
            current: RefCell::new(Rc::new(segment)),
            signal: Signal::default(),
            closed: Cell::new(false),
            failed_batches: Cell::new(0),
        };
        let state = Rc::new(state);
        Ok(JsonFile {
            state,
            options,
            attrs,
            file_id,
            buffer: Vec::new(),
            written: len,
            partial: Default::default(),
            last_time_ns: 0,
            stamp: Vec::with_capacity(32),
        })
    }

    /// For readers.
    pub fn state(&self) -> Rc<LogState> {
        self.state.clone()
    }

    fn record(&mut self, stream: Stream, line: &[u8], newline: bool, time_ns: u64) {
        self.stamp.clear();
        time::format_into(&mut self.stamp, time_ns, false);
        json::encode_into(
            &mut self.buffer,
            line,
            newline,
            stream,
            &self.attrs,
            &self.stamp,
        );
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
        let path = self.state.path.clone();
        let keep = self.options.max_files;
        for n in (1..keep).rev() {
            let from = if n == 1 {
                path.clone()
            } else {
                rotated(&path, n - 1)
            };
            match std::fs::rename(from, rotated(&path, n)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if keep <= 1 {
            std::fs::remove_file(&path)?;
        }
        // The old file is still open, so the new one has another inode number: that is how recovery tells them apart.
        let file = open_file(&path)?;
        self.file_id = file.metadata()?.ino();
        self.written = 0;
        let next = Segment {
            file: Arc::new(file),
            committed: Cell::new(0),
            next: RefCell::new(None),
        };
        let next = Rc::new(next);
        let old = self.state.current.replace(next.clone());
        *old.next.borrow_mut() = Some(next);
        Ok(())
    }
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
        while let Some(n) = rest.iter().position(|b| *b == b'\n') {
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
        if !self.buffer.is_empty() {
            let file = self.state.current.borrow().file.clone();
            let result = (&*file).write_all(&self.buffer);
            let len = self.buffer.len() as u64;
            self.buffer.clear();
            self.buffer.shrink_to(KEEP_BUFFER_BYTES);
            if let Err(e) = result {
                self.state
                    .failed_batches
                    .set(self.state.failed_batches.get() + 1);
                file.set_len(self.written)?;
                return Err(e);
            }
            self.written += len;
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
        if current.committed.get() != self.written {
            current.committed.set(self.written);
        }
        if self
            .options
            .max_size_bytes
            .is_some_and(|max| self.written >= max)
            && let Err(error) = self.rotate()
        {
            tracing::error!(path = %self.state.path.display(), %error, "rotating a log failed; it goes on growing");
        }
        self.state.signal.raise();
    }

    fn rotation_due(&self) -> bool {
        self.options
            .max_size_bytes
            .is_some_and(|max| self.written + self.buffer.len() as u64 >= max)
    }

    fn restore(&mut self, state: &SlotState) -> io::Result<()> {
        let current = self.state.current.borrow().clone();
        if state.log_id == self.file_id {
            let len = state.log_bytes.min(current.file.metadata()?.len());
            current.file.set_len(len)?;
            self.written = len;
        } else {
            // Rotated after the last commit: what the new file has is not committed. With no commit at all the file is
            // what an earlier run of the container left.
            if state.log_id != 0 {
                current.file.set_len(0)?;
                self.written = 0;
            }
        }
        current.committed.set(self.written);
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
