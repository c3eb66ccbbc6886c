//! Log files as their writer and its readers share them.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use gantry_stream::Signal;

/// The path of the `n`-th rotated file; 0 is the current one.
pub(crate) fn rotated(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    with_suffix(path, &n.to_string())
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// A log file and how much of it may be read. Segments are linked in the order of their writing; a follower keeps alive
/// what it has still to read, except for files that rotation has removed meanwhile: those are unlinked.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<File>,
    /// A number that no other file of the log has.
    pub(crate) id: u64,
    /// Where this segment begins in the file: not 0 if somebody emptied the file under us.
    pub(crate) start: u64,
    /// What was written, committed or not.
    pub(crate) written: Cell<u64>,
    pub(crate) committed: Cell<u64>,
    pub(crate) next: RefCell<Option<Rc<Segment>>>,
    before: RefCell<Weak<Segment>>,
    /// Segments between this one and `next` that were removed before a reader came to them.
    pub(crate) lost_after: Cell<u64>,
}

impl Segment {
    pub(crate) fn new(file: Arc<File>, id: u64, start: u64, written: u64) -> Rc<Segment> {
        Rc::new(Segment {
            file,
            id,
            start,
            written: Cell::new(written),
            committed: Cell::new(written),
            next: RefCell::new(None),
            before: RefCell::default(),
            lost_after: Cell::new(0),
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
            before
                .lost_after
                .set(before.lost_after.get() + 1 + self.lost_after.get());
            before.link(&next);
        }
    }
}

/// What readers and the writer share.
#[derive(Debug)]
pub struct LogState {
    pub(crate) path: PathBuf,
    pub(crate) current: RefCell<Rc<Segment>>,
    pub(crate) signal: Signal,
    pub(crate) closed: Cell<bool>,
    pub(crate) failed_batches: Cell<u64>,
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
