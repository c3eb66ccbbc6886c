//! Reading logs: whole, the tail, or following the writer.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gantry_stream::{Stream, mux, unix_time_ns};

use crate::segment::{LogState, Segment, rotated};
use crate::{json, time};

/// Read from a file at once; longer than any record we write.
const CHUNK_BYTES: usize = 512 * 1024;

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

/// A file to read, and how far.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) file: Arc<File>,
    /// A number that no other file of the log has.
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) end: u64,
}

/// Reads the log of a container that the daemon has open.
pub fn read(state: &Rc<LogState>, query: LogQuery) -> io::Result<LogStream> {
    let (sources, follow) = disk_sources(state)?;
    let follow = query.follow.then_some(follow);
    Ok(LogStream::new(sources, query, follow))
}

/// What a log has now, and how to go on from there.
pub(crate) fn disk_sources(state: &Rc<LogState>) -> io::Result<(Vec<Source>, Follow)> {
    let mut sources = rotated_sources(&state.path)?;
    let segment = state.current.borrow().clone();
    let queued = segment.committed.get();
    sources.push(Source {
        file: segment.file.clone(),
        segment: segment.id,
        offset: 0,
        end: queued,
    });
    let follow = Follow {
        state: state.clone(),
        segment,
        queued,
        lost: 0,
        said_lost: false,
    };
    Ok((sources, follow))
}

