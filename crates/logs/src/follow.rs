//! A log as a sequence of records from a saved place on: for drivers that send it elsewhere.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use crate::json;
use crate::read::{Follow, Source, disk_sources, read_at};
use crate::record::{Cursor, Parts, Record};
use crate::segment::LogState;

/// Read from a file at once.
const CHUNK_BYTES: usize = 128 * 1024;

/// Records that follow each other, and where the next one is.
#[derive(Debug)]
pub struct Batch {
    /// In the order of the log.
    pub records: Vec<Record>,
    /// To be saved when these are delivered.
    pub cursor: Cursor,
    /// Records before these that could not be read and were skipped.
    pub torn: u64,
    /// The cursor named a place that rotation has removed, or the follower was too slow: records are missing before these.
    pub lost_segments: u64,
}

/// Reads a log that the daemon writes, from a saved place on and then as it grows. Ends when the output has ended and
/// everything was given out. Dropping it between two batches loses nothing: the last batch's cursor is the place.
#[derive(Debug)]
pub struct Follower {
    sources: VecDeque<Source>,
    follow: Follow,
    cursor: Cursor,
    lost_segments: u64,
}

impl Follower {
    /// From `from` on; without, from the oldest record that is left. A place that is no longer there is the oldest
    /// record, too, and the first batch says so.
    pub fn open(state: &Rc<LogState>, from: Option<Cursor>) -> io::Result<Follower> {
        let (sources, follow) = disk_sources(state)?;
        let mut sources = VecDeque::from(sources);
        let mut follower = Follower {
            sources: VecDeque::new(),
            follow,
            cursor: from.unwrap_or_default(),
            lost_segments: 0,
        };
        if let Some(from) = from {
            if sources.iter().any(|s| s.segment == from.segment) {
                while sources.front().is_some_and(|s| s.segment != from.segment) {
                    sources.pop_front();
                }
                if let Some(first) = sources.front_mut() {
                    first.offset = from.offset.min(first.end);
                }
            } else {
                follower.lost_segments = 1;
            }
        }
        follower.sources = sources;
        Ok(follower)
    }

    /// Where the next record is.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// What comes next; waits for it. `None`: the output has ended. It may be called again after an error.
    pub async fn next(&mut self) -> Option<io::Result<Batch>> {
        loop {
            let Some(source) = self.sources.front().cloned() else {
                let known = self.follow.state.signal.count();
                if let Some(source) = self.follow.more() {
                    self.lost_segments += self.follow.take_lost();
                    self.sources.push_back(source);
                } else if self.follow.state.closed.get() {
                    return None;
                } else {
                    self.follow.state.signal.changed(known).await;
                }
                continue;
            };
            let parts = self.cursor.parts;
            let read = gantry_rt::workers::run(move || read_records(&source, parts)).await;
            let (mut batch, at_end) = match read.map_err(io::Error::other) {
                Ok(Ok(read)) => read,
                Ok(Err(e)) | Err(e) => return Some(Err(e)),
            };
            self.cursor = batch.cursor;
            if at_end {
                self.sources.pop_front();
            } else if let Some(front) = self.sources.front_mut() {
                front.offset = batch.cursor.offset;
            }
            if !batch.records.is_empty() || batch.torn > 0 {
                batch.lost_segments = std::mem::take(&mut self.lost_segments);
                return Some(Ok(batch));
            }
        }
    }
}

/// One chunk's records, and whether the source has no more. Runs on a worker.
fn read_records(source: &Source, mut parts: Parts) -> io::Result<(Batch, bool)> {
    let left = source.end.saturating_sub(source.offset);
    let len = usize::try_from(left)
        .unwrap_or(CHUNK_BYTES)
        .min(CHUNK_BYTES);
    let mut data = vec![0; len];
    let got = read_at(&source.file, &mut data, source.offset)?;
    let data = &data[..got];
    // Less than there should be: somebody has emptied the file.
    let at_end = got < len || got as u64 >= left;
    let used = match data.iter().rposition(|b| *b == b'\n') {
        Some(last) if !at_end => last + 1,
        _ => got,
    };
    let mut batch = Batch {
        records: Vec::new(),
        cursor: Cursor {
            segment: source.segment,
            offset: source.offset + used as u64,
            parts,
        },
        torn: 0,
        lost_segments: 0,
    };
    for line in data[..used].split_inclusive(|b| *b == b'\n') {
        let Some((record, time_ns)) = json::decode(line) else {
            batch.torn += 1;
            continue;
        };
        let stream = record.stream();
        let mut text = record.log.as_bytes();
        let partial = parts.next(stream, time_ns, &mut text);
        batch.records.push(Record {
            time_ns,
            stream,
            bytes: Bytes::copy_from_slice(text),
            partial,
            gap: false,
        });
    }
    batch.cursor.parts = parts;
    Ok((batch, at_end))
}
