//! The part of a writer that touches files: it may be lent to another thread for one write.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::MAX_ROTATIONS_PER_BATCH;
use super::encoder::Encoder;
use super::files::SharedFiles;
use super::output::Output;

/// The current file, the names of all, and how batches are encoded.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) files: SharedFiles,
    pub(super) output: Output,
    pub(super) encoder: Encoder,
    pub(super) path: PathBuf,
    pub(super) max_size_bytes: u64,
    /// The current file at the last commit: until the next one it must be found again.
    pub(super) committed_id: u64,
    /// A commit that the files have not been told of.
    pub(super) untold_commit: bool,
    pub(super) rotation_failed: bool,
}

/// A file as it is opened.
#[derive(Debug)]
pub(super) struct NewSegment {
    pub(super) data: Arc<File>,
    pub(super) index: Option<Arc<File>>,
    pub(super) id: u64,
    /// Where the segment begins in the file, and where the file ends.
    pub(super) start: u64,
    pub(super) len: u64,
}

/// What a write did to the segments, in order.
#[derive(Debug)]
pub(super) enum Change {
    /// Output came to the current one.
    Output { records: u64, bytes: u64 },
    /// The current one has `written` bytes, and another follows.
    Next { written: u64, next: NewSegment },
}

/// A batch that was written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) batch: Vec<u8>,
    pub(super) changes: Vec<Change>,
    /// The batch from here on is not written.
    pub(super) failed: Option<(usize, io::Error)>,
}

impl Disk {
    /// Writes a batch with so many records and bytes of output, cut after the records that fill a file.
    pub(super) fn write(
        &mut self,
        batch: Vec<u8>,
        output: (u64, u64),
        last_time_ns: u64,
    ) -> Written {
        self.tell_commit();
        let mut changes = Vec::with_capacity(1);
        let failed = self.write_out(&batch, output, last_time_ns, &mut changes);
        Written {
            batch,
            changes,
            failed: failed.err(),
        }
    }

    /// Removes what the last commit made superfluous.
    pub(super) fn tell_commit(&mut self) {
        if std::mem::take(&mut self.untold_commit) {
            self.files.lock().committed();
        }
    }

    fn write_out(
        &mut self,
        batch: &[u8],
        output: (u64, u64),
        last_time_ns: u64,
        changes: &mut Vec<Change>,
    ) -> Result<(), (usize, io::Error)> {
        let max = self
            .max_size_bytes
            .max(batch.len() as u64 / MAX_ROTATIONS_PER_BATCH);
        let mut at = 0;
        while at < batch.len() {
            let room = max.saturating_sub(self.output.written);
            let mut room = usize::try_from(room).unwrap_or(usize::MAX);
            if room == 0 {
                room = self.rotate_if_possible(max, last_time_ns, changes);
            }
            let end = self.encoder.cut(batch, at, room);
            let written = self.output.written;
            match self.output.append(&self.encoder, batch, at..end) {
                Ok(None) => {}
                // Somebody emptied the file: readers go on from there.
                Ok(Some(start)) => {
                    let next = self.output.new_segment(start);
                    changes.push(Change::Next { written, next });
                }
                Err(e) => return Err((at, e)),
            }
            let (records, bytes) = match end - at == batch.len() {
                true => output,
                false => self.encoder.count(&batch[at..end]),
            };
            changes.push(Change::Output { records, bytes });
            at = end;
        }
        Ok(())
    }

    /// How much may be written now.
    fn rotate_if_possible(
        &mut self,
        max: u64,
        last_time_ns: u64,
        changes: &mut Vec<Change>,
    ) -> usize {
        match self.rotate(last_time_ns) {
            Ok(change) => {
                changes.push(change);
                self.rotation_failed = false;
                usize::try_from(max).unwrap_or(usize::MAX)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.rotation_failed, true) {
                    tracing::error!(path = %self.path.display(), %error, "rotating a log failed; it goes on growing");
                }
                usize::MAX
            }
        }
    }

    fn rotate(&mut self, last_time_ns: u64) -> io::Result<Change> {
        self.output.seal(last_time_ns)?;
        let opened = {
            let mut files = self.files.lock();
            self.files.set_uncommitted(true);
            files.rotate(self.committed_id)?
        };
        let next = Output::open(opened, None)?;
        let old = std::mem::replace(&mut self.output, next);
        Ok(Change::Next {
            written: old.written,
            next: self.output.new_segment(0),
        })
    }
}