/// Reads the log of a container that nobody writes to.
pub fn read_path(path: &Path, query: LogQuery) -> io::Result<LogStream> {
    let mut sources = rotated_sources(path)?;
    match File::open(path) {
        Ok(file) => sources.push(whole(file)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok(LogStream::new(sources, query, None))
}

fn whole(file: File) -> io::Result<Source> {
    let stat = file.metadata()?;
    Ok(Source {
        file: Arc::new(file),
        segment: stat.ino(),
        offset: 0,
        end: stat.len(),
    })
}

/// Rotated files, oldest first. Opened at once, without a wait in between, so that no rotation comes between.
fn rotated_sources(path: &Path) -> io::Result<Vec<Source>> {
    let mut sources = Vec::new();
    // A kill in the middle of a rotation may have left one number free.
    let mut missing = 0;
    for n in 1.. {
        match File::open(rotated(path, n)) {
            Ok(file) => {
                sources.push(whole(file)?);
                missing = 0;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && missing == 0 => missing += 1,
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(e),
        }
    }
    sources.reverse();
    Ok(sources)
}

/// The segment that a follower reads, as the writer goes on.
#[derive(Debug)]
pub(crate) struct Follow {
    pub(crate) state: Rc<LogState>,
    segment: Rc<Segment>,
    /// Bytes of the segment that were queued for reading.
    queued: u64,
    /// Segments that it came too late for, since it was asked.
    lost: u64,
    /// That it is too slow was said.
    said_lost: bool,
}

impl Follow {
    /// Segments that it came too late for, since the last call.
    pub(crate) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// What was committed since.
    pub(crate) fn more(&mut self) -> Option<Source> {
        loop {
            let committed = self.segment.committed.get();
            if committed > self.queued {
                let source = Source {
                    file: self.segment.file.clone(),
                    segment: self.segment.id,
                    offset: self.queued,
                    end: committed,
                };
                self.queued = committed;
                return Some(source);
            }
            let next = self.segment.next.borrow().clone()?;
            let lost = self.segment.lost_after.get();
            self.lost += lost;
            if lost > 0 && !std::mem::replace(&mut self.said_lost, true) {
                tracing::warn!(path = %self.state.path.display(), files = lost,
                    "a follower of a log is so slow that rotation has removed files before it came to them");
            }
            self.queued = next.start;
            self.segment = next;
        }
    }
}

/// Log content as it goes on the wire, piece by piece.
#[derive(Debug)]
pub struct LogStream {
    sources: Vec<Source>,
    query: Arc<LogQuery>,
    follow: Option<Follow>,
    tailed: bool,
    ended: bool,
    torn: u64,
}

impl LogStream {
    fn new(sources: Vec<Source>, query: LogQuery, follow: Option<Follow>) -> LogStream {
        LogStream {
            sources,
            query: Arc::new(query),
            follow,
            tailed: false,
            ended: false,
            torn: 0,
        }
    }

    /// Records that could not be read and were skipped.
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// The next piece; `None` at the end (following: when the container's output has ended).
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if !self.tailed {
            self.tailed = true;
            if let Err(e) = self.seek_tail().await {
                return self.fail(e);
            }
        }
        while !self.ended {
            let Some(source) = self.sources.first().cloned() else {
                self.wait().await;
                continue;
            };
            let query = self.query.clone();
            let result = match gantry_rt::workers::run(move || read_chunk(source, &query)).await {
                Ok(result) => result,
                Err(e) => Err(io::Error::other(e)),
            };
            match result {
                Err(e) => return self.fail(e),
                Ok(chunk) => {
                    self.torn += chunk.torn;
                    self.ended |= chunk.past_until;
                    if chunk.offset >= self.sources[0].end {
                        self.sources.remove(0);
                    } else {
                        self.sources[0].offset = chunk.offset;
                    }
                    if !chunk.out.is_empty() {
                        return Some(Ok(chunk.out));
                    }
                }
            }
        }
        None
    }

    fn fail(&mut self, e: io::Error) -> Option<io::Result<Bytes>> {
        self.ended = true;
        Some(Err(e))
    }

    async fn seek_tail(&mut self) -> io::Result<()> {
        let Some(tail) = self.query.tail else {
            return Ok(());
        };
        let sources = std::mem::take(&mut self.sources);
        let seek = gantry_rt::workers::run(move || skip_to_tail(sources, tail));
        self.sources = seek.await.map_err(io::Error::other)??;
        Ok(())
    }

    /// Everything known is read: waits for more, or ends.
    async fn wait(&mut self) {
        let Some(follow) = &mut self.follow else {
            self.ended = true;
            return;
        };
        let known = follow.state.signal.count();
        if let Some(source) = follow.more() {
            self.sources.push(source);
        } else if follow.state.closed.get() {
            self.ended = true;
        } else if let Some(until) = self.query.until_ns {
            let left = Duration::from_nanos(until.saturating_sub(unix_time_ns()));
            let changed = follow.state.signal.changed(known);
            self.ended = left.is_zero() || gantry_rt::timeout(left, changed).await.is_err();
        } else {
            follow.state.signal.changed(known).await;
        }
    }
}

#[derive(Debug, Default)]
struct Chunk {
    out: Bytes,
    offset: u64,
    torn: u64,
    past_until: bool,
}

/// Reads and renders one chunk. Runs on a worker.
fn read_chunk(source: Source, query: &LogQuery) -> io::Result<Chunk> {
    let len = usize::try_from(source.end.saturating_sub(source.offset))
        .unwrap_or(CHUNK_BYTES)
        .min(CHUNK_BYTES);
    let mut data = vec![0; len];
    let got = read_at(&source.file, &mut data, source.offset)?;
    let data = &data[..got];
    let at_end = got < len || source.offset + got as u64 >= source.end;
    let mut chunk = Chunk {
        offset: source.offset,
        ..Chunk::default()
    };
    let whole = match data.iter().rposition(|b| *b == b'\n') {
        Some(last) => &data[..=last],
        // Longer than any record: torn. At the end of the file it may be one without its newline.
        None => data,
    };
    let used = if at_end { got } else { whole.len() };
    chunk.offset = if got == 0 {
        source.end
    } else {
        source.offset + used as u64
    };
    if got < len {
        chunk.offset = source.end;
    }
    let mut out = BytesMut::with_capacity(used);
    for line in data[..used].split_inclusive(|b| *b == b'\n') {
        match json::decode(line) {
            None => chunk.torn += 1,
            Some((_, time_ns)) if query.since_ns.is_some_and(|since| time_ns < since) => {}
            Some((_, time_ns)) if query.until_ns.is_some_and(|until| time_ns > until) => {
                chunk.past_until = true;
                break;
            }
            Some((record, time_ns)) => render(&mut out, &record, time_ns, query),
        }
    }
    chunk.out = out.freeze();
    Ok(chunk)
}

/// Reads as much as there is.
pub(crate) fn read_at(file: &File, data: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < data.len() {
        match file.read_at(&mut data[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

fn render(out: &mut BytesMut, record: &json::Record<'_>, time_ns: u64, query: &LogQuery) {
    let stream = record.stream();
    let wanted = match stream {
        Stream::Stdout => query.stdout,
        Stream::Stderr => query.stderr,
    };
    if !wanted {
        return;
    }
    let mut head = Vec::new();
    if query.timestamps {
        time::format_into(&mut head, time_ns, true);
        head.push(b' ');
    }
    if query.details {
        let attrs = record.attrs.iter().flatten();
        let attrs: Vec<String> = attrs
            .map(|(k, v)| format!("{}={}", query_escape(k), query_escape(v)))
            .collect();
        head.extend_from_slice(attrs.join(",").as_bytes());
        head.push(b' ');
    }
    let text = record.log.as_bytes();
    if !query.tty {
        out.extend_from_slice(&mux::encode_header(
            stream as u8,
            (head.len() + text.len()) as u32,
        ));
    }
    out.extend_from_slice(&head);
    out.extend_from_slice(text);
}

/// Go's url.QueryEscape.
fn query_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(b as char)
            }
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// Leaves the last `tail` records of the sources. Runs on a worker.
fn skip_to_tail(mut sources: Vec<Source>, tail: u64) -> io::Result<Vec<Source>> {
    let mut left = tail;
    for i in (0..sources.len()).rev() {
        if left == 0 {
            return Ok(sources.split_off(i + 1));
        }
        if let Some(offset) = tail_offset(&sources[i], &mut left)? {
            sources[i].offset = offset;
            return Ok(sources.split_off(i));
        }
    }
    Ok(sources)
}

/// Where the last `left` records of a file begin; `None` if it has fewer (`left` is what is still wanted then).
fn tail_offset(source: &Source, left: &mut u64) -> io::Result<Option<u64>> {
    const BACK_BYTES: u64 = 64 * 1024;
    let mut end = source.end;
    let mut data = vec![0; BACK_BYTES as usize];
    while end > 0 {
        let start = end.saturating_sub(BACK_BYTES);
        let piece = &mut data[..(end - start) as usize];
        let got = read_at(&source.file, piece, start)?;
        for (i, _) in piece[..got]
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, b)| **b == b'\n')
        {
            let after = start + i as u64 + 1;
            // The newline at the very end closes the last record; every other one closes the one before.
            if after == source.end {
                continue;
            }
            *left -= 1;
            if *left == 0 {
                return Ok(Some(after));
            }
        }
        end = start;
    }
    // The first record of the file has no newline before it.
    if source.end > 0 {
        *left -= 1;
        if *left == 0 {
            return Ok(Some(0));
        }
    }
    Ok(None)
}
