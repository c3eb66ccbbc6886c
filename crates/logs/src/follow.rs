//! A log as a sequence of records from a saved place on: for drivers that send it elsewhere.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use gantry_rt::LocalBoxFuture;
use gantry_rt::workers::WorkerGone;

use crate::read::{Follow, More, Source, of_log};
use crate::record::{Cursor, Parts, Record};
use crate::segment::{Format, LogState};

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

/// Tries to read a place that cannot be read, before the rest of its file is left out.
const MAX_READ_TRIES: u32 = 30;

/// What a worker hands back.
type Read = (Source, io::Result<(Batch, bool)>);

/// Reads a log that the daemon writes, from a saved place on and then as it grows. Ends when the output has ended and
/// everything was given out. Dropping it, or a call of `next`, loses nothing: the last batch's cursor is the place.
pub struct Follower {
    sources: VecDeque<Source>,
    reading: Option<LocalBoxFuture<'static, Result<Read, WorkerGone>>>,
    follow: Follow,
    cursor: Cursor,
    lost_segments: u64,
    /// Tries in a row that failed.
    failed: u32,
    /// Read at once; of a file of lines more.
    chunk_bytes: Option<u64>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl Follower {
    /// From `from` on; without, from the oldest record that is left. A place that is no longer there is the oldest
    /// record, too, and the first batch says so.
    pub fn open(state: &Rc<LogState>, from: Option<Cursor>) -> io::Result<Follower> {
        let (sources, follow) = of_log(state)?;
        let mut sources = VecDeque::from(sources);
        let mut lost_segments = 0;
        let mut cursor = Cursor::default();
        if let Some(from) = from {
            if sources.iter().any(|s| s.segment == from.segment) {
                sources.retain({
                    let mut seen = false;
                    move |s| {
                        seen |= s.segment == from.segment;
                        seen
                    }
                });
                if let Some(first) = sources.front_mut() {
                    first.offset = from.offset.min(first.end);
                }
                cursor = from;
            } else {
                // Inode numbers say nothing of how many.
                lost_segments = match state.format {
                    Format::Json => 1,
                    Format::Frames => {
                        let oldest = sources.front().map_or(0, |s| s.segment);
                        oldest.saturating_sub(from.segment).max(1)
                    }
                };
            }
        }
        Ok(Follower {
            sources,
            reading: None,
            follow,
            cursor,
            lost_segments,
            failed: 0,
            chunk_bytes: None,
        })
    }

    /// Reads about so many bytes at once from here on, where the log's form allows it.
    pub fn set_chunk_bytes(&mut self, bytes: u64) {
        self.chunk_bytes = Some(bytes);
    }

    /// Where the next record is.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// What comes next; waits for it. `None`: the output has ended. After an error the next call tries the same place
    /// again; when that has failed [`MAX_READ_TRIES`] times, the rest of the segment is left out and counts as lost.
    pub async fn next(&mut self) -> Option<io::Result<Batch>> {
        loop {
            if self.reading.is_none() && !self.begin() {
                let known = self.follow.state.signal.count();
                match self.follow.more() {
                    Some(More::Source(source)) => self.sources.push_back(source),
                    Some(More::Lost(_, segments)) => self.lost_segments += segments,
                    None if self.follow.state.closed.get() => return None,
                    None => self.follow.state.signal.changed(known).await,
                }
                continue;
            }
            let Some(reading) = &mut self.reading else {
                continue;
            };
            let read = reading.await;
            self.reading = None;
            let (source, mut batch, at_end) = match read {
                Ok((source, Ok((batch, at_end)))) => (source, batch, at_end),
                Ok((source, Err(e))) => {
                    self.failed += 1;
                    if self.failed < MAX_READ_TRIES {
                        self.sources.push_front(source);
                    } else {
                        self.failed = 0;
                        self.lost_segments += 1;
                    }
                    return Some(Err(e));
                }
                Err(e) => {
                    self.lost_segments += 1;
                    return Some(Err(io::Error::other(e)));
                }
            };
            self.failed = 0;
            self.cursor = batch.cursor;
            if !at_end {
                self.sources.push_front(source);
            }
            if !batch.records.is_empty() || batch.torn > 0 {
                batch.lost_segments = std::mem::take(&mut self.lost_segments);
                return Some(Ok(batch));
            }
        }
    }

    /// Begins to read the next chunk; false if there is none.
    fn begin(&mut self) -> bool {
        let Some(mut source) = self.sources.pop_front() else {
            return false;
        };
        let parts = self.cursor.parts;
        if let Some(bytes) = self.chunk_bytes {
            source.limit_chunk(bytes);
        }
        self.reading = Some(Box::pin(gantry_rt::workers::run(move || {
            let batch = read_records(&mut source, parts);
            (source, batch)
        })));
        true
    }
}

/// One chunk's records, and whether the source has no more. Runs on a worker.
fn read_records(source: &mut Source, mut parts: Parts) -> io::Result<(Batch, bool)> {
    let (records, torn, at_end) = source.records(&mut parts)?;
    let batch = Batch {
        records,
        cursor: Cursor {
            segment: source.segment,
            offset: source.offset,
            parts,
        },
        torn,
        lost_segments: 0,
    };
    Ok((batch, at_end))
}
