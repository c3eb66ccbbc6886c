//! Reading logs: whole, the tail, or following the writer.

mod follow;
mod frames;
mod json;
mod render;
mod source;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gantry_stream::{Stream, unix_time_ns};

use crate::loss::{Loss, count_torn};
use crate::record::{Parts, Record};
use crate::segment::{Format, LogState};

pub(crate) use follow::{Follow, More};
pub(crate) use frames::rebuild;
pub(crate) use render::query_escape;
pub(crate) use source::{Source, of_log, read_at};

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Records not before this unix time.
    pub since_ns: Option<u64>,
    /// Records not after this unix time.
    pub until_ns: Option<u64>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// Only so many last records.
    pub tail: Option<u64>,
    /// Go on until the output has ended.
    pub follow: bool,
    /// Each line begins with the container's log attributes.
    pub details: bool,
    /// Raw bytes instead of multiplexed frames.
    pub tty: bool,
}

impl LogQuery {
    fn is_before(&self, time_ns: u64) -> bool {
        self.since_ns.is_some_and(|since| time_ns < since)
    }

    fn is_past(&self, time_ns: u64) -> bool {
        self.until_ns.is_some_and(|until| time_ns > until)
    }

    /// Every record, in the form that segments of frames have.
    fn wants_frames_as_they_are(&self) -> bool {
        let every =
            self.stdout && self.stderr && self.since_ns.is_none() && self.until_ns.is_none();
        every && !self.timestamps && !self.details && !self.tty
    }
}

/// Reads the log of a container that the daemon has open.
pub fn read(state: &Rc<LogState>, query: LogQuery) -> io::Result<LogStream> {
    let (sources, follow) = of_log(state)?;
    let follow = query.follow.then_some(follow);
    Ok(LogStream::new(sources, query, follow))
}

/// Reads the log of a container that nobody writes to.
pub fn read_path(path: &Path, format: Format, query: LogQuery) -> io::Result<LogStream> {
    Ok(LogStream::new(source::of_files(path, format)?, query, None))
}

/// Reads the log of a container that nobody writes to, on this thread: for tests and tools. With the number of records
/// that were skipped.
pub fn read_at_once(path: &Path, format: Format, query: &LogQuery) -> io::Result<(Vec<u8>, u64)> {
    let (mut out, mut torn) = (Vec::new(), 0);
    for mut source in seek(source::of_files(path, format)?.into(), query)? {
        loop {
            let chunk = source.chunk(query)?;
            out.extend_from_slice(&chunk.out);
            torn += chunk.torn;
            if chunk.past_until {
                return Ok((out, torn));
            }
            if chunk.at_end {
                break;
            }
        }
    }
    Ok((out, torn))
}

/// Log content as it goes on the wire, piece by piece.
#[derive(Debug)]
pub struct LogStream {
    sources: VecDeque<Source>,
    query: Arc<LogQuery>,
    follow: Option<Follow>,
    begun: bool,
    ended: bool,
    torn: u64,
}

impl LogStream {
    fn new(sources: Vec<Source>, query: LogQuery, follow: Option<Follow>) -> LogStream {
        LogStream {
            sources: sources.into(),
            query: Arc::new(query),
            follow,
            begun: false,
            ended: false,
            torn: 0,
        }
    }

