//! Reading segments of frames by their index.
//!
//! Everything goes run by run: a run that is damaged is left behind at the next one's beginning, which the index knows.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::frames::{MAX_RECORD_BYTES, Walk};
use crate::index::{Entry, Index, RUN_BYTES, What};
use crate::record::{Parts, Record};

use super::render::{Item, Text, render};
use super::source::{Data, Source, is_damage};
use super::{Chunk, LogQuery};

/// Read from a file at once, if it is not a single run.
const CHUNK_BYTES: u64 = 512 * 1024;
/// Entries looked at for one chunk.
const MAX_CHUNK_RUNS: u64 = 4096;
/// Entries that mostly are a chunk.
const FEW_RUNS: u64 = 64;
/// No run of ours is longer.
const MAX_RUN_BYTES: u64 = (RUN_BYTES + MAX_RECORD_BYTES) as u64;

/// A place in a segment of frames.
#[derive(Debug)]
pub(crate) struct Frames {
    file: Option<Arc<File>>,
    /// Opened when it is needed, on a worker; with the next run.
    open: Option<(Index, u64)>,
    /// Records of the next run that are not wanted.
    skip: u64,
    chunk_bytes: u64,
}

impl Frames {
    pub(super) fn new(index: Option<Arc<File>>) -> Frames {
        Frames {
            file: index,
            open: None,
            skip: 0,
            chunk_bytes: CHUNK_BYTES,
        }
    }
}

/// What walking through a segment found.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(crate) entries: Vec<Entry>,
    /// Where its last whole frame ends.
    pub(crate) end: u64,
    pub(crate) records: u64,
    pub(crate) last_time_ns: u64,
}

/// Walks through a segment frame by frame, from `from` on; without, from its beginning with times made up from the
/// file's, which gives the entries for an index that is lost.
pub(crate) fn rebuild(file: &Arc<File>, from: Option<Entry>, end: u64) -> io::Result<Walked> {
    let time_ns = match (from, file.metadata()?.modified()) {
        (Some(entry), _) => entry.time_ns,
        (None, Ok(time)) => {
            let since = time.duration_since(std::time::UNIX_EPOCH);
            since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(0))
        }
        (None, Err(_)) => 0,
    };
    walk(&mut Data::File(file.clone()), from, end, time_ns)
}

fn walk(data: &mut Data, from: Option<Entry>, end: u64, time_ns: u64) -> io::Result<Walked> {
    let mut walked = Walked {
        end: from.map_or(0, |e| e.offset),
        records: from.map_or(0, |e| e.record),
        last_time_ns: from.map_or(0, |e| e.clock_ns),
        ..Walked::default()
    };
    let first = walked.records;
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    while walked.end < end {
        let want = buffer
            .len()
            .min(usize::try_from(end - walked.end).unwrap_or(usize::MAX));
        let got = data.read_at(&mut buffer[..want], walked.end)?;
        let mut frames = Walk::new(&buffer[..got]);
        for frame in frames.by_ref() {
            let time_ns = time_ns.saturating_add(walked.records - first);
            let goes_on = walked.entries.last().is_some_and(|last: &Entry| {
                last.what == What::Output(frame.stream)
                    && walked.end - last.offset < RUN_BYTES as u64
            });
            if from.is_none() && !goes_on {
                walked.entries.push(Entry {
                    offset: walked.end,
                    record: walked.records,
                    time_ns,
                    clock_ns: walked.last_time_ns,
                    what: What::Output(frame.stream),
                });
            }
            walked.end += frame.whole.len() as u64;
            walked.records += 1;
            walked.last_time_ns = walked.last_time_ns.max(time_ns);
        }
        if frames.rest().len() == got {
            if got < want || want as u64 >= MAX_RUN_BYTES || got as u64 >= end - walked.end {
                break;
            }
            // One frame that is longer than the buffer, or damage that looks like one.
            buffer.resize(MAX_RUN_BYTES as usize, 0);
        }
    }
    Ok(walked)
}

