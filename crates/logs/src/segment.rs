//! Log files as their writer and its readers share them.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use gantry_stream::Signal;

use crate::loss::Loss;
use crate::write::{Files, SharedFiles};

/// How long a reader waits for a rotation on another thread.
const NAMES_WAIT: Duration = Duration::from_millis(10);

/// The path of the `n`-th rotated file; 0 is the current one.
pub(crate) fn rotated(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    with_suffix(path, &n.to_string())
}

/// The path of the `n`-th rotated file when it is compressed.
pub(crate) fn compressed(path: &Path, n: u32) -> PathBuf {
    with_suffix(&rotated(path, n), "gz")
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// What was in segments that a reader came too late for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) segments: u64,
    pub(crate) records: u64,
    /// Bytes of output.
    pub(crate) bytes: u64,
}

/// A log file and how much of it may be read. Segments are linked in the order of their writing; a follower keeps alive
/// what it has still to read, except for files that rotation has removed meanwhile: those are unlinked.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<File>,
    /// Its index, with the files of `local`.
    pub(crate) index: Option<Arc<File>>,
    /// A number that no other file of the log has.
    pub(crate) id: u64,
    /// Where this segment begins in the file: not 0 if somebody emptied the file under us.
    pub(crate) start: u64,
    /// What was written, committed or not.
    pub(crate) written: Cell<u64>,
    pub(crate) committed: Cell<u64>,
    pub(crate) next: RefCell<Option<Rc<Segment>>>,
    before: RefCell<Weak<Segment>>,
    /// Output that was written to it by this writer: records and bytes.
    pub(crate) output: Cell<(u64, u64)>,
    /// Segments between this one and `next` that were removed before a reader came to them.
    pub(crate) lost_after: Cell<Lost>,
}

impl Segment {
    pub(crate) fn new(
        file: Arc<File>,
        index: Option<Arc<File>>,
        id: u64,
        start: u64,
        written: u64,
    ) -> Rc<Segment> {
        Rc::new(Segment {
            file,
            index,
            id,
            start,
            written: Cell::new(written),
            committed: Cell::new(written),
            next: RefCell::new(None),
            before: RefCell::default(),
            output: Cell::new((0, 0)),
            lost_after: Cell::default(),
        })
    }

    pub(crate) fn link(self: &Rc<Segment>, next: &Rc<Segment>) {
        *self.next.borrow_mut() = Some(next.clone());
        *next.before.borrow_mut() = Rc::downgrade(self);
    }

    /// Its file is removed: whoever has not come to it yet will not.
    pub(crate) fn unlink(&self) {
        let before = self.before.borrow().upgrade();
        let next = self.next.borrow().clone();
        if let (Some(before), Some(next)) = (before, next) {
            let (mut lost, after) = (before.lost_after.get(), self.lost_after.get());
            let (records, bytes) = self.output.get();
            lost.segments += 1 + after.segments;
            lost.records += records + after.records;
            lost.bytes += bytes + after.bytes;
            before.lost_after.set(lost);
            before.link(&next);
        }
    }
}

/// What the files of a log hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Docker's records.
    Json,
    /// Multiplexed frames, and an index beside each file.
    Frames,
}

/// What readers and the writer share.
#[derive(Debug)]
pub struct LogState {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) current: RefCell<Rc<Segment>>,
    pub(crate) signal: Signal,
    pub(crate) closed: Cell<bool>,
    /// What it has still to say now that it is closed.
    pub(crate) untold: Cell<Option<Loss>>,
    /// Another writer says it.
    pub(crate) superseded: Cell<bool>,
    /// For who needs names that stand still.
    files: SharedFiles,
    lost_bytes: Cell<u64>,
    losses: Cell<u64>,
    follower_gaps: Cell<u64>,
}

impl LogState {
    pub(crate) fn new(
        path: &Path,
        format: Format,
        current: Rc<Segment>,
        files: SharedFiles,
    ) -> Rc<LogState> {
        Rc::new(LogState {
            path: path.to_owned(),
            format,
            current: RefCell::new(current),
            signal: Signal::default(),
            closed: Cell::new(false),
            untold: Cell::default(),
            superseded: Cell::new(false),
            files,
            lost_bytes: Cell::new(0),
            losses: Cell::new(0),
            follower_gaps: Cell::new(0),
        })
    }

    /// The current file's path; with the files of `local`, what their names begin with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the current file that may be read.
    pub fn committed_bytes(&self) -> u64 {
        self.current.borrow().committed.get()
    }

    /// Stretches of output that are not in the log (batches whose write failed, and the like), and their bytes. Each is
    /// said in the log as soon as it takes more.
    pub fn losses(&self) -> (u64, u64) {
        (self.losses.get(), self.lost_bytes.get())
    }

    /// Stretches that followers came too late for.
    pub fn follower_gaps(&self) -> u64 {
        self.follower_gaps.get()
    }

    /// Until it is dropped no file gets another name. Names change on the shard or, in an instant, on another thread; one
    /// that does not come back from its file system is not waited for.
    pub(crate) fn lock_names(&self) -> io::Result<MutexGuard<'_, Files>> {
        let begun = Instant::now();
        loop {
            if let Some(names) = self.files.try_lock() {
                return Ok(names);
            }
            if begun.elapsed() > NAMES_WAIT {
                return Err(io::Error::other("the log's file system does not answer"));
            }
            std::thread::yield_now();
        }
    }

    pub(crate) fn count_follower_gap(&self) {
        self.follower_gaps.set(self.follower_gaps.get() + 1);
    }

    pub(crate) fn count_loss(&self, loss: &Loss) {
        loss.count();
        self.losses.set(self.losses.get() + 1);
        self.lost_bytes.set(self.lost_bytes.get() + loss.bytes);
    }

    /// Tells followers that no more output will come.
    pub fn close(&self) {
        self.closed.set(true);
        self.signal.raise();
    }
}
