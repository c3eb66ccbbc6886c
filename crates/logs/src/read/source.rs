//! The files that a reader goes through, one after the other.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use gantry_stream::LogPosition;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::index::Index;
use crate::segment::{Format, LogState, Segment, compressed, rotated};
use crate::write::numbered;

use super::follow::Follow;
use super::frames::Frames;

/// Where the bytes of a segment come from.
#[derive(Debug)]
pub(crate) enum Data {
    File(Arc<File>),
    Gzip(Box<Gzip>),
}

/// A compressed file, read from front to back; going back begins again.
pub(crate) struct Gzip {
    file: Arc<File>,
    decoder: MultiGzDecoder<FileFrom>,
    offset: u64,
}

impl std::fmt::Debug for Gzip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gzip")
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// Reads a file from a place of its own.
struct FileFrom {
    file: Arc<File>,
    offset: u64,
}

impl Read for FileFrom {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(out, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

impl Gzip {
    fn new(file: Arc<File>) -> Gzip {
        let from = FileFrom {
            file: file.clone(),
            offset: 0,
        };
        Gzip {
            file,
            decoder: MultiGzDecoder::new(from),
            offset: 0,
        }
    }

    /// What Docker notes at the head of a compressed file: `{"lastTime":"..."}`.
    pub(super) fn last_time_ns(&self) -> Option<u64> {
        let note: serde_json::Value =
            serde_json::from_slice(self.decoder.header()?.extra()?).ok()?;
        let last = crate::time::parse_rfc3339(note.get("lastTime")?.as_str()?)?;
        // Nobody's time, and Go's zero.
        (last > 0).then_some(last)
    }

    fn read_at(&mut self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        if FROM_MEMORY.get().is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if offset < self.offset {
            *self = Gzip::new(self.file.clone());
        }
        let skip = offset - self.offset;
        if skip > 0 {
            let skipped = io::copy(&mut self.decoder.by_ref().take(skip), &mut io::sink())?;
            self.offset += skipped;
            if skipped < skip {
                return Ok(0);
            }
        }
        let mut got = 0;
        while got < out.len() {
            match self.decoder.read(&mut out[got..]) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if got == 0 => return Err(e),
                // What was read before the damage counts; the next read finds the damage again.
                Err(_) => break,
            }
        }
        self.offset += got as u64;
        Ok(got)
    }
}

impl Data {
    /// Reads as much as there is.
    pub(super) fn read_at(&mut self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Data::File(file) => read_at(file, out, offset),
            Data::Gzip(gzip) => gzip.read_at(out, offset),
        }
    }

    fn gzip(file: File) -> Data {
        Data::Gzip(Box::new(Gzip::new(Arc::new(file))))
    }
}

/// What a file holds is at fault, not the reading: compressed data that are not, a file that is shorter than it was.
pub(super) fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

thread_local! {
    /// What this thread may still read, if it may not wait for a disk.
    static FROM_MEMORY: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Reads without waiting for a disk, at most `bytes`: where that does not do, a read of `read` fails with `WouldBlock`.
pub(super) fn from_memory<R>(bytes: usize, read: impl FnOnce() -> R) -> R {
    /// Also after a panic.
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            FROM_MEMORY.set(None);
        }
    }
    FROM_MEMORY.set(Some(bytes));
    let _reset = Reset;
    read()
}

fn read_some(file: &File, data: &mut [u8], offset: u64) -> io::Result<usize> {
    let Some(left) = FROM_MEMORY.get() else {
        return file.read_at(data, offset);
    };
    let left = left
        .checked_sub(data.len())
        .ok_or(io::ErrorKind::WouldBlock)?;
    let mut data = [IoSliceMut::new(data)];
    match preadv2(file, &mut data, offset, ReadWriteFlags::NOWAIT) {
        Ok(got) => {
            FROM_MEMORY.set(Some(left));
            Ok(got)
        }
        // A file system that cannot say whether it would wait.
        Err(Errno::OPNOTSUPP) => Err(io::ErrorKind::WouldBlock.into()),
        Err(e) => Err(e.into()),
    }
}