impl Source {
    /// The index and the next run. Runs on a worker, as everything below.
    fn index(&mut self) -> io::Result<(Index, u64)> {
        let Some(frames) = &mut self.frames else {
            return Err(io::Error::other("not a segment of frames"));
        };
        if let Some((index, next)) = &frames.open {
            return Ok((index.clone(), *next));
        }
        let found = match &frames.file {
            Some(file) => Index::open(file.clone(), self.segment, self.end)?,
            None => None,
        };
        let index = match found {
            Some(index) => index,
            None => {
                let walked = match &self.data {
                    Data::File(file) => rebuild(&file.clone(), None, self.end)?,
                    Data::Gzip(_) => walk(&mut self.data, None, self.end, 0)?,
                };
                tracing::warn!(
                    segment = self.segment,
                    "a log segment is read without its index; times of its records are lost"
                );
                Index::of(walked.entries)
            }
        };
        let next = match self.offset {
            0 => 0,
            from => index.partition(|e| e.offset < from)?,
        };
        if let Some(frames) = &mut self.frames {
            frames.open = Some((index.clone(), next));
        }
        Ok((index, next))
    }

    fn go_to(&mut self, run: u64, skip: u64) {
        if let Some(frames) = &mut self.frames {
            if let Some((_, next)) = &mut frames.open {
                *next = run;
            }
            frames.skip = skip;
        }
    }

    /// Reads no more than this at once from here on, if it is not a single run.
    pub(crate) fn limit_chunk(&mut self, bytes: u64) {
        if let Some(frames) = &mut self.frames {
            frames.chunk_bytes = bytes.min(CHUNK_BYTES);
        }
    }

    /// Leaves out what is surely older.
    pub(super) fn frames_since(&mut self, since_ns: u64) -> io::Result<()> {
        let (index, next) = self.index()?;
        let older = index.partition(|e| e.clock_ns < since_ns)?;
        self.go_to(next.max(older.saturating_sub(1)), 0);
        Ok(())
    }

    /// Leaves the last `left` records; false if there are fewer, and `left` is how many are missing.
    pub(super) fn frames_tail(&mut self, left: &mut u64) -> io::Result<bool> {
        let (index, _) = self.index()?;
        let Some(last) = index.len().checked_sub(1) else {
            return Ok(false);
        };
        let total = match index.closing(self.end)? {
            Some(closing) => closing.record,
            None => {
                let last = index.get(last)?;
                walk(&mut self.data, Some(last), self.end, 0)?.records
            }
        };
        if total <= *left {
            *left -= total;
            return Ok(*left == 0);
        }
        let first = total - *left;
        let run = index.partition(|e| e.record <= first)?.saturating_sub(1);
        let skip = first.saturating_sub(index.get(run)?.record);
        self.go_to(run, skip);
        *left = 0;
        Ok(true)
    }

    /// The next runs and their bytes; and whether they are the last ones.
    fn next_runs(&mut self) -> io::Result<Runs> {
        let chunk_bytes = self.frames.as_ref().map_or(CHUNK_BYTES, |f| f.chunk_bytes);
        let (index, next) = self.index()?;
        let mut entries = index.load(next, FEW_RUNS + 1)?;
        if let (Some(first), Some(last)) = (entries.first(), entries.last())
            && last.offset <= first.offset + CHUNK_BYTES
        {
            entries = index.load(next, MAX_CHUNK_RUNS + 1)?;
        }
        let all = next + entries.len() as u64 >= index.len();
        let mut count = match all {
            true => entries.len(),
            false => entries.len().saturating_sub(1),
        };
        let Some(first) = entries.first().copied() else {
            return Ok(Runs {
                at_end: true,
                ..Runs::default()
            });
        };
        // As many as fit, but one at least.
        let ends = |n: usize| entries.get(n + 1).map_or(self.end, |e| e.offset);
        let fitting = (0..count)
            .take_while(|n| ends(*n) <= first.offset + chunk_bytes)
            .count();
        count = fitting.max(1).min(count);
        let end = ends(count - 1);
        let at_end = all && count == entries.len();
        entries.truncate(count);
        let len = end
            .min(self.end)
            .saturating_sub(first.offset)
            .min(CHUNK_BYTES.max(MAX_RUN_BYTES));
        // A segment that is compressed and has no closing entry: to where the data end.
        let mut data = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let got = self.data.read_at(&mut data, first.offset)?;
        let torn = u64::from((got as u64) < end.saturating_sub(first.offset) && end != u64::MAX);
        data.truncate(got);
        let skip = self
            .frames
            .as_mut()
            .map_or(0, |f| std::mem::take(&mut f.skip));
        self.go_to(next + count as u64, 0);
        self.offset = end.min(self.end);
        Ok(Runs {
            entries,
            data,
            skip,
            torn,
            at_end,
        })
    }