    /// Records that could not be read and were skipped.
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// The next piece; `None` at the end (following: when the container's output has ended). Not to be called again when
    /// a call was given up.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if !self.begun {
            self.begun = true;
            if let Err(e) = self.seek().await {
                return self.fail(e);
            }
        }
        while !self.ended {
            let Some(mut source) = self.sources.pop_front() else {
                if let Some(gap) = self.wait().await {
                    return Some(Ok(gap));
                }
                continue;
            };
            let query = self.query.clone();
            let read = move || {
                let chunk = source.chunk(&query);
                (source, chunk)
            };
            let (source, chunk) = match gantry_rt::workers::run(read).await {
                Ok((source, Ok(chunk))) => (source, chunk),
                Ok((_, Err(e))) => return self.fail(e),
                Err(e) => return self.fail(io::Error::other(e)),
            };
            if chunk.torn > 0 {
                if self.torn == 0 {
                    let segment = source.segment;
                    tracing::warn!(segment, "a log has damaged records, which are skipped");
                }
                self.torn += chunk.torn;
                count_torn(chunk.torn);
            }
            self.ended |= chunk.past_until;
            if !chunk.at_end {
                self.sources.push_front(source);
            }
            if !chunk.out.is_empty() {
                return Some(Ok(chunk.out));
            }
        }
        None
    }

    fn fail(&mut self, e: io::Error) -> Option<io::Result<Bytes>> {
        self.ended = true;
        Some(Err(e))
    }

    /// Leaves out what the client does not want, without reading it.
    async fn seek(&mut self) -> io::Result<()> {
        if self.query.tail.is_none() && self.query.since_ns.is_none() {
            return Ok(());
        }
        let sources = std::mem::take(&mut self.sources);
        let query = self.query.clone();
        let seek = gantry_rt::workers::run(move || seek(sources, &query));
        self.sources = seek.await.map_err(io::Error::other)??;
        Ok(())
    }

    /// Everything known is read: waits for more, or ends. With what is said of what was lost.
    async fn wait(&mut self) -> Option<Bytes> {
        let Some(follow) = &mut self.follow else {
            self.ended = true;
            return None;
        };
        let known = follow.state.signal.count();
        match follow.more() {
            Some(More::Source(source)) => self.sources.push_back(source),
            Some(More::Lost(loss, _)) => return Some(gap(&loss, &self.query)),
            None if follow.state.closed.get() => self.ended = true,
            None => {
                let changed = follow.state.signal.changed(known);
                if let Some(until) = self.query.until_ns {
                    let left = Duration::from_nanos(until.saturating_sub(unix_time_ns()));
                    self.ended = left.is_zero() || gantry_rt::timeout(left, changed).await.is_err();
                } else {
                    changed.await;
                }
            }
        }
        None
    }
}

/// What a client is told that was too slow.
fn gap(loss: &Loss, query: &LogQuery) -> Bytes {
    let attrs = loss.attributes();
    let mut text = loss.text().into_bytes();
    text.push(b'\n');
    let item = render::Item {
        stream: Stream::Stderr,
        time_ns: unix_time_ns(),
        text: &text,
        escaped: false,
        attrs: &attrs,
        gap: true,
    };
    let mut out = BytesMut::new();
    render::render(&mut out, &item, query);
    out.freeze()
}

#[derive(Debug, Default)]
struct Chunk {
    out: Bytes,
    torn: u64,
    past_until: bool,
    at_end: bool,
}

impl Source {
    /// Reads and renders one chunk. Runs on a worker.
    fn chunk(&mut self, query: &LogQuery) -> io::Result<Chunk> {
        match self.frames {
            Some(_) => self.frames_chunk(query),
            None => self.json_chunk(query),
        }
    }
}

impl Source {
    /// The next records, how many were torn, and whether these were the last ones. Runs on a worker.
    pub(crate) fn records(&mut self, parts: &mut Parts) -> io::Result<(Vec<Record>, u64, bool)> {
        match self.frames {
            Some(_) => self.frames_records(parts),
            None => self.json_records(parts),
        }
    }
}

/// Leaves the last records of the sources that are wanted. Runs on a worker.
fn seek(mut sources: VecDeque<Source>, query: &LogQuery) -> io::Result<VecDeque<Source>> {
    if let Some(mut left) = query.tail {
        let mut first = sources.len();
        while left > 0 && first > 0 {
            first -= 1;
            let source = &mut sources[first];
            let found = match source.frames {
                Some(_) => source.frames_tail(&mut left)?,
                None => source.json_tail(&mut left)?,
            };
            if found {
                break;
            }
        }
        sources.drain(..first);
    }
    // Of the tail, what is not too old: the first source may begin in the middle.
    if let (None, Some(since_ns)) = (query.tail, query.since_ns) {
        for source in &mut sources {
            match source.frames {
                Some(_) => source.frames_since(since_ns)?,
                None => source.json_since(since_ns)?,
            }
        }
    }
    Ok(sources)
}
