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
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use gantry_rt::LocalBoxFuture;
use gantry_rt::workers::{self, WorkerGone};
use gantry_stream::{LogPosition, Stream, unix_time_ns};

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

/// A log as it is now, to be read on any shard.
#[derive(Debug)]
pub struct LogFiles {
    sources: Vec<Source>,
    query: LogQuery,
}

impl LogFiles {
    /// Of a container that the daemon has open.
    pub fn of(state: &Rc<LogState>, query: LogQuery) -> io::Result<LogFiles> {
        let (sources, _) = of_log(state)?;
        Ok(LogFiles { sources, query })
    }

    /// Of a container that nobody writes to.
    pub fn of_path(path: &Path, format: Format, query: LogQuery) -> io::Result<LogFiles> {
        let sources = source::of_files(path, format)?;
        Ok(LogFiles { sources, query })
    }

    /// Without what was written after this position.
    pub fn up_to(mut self, end: Option<LogPosition>) -> LogFiles {
        if let Some(end) = end {
            source::cut(&mut self.sources, end);
        }
        self
    }

    /// Reads them, on this shard.
    pub fn read(self) -> LogStream {
        LogStream::new(self.sources, self.query, None)
    }
}

/// Reads the log of a container that nobody writes to, on this thread: for tests and tools. With the number of records
/// that were skipped.
pub fn read_at_once(path: &Path, format: Format, query: &LogQuery) -> io::Result<(Vec<u8>, u64)> {
    let (mut out, mut torn) = (Vec::new(), 0);
    let mut sources = source::of_files(path, format)?.into();
    seek(&mut sources, query)?;
    for mut source in sources {
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

/// What a worker hands back: what is left to be read, and a piece of it.
type Read = Result<(VecDeque<Source>, io::Result<Chunk>), WorkerGone>;

/// Log content as it goes on the wire, piece by piece. The next piece is read while one is sent.
pub struct LogStream {
    sources: VecDeque<Source>,
    query: Arc<LogQuery>,
    follow: Option<Follow>,
    /// Has all sources.
    reading: Option<LocalBoxFuture<'static, Read>>,
    begun: bool,
    ended: bool,
    torn: u64,
}

impl std::fmt::Debug for LogStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStream")
            .field("sources", &self.sources)
            .field("query", &self.query)
            .finish_non_exhaustive()
    }
}

impl LogStream {
    fn new(sources: Vec<Source>, query: LogQuery, follow: Option<Follow>) -> LogStream {
        LogStream {
            sources: sources.into(),
            query: Arc::new(query),
            follow,
            reading: None,
            begun: false,
            ended: false,
            torn: 0,
        }
    }

    /// Records that could not be read and were skipped.
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// The next piece; `None` at the end (following: when the container's output has ended). A call that is given up loses
    /// nothing.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        while !self.ended {
            self.begin();
            let Some(reading) = &mut self.reading else {
                if let Some(gap) = self.wait().await {
                    return Some(Ok(gap));
                }
                continue;
            };
            let read = reading.await;
            self.reading = None;
            let chunk = match read {
                Ok((sources, Ok(chunk))) => {
                    self.sources = sources;
                    chunk
                }
                Ok((_, Err(e))) => return self.fail(e),
                Err(e) => return self.fail(io::Error::other(e)),
            };
            self.count(&chunk);
            self.ended |= chunk.past_until;
            if !chunk.out.is_empty() {
                if !self.ended {
                    self.begin();
                }
                return Some(Ok(chunk.out));
            }
        }
        None
    }

    /// Reads the next chunk, if there is one and it is not being read yet: at once if it is in memory, else on a worker.
    fn begin(&mut self) {
        if self.reading.is_some() || self.sources.is_empty() {
            return;
        }
        if self.is_short()
            && let Some(chunk) = self.read_memory()
        {
            let sources = std::mem::take(&mut self.sources);
            self.reading = Some(Box::pin(std::future::ready(Ok((sources, Ok(chunk))))));
            return;
        }
        let (mut sources, query) = (std::mem::take(&mut self.sources), self.query.clone());
        let begun = std::mem::replace(&mut self.begun, true);
        let mut reading: LocalBoxFuture<'static, Read> = Box::pin(workers::run(move || {
            let chunk = match begun {
                true => read_chunk(&mut sources, &query),
                false => seek(&mut sources, &query).and_then(|()| read_chunk(&mut sources, &query)),
            };
            (sources, chunk)
        }));
        // Asked once, it is on its way; who waits for it asks again.
        if let Poll::Ready(read) = reading
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            reading = Box::pin(std::future::ready(read));
        }
        self.reading = Some(reading);
    }

    /// The first chunk, which may be all that is wanted, or what was just written.
    fn is_short(&self) -> bool {
        let left = |s: &Source| s.end.saturating_sub(s.offset);
        !self.begun || self.sources.front().map_or(0, left) <= FROM_MEMORY_BYTES as u64
    }

    /// A chunk that can be read without waiting for a disk or for long.
    fn read_memory(&mut self) -> Option<Chunk> {
        source::from_memory(FROM_MEMORY_BYTES, || {
            if !self.begun {
                seek(&mut self.sources, &self.query).ok()?;
                self.begun = true;
            }
            // Whatever is wrong, a worker finds it again.
            read_chunk(&mut self.sources, &self.query).ok()
        })
    }

    fn count(&mut self, chunk: &Chunk) {
        if chunk.torn == 0 {
            return;
        }
        if self.torn == 0 {
            let segment = chunk.segment;
            tracing::warn!(segment, "a log has damaged records, which are skipped");
        }
        self.torn += chunk.torn;
        count_torn(chunk.torn);
    }

    fn fail(&mut self, e: io::Error) -> Option<io::Result<Bytes>> {
        self.ended = true;
        Some(Err(e))
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
        text: render::Text::Plain(&text),
        attrs: &attrs,
        gap: true,
    };
    let mut out = Vec::new();
    render::render(&mut out, &item, query);
    out.into()
}

#[derive(Debug, Default)]
struct Chunk {
    out: Bytes,
    torn: u64,
    past_until: bool,
    at_end: bool,
    /// Where this is from.
    segment: u64,
}

/// Most that is read and rendered on a shard.
const FROM_MEMORY_BYTES: usize = 192 * 1024;

/// Reads and renders one chunk.
fn read_chunk(sources: &mut VecDeque<Source>, query: &LogQuery) -> io::Result<Chunk> {
    let Some(source) = sources.front_mut() else {
        return Ok(Chunk::default());
    };
    let mut chunk = source.chunk(query)?;
    chunk.segment = source.segment;
    if chunk.at_end {
        sources.pop_front();
    }
    Ok(chunk)
}

impl Source {
    /// Reads and renders one chunk.
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

/// Leaves out what the client does not want, without reading it. After an error it can be done again.
fn seek(sources: &mut VecDeque<Source>, query: &LogQuery) -> io::Result<()> {
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
        for source in sources {
            match source.frames {
                Some(_) => source.frames_since(since_ns)?,
                None => source.json_since(since_ns)?,
            }
        }
    }
    Ok(())
}