    /// As above; a segment that is shorter than it was has been emptied by somebody, and ends here.
    fn next_runs_if_there(&mut self) -> io::Result<Runs> {
        match self.next_runs() {
            Err(e) if is_damage(&e) => Ok(Runs {
                torn: 1,
                at_end: true,
                ..Runs::default()
            }),
            other => other,
        }
    }

    pub(super) fn frames_chunk(&mut self, query: &LogQuery) -> io::Result<Chunk> {
        let mut runs = self.next_runs_if_there()?;
        let mut chunk = Chunk {
            torn: runs.torn,
            at_end: runs.at_end,
            ..Chunk::default()
        };
        if query.wants_frames_as_they_are() && runs.skip == 0 && runs.are_sound() {
            chunk.out = Bytes::from(std::mem::take(&mut runs.data));
            return Ok(chunk);
        }
        let mut out = Vec::with_capacity(runs.data.len());
        chunk.torn += runs.each(|entry, time_ns, frame| {
            if query.is_before(time_ns) {
                return true;
            }
            if query.is_past(time_ns) {
                chunk.past_until = true;
                return false;
            }
            let item = Item {
                stream: frame.stream,
                time_ns,
                text: Text::Plain(frame.text()),
                attrs: b"",
                gap: matches!(entry.what, What::Gap(_)),
            };
            render(&mut out, &item, query);
            true
        });
        chunk.out = out.into();
        Ok(chunk)
    }

    /// The next records; and how many were torn.
    pub(crate) fn frames_records(
        &mut self,
        parts: &mut Parts,
    ) -> io::Result<(Vec<Record>, u64, bool)> {
        let runs = self.next_runs_if_there()?;
        let shared = Bytes::copy_from_slice(&runs.data);
        let mut records = Vec::new();
        let torn = runs.each(|entry, time_ns, frame| {
            let mut text = frame.text();
            let partial = parts.next(frame.stream, time_ns, &mut text);
            let from = text.as_ptr() as usize - runs.data.as_ptr() as usize;
            records.push(Record {
                time_ns,
                stream: frame.stream,
                bytes: shared.slice(from..from + text.len()),
                partial,
                gap: matches!(entry.what, What::Gap(_)),
            });
            true
        });
        Ok((records, torn + runs.torn, runs.at_end))
    }
}

/// Runs that follow each other.
#[derive(Debug, Default)]
struct Runs {
    entries: Vec<Entry>,
    data: Vec<u8>,
    /// Records at the beginning that are not wanted.
    skip: u64,
    torn: u64,
    at_end: bool,
}

impl Runs {
    /// The bytes of each run.
    fn parts(&self) -> impl Iterator<Item = (&Entry, &[u8])> {
        let first = self.entries.first().map_or(0, |e| e.offset);
        self.entries.iter().enumerate().map(move |(n, entry)| {
            let place = |offset: u64| {
                let at = usize::try_from(offset.saturating_sub(first)).unwrap_or(usize::MAX);
                at.min(self.data.len())
            };
            let start = place(entry.offset);
            let end = self
                .entries
                .get(n + 1)
                .map_or(self.data.len(), |e| place(e.offset));
            (entry, self.data.get(start..end).unwrap_or_default())
        })
    }

    /// Every byte belongs to a frame, and every frame is output.
    fn are_sound(&self) -> bool {
        self.torn == 0
            && self.parts().all(|(entry, bytes)| {
                let mut walk = Walk::new(bytes);
                walk.by_ref().for_each(drop);
                walk.rest().is_empty() && matches!(entry.what, What::Output(_))
            })
    }

    /// Calls `see` with each frame and its time, until it answers false; the number of damaged runs.
    fn each(&self, mut see: impl FnMut(&Entry, u64, &crate::frames::Frame<'_>) -> bool) -> u64 {
        let mut torn = 0;
        let mut skip = self.skip;
        for (entry, bytes) in self.parts() {
            let mut walk = Walk::new(bytes);
            for (n, frame) in walk.by_ref().enumerate() {
                if (n as u64) < skip {
                    continue;
                }
                if !see(entry, entry.time_ns.saturating_add(n as u64), &frame) {
                    return torn;
                }
            }
            skip = 0;
            torn += u64::from(!walk.rest().is_empty());
        }
        torn
    }
}