/// Reads as much as there is.
pub(crate) fn read_at(file: &File, data: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < data.len() {
        match read_some(file, &mut data[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

/// A stretch of a file.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) data: Data,
    /// A number that no other file of the log has.
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    /// Past the end of a compressed file, whose length nobody knows.
    pub(crate) end: u64,
    /// What is needed to read frames.
    pub(super) frames: Option<Frames>,
    /// What is read from the file, before it is rendered.
    pub(super) scratch: Vec<u8>,
}

impl Source {
    /// What of a segment is committed and not queued yet.
    pub(super) fn of(segment: &Segment, offset: u64, end: u64) -> Source {
        Source {
            data: Data::File(segment.file.clone()),
            segment: segment.id,
            offset,
            end,
            frames: segment.index.clone().map(|file| Frames::new(Some(file))),
            scratch: Vec::new(),
        }
    }

    /// A whole file of records.
    fn json(file: File) -> io::Result<Source> {
        let stat = file.metadata()?;
        Ok(Source {
            data: Data::File(Arc::new(file)),
            segment: stat.ino(),
            offset: 0,
            end: stat.len(),
            frames: None,
            scratch: Vec::new(),
        })
    }

    fn json_gzip(file: File) -> io::Result<Source> {
        Ok(Source {
            segment: file.metadata()?.ino(),
            data: Data::gzip(file),
            offset: 0,
            end: u64::MAX,
            frames: None,
            scratch: Vec::new(),
        })
    }
}

/// The file, if there is one.
fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// What a log has now, and how to go on from there. Everything is opened at once, without a wait in between, so that no
/// rotation comes between.
pub(crate) fn of_log(state: &Rc<LogState>) -> io::Result<(Vec<Source>, Follow)> {
    let _names = state.lock_names()?;
    let segment = state.current.borrow().clone();
    let queued = segment.committed.get();
    let mut sources = match state.format {
        Format::Json => shifted(&state.path)?,
        Format::Frames => numbered_before(&state.path, segment.id)?,
    };
    // Another thread may have rotated it meanwhile, in a write that is not committed.
    if let Some(at) = sources.iter().position(|s| s.segment == segment.id) {
        sources.truncate(at);
    }
    sources.push(Source::of(&segment, 0, queued));
    Ok((sources, Follow::new(state.clone(), segment, queued)))
}

/// What the files of a log hold that nobody writes to.
pub(crate) fn of_files(path: &Path, format: Format) -> io::Result<Vec<Source>> {
    match format {
        Format::Json => {
            let mut sources = shifted(path)?;
            if let Some(file) = open_if_there(path)? {
                sources.push(Source::json(file)?);
            }
            Ok(sources)
        }
        Format::Frames => numbered_before(path, u64::MAX),
    }
}

/// Leaves out what was written after a position; a position in none of the files leaves out nothing.
pub(super) fn cut(sources: &mut Vec<Source>, end: LogPosition) {
    if let Some(at) = sources.iter().position(|s| s.segment == end.file_id) {
        sources.truncate(at + 1);
        sources[at].end = sources[at].end.min(end.bytes);
    }
}

/// Rotated files of Docker's names, oldest first.
fn shifted(path: &Path) -> io::Result<Vec<Source>> {
    let mut sources = Vec::new();
    // A kill in the middle of a rotation may have left one number free.
    let mut missing = 0;
    for n in 1.. {
        if let Some(file) = open_if_there(&rotated(path, n))? {
            sources.push(Source::json(file)?);
            missing = 0;
        } else if let Some(file) = open_if_there(&compressed(path, n))? {
            sources.push(Source::json_gzip(file)?);
            missing = 0;
        } else if missing == 0 {
            missing = 1;
        } else {
            break;
        }
    }
    sources.reverse();
    Ok(sources)
}

/// Segments with a number below `before`, oldest first.
fn numbered_before(base: &Path, before: u64) -> io::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for n in numbered::numbers(base)? {
        if n >= before {
            break;
        }
        let index = open_if_there(&numbered::index_path(base, n))?.map(Arc::new);
        let (data, end) = match open_if_there(&numbered::data_path(base, n))? {
            Some(file) => {
                let end = file.metadata()?.len();
                (Data::File(Arc::new(file)), end)
            }
            None => match open_if_there(&numbered::compressed_path(base, n))? {
                Some(file) => (Data::gzip(file), Index::end_of(index.as_deref(), n)?),
                None => continue,
            },
        };
        sources.push(Source {
            data,
            segment: n,
            offset: 0,
            end,
            frames: Some(Frames::new(index)),
            scratch: Vec::new(),
        });
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_more_than_allowed_is_not_read_from_memory() {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(&[7; 100]).expect("write");
        let mut data = [0; 60];
        let (first, second) = from_memory(100, || {
            (read_at(&file, &mut data, 0), read_at(&file, &mut data, 40))
        });
        let kind = |read: io::Result<usize>| read.map_err(|e| e.kind());
        // A file system may not know what is in memory.
        assert!([Ok(60), Err(io::ErrorKind::WouldBlock)].contains(&kind(first)));
        assert_eq!(kind(second), Err(io::ErrorKind::WouldBlock));
        assert_eq!(read_at(&file, &mut data, 90).expect("read"), 10);
    }
}
