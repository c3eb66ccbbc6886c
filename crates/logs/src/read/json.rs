//! Reading Docker's files of records.

use std::io;

use bytes::Bytes;

use crate::json::{self, Clock, Raw};
use crate::record::{Parts, Record};

use super::render::{Item, Text, render};
use super::source::{Data, Source, is_damage};
use super::{Chunk, LogQuery};

/// Read from a file at once; longer than any record we write, and short enough to be in a processor's cache when it is
/// looked at.
const READ_BYTES: usize = 128 * 1024;
/// Given out at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Read at most for one piece that is given out.
const MAX_CHUNK_READS: usize = 16;
/// Looked at for one step of a search.
const PROBE_BYTES: u64 = 64 * 1024;
/// A search for a time begins so much earlier: whoever wrote the file may have written what two streams print at one time
/// in another order.
const SLACK_NS: u64 = 1_000_000_000;

impl Source {
    /// Reads whole records into `data`: [`READ_BYTES`] at most, or one longer than that. How many bytes they are, and
    /// whether the last was among them.
    fn json_lines(&mut self, data: &mut Vec<u8>) -> io::Result<(usize, bool)> {
        let left = self.end.saturating_sub(self.offset);
        let mut len = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
        loop {
            if data.len() < len {
                data.resize(len, 0);
            }
            let mut got = match self.data.read_at(&mut data[..len], self.offset) {
                Ok(got) => got,
                Err(e) if is_damage(&e) => {
                    // What is left cannot be decompressed: a torn record.
                    data.insert(0, b'\n');
                    return Ok((1, true));
                }
                Err(e) => return Err(e),
            };
            // Less than there should be: the end of a compressed file, or somebody has emptied this one.
            let at_end = got < len || self.offset + got as u64 >= self.end;
            if !at_end {
                match memchr::memrchr(b'\n', &data[..got]) {
                    Some(last) => got = last + 1,
                    // A record that is longer than a chunk, up to a limit past which it is torn.
                    None if len < MAX_LINE_BYTES => {
                        len = (len * 4).min(MAX_LINE_BYTES);
                        continue;
                    }
                    None => {}
                }
            }
            self.offset += got as u64;
            return Ok((got, at_end));
        }
    }

    pub(super) fn json_chunk(&mut self, query: &LogQuery) -> io::Result<Chunk> {
        let mut chunk = Chunk::default();
        let mut data = std::mem::take(&mut self.scratch);
        let mut out = Vec::new();
        for _ in 0..MAX_CHUNK_READS {
            let (len, at_end) = match self.json_lines(&mut data) {
                Ok(read) => read,
                Err(e) if out.is_empty() => return Err(e),
                // What was read before counts; the next read finds the error again.
                Err(_) => break,
            };
            if out.capacity() == 0 {
                out.reserve(if at_end {
                    len
                } else {
                    CHUNK_BYTES + READ_BYTES
                });
            }
            chunk.at_end = at_end;
            render_records(&mut out, &data[..len], query, &mut chunk);
            if chunk.at_end || chunk.past_until || out.len() >= CHUNK_BYTES {
                break;
            }
        }
        if data.len() <= READ_BYTES {
            self.scratch = data;
        }
        chunk.out = out.into();
        Ok(chunk)
    }

    /// The next records, how many were torn, and whether these were the last ones.
    pub(crate) fn json_records(
        &mut self,
        parts: &mut Parts,
    ) -> io::Result<(Vec<Record>, u64, bool)> {
        let mut data = std::mem::take(&mut self.scratch);
        let (len, at_end) = self.json_lines(&mut data)?;
        let (mut records, mut torn) = (Vec::new(), 0);
        for line in Lines(&data[..len]) {
            let Some((record, time_ns)) = json::decode(line) else {
                torn += 1;
                continue;
            };
            let stream = record.stream();
            let mut text = record.log.as_bytes();
            let partial = parts.next(stream, time_ns, &mut text);
            records.push(Record {
                time_ns,
                stream,
                bytes: Bytes::copy_from_slice(text),
                partial,
                gap: record.is_gap(),
            });
        }
        self.scratch = data;
        Ok((records, torn, at_end))
    }

    /// Leaves out what is surely older than `since_ns`.
    pub(super) fn json_since(&mut self, since_ns: u64) -> io::Result<()> {
        let since_ns = since_ns.saturating_sub(SLACK_NS);
        match &mut self.data {
            Data::Gzip(gzip) => {
                if gzip.last_time_ns().is_some_and(|last| last < since_ns) {
                    self.offset = self.end;
                }
                Ok(())
            }
            Data::File(_) => self.search(since_ns),
        }
    }

    /// Everything before `self.offset` stays surely older: records of increasing time, but for parts of long lines.
    fn search(&mut self, since_ns: u64) -> io::Result<()> {
        let (mut low, mut high) = (self.offset, self.end);
        while high - low > PROBE_BYTES {
            let middle = low + (high - low) / 2;
            match self.witness(low, middle)? {
                // What is between the two is not known to be older.
                None => high = middle,
                Some((_, time_ns)) if time_ns >= since_ns => high = middle,
                Some((after, _)) => low = after,
            }
        }
        self.offset = low;
        Ok(())
    }

    /// A record in the last probe before `at` whose time is its own, and where the one behind it begins. A part of a
    /// line has the time of the line's first part, so that it says nothing; the line after one that is whole is whole.
    fn witness(&mut self, low: u64, at: u64) -> io::Result<Option<(u64, u64)>> {
        let start = at.saturating_sub(PROBE_BYTES).max(low);
        let mut data = vec![0; (at - start) as usize];
        let got = self.data.read_at(&mut data, start)?;
        data.truncate(got);
        let mut whole = [false; 2];
        let mut found = None;
        let mut offset = start;
        for (n, (line, raw)) in Records::new(&data).enumerate() {
            offset += line.len() as u64;
            // The first one may have begun before; the last one may go on.
            if (n == 0 && start > low) || !line.ends_with(b"\n") {
                continue;
            }
            let Some(raw) = raw else {
                continue;
            };
            let is_whole = raw.log.ends_with(b"\\n");
            if std::mem::replace(&mut whole[raw.stream.index()], is_whole) && is_whole {
                found = Some((offset, raw.time_ns));
            }
        }
        Ok(found)
    }

    /// Leaves the last `left` records; false if there are fewer, and `left` is how many are missing.
    pub(super) fn json_tail(&mut self, left: &mut u64) -> io::Result<bool> {
        let found = match &self.data {
            Data::File(_) => self.tail_backwards(left)?,
            Data::Gzip(_) => self.tail_by_counting(left)?,
        };
        if let Some(offset) = found {
            self.offset = offset;
        }
        Ok(found.is_some())
    }

    /// Where the last `left` records of a file begin, looked for from its end; `None` if it has fewer.
    fn tail_backwards(&mut self, left: &mut u64) -> io::Result<Option<u64>> {
        let mut end = self.end;
        let mut data = vec![0; PROBE_BYTES as usize];
        while end > self.offset {
            let start = end.saturating_sub(PROBE_BYTES).max(self.offset);
            let piece = &mut data[..(end - start) as usize];
            let got = self.data.read_at(piece, start)?;
            for n in memchr::memrchr_iter(b'\n', &piece[..got]) {
                let after = start + n as u64 + 1;
                // The newline at the very end closes the last record; every other one closes the one before.
                if after == self.end {
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
        if self.end > self.offset {
            *left -= 1;
            if *left == 0 {
                return Ok(Some(self.offset));
            }
        }
        Ok(None)
    }

    /// The same for a compressed file, which is read twice.
    fn tail_by_counting(&mut self, left: &mut u64) -> io::Result<Option<u64>> {
        let total = self.count_lines(u64::MAX)?.0;
        if total < *left {
            *left -= total;
            return Ok(None);
        }
        let offset = self.count_lines(total - *left)?.1;
        *left = 0;
        Ok(Some(offset))
    }

    /// Lines from the beginning, at most `max`, and where they end.
    fn count_lines(&mut self, max: u64) -> io::Result<(u64, u64)> {
        let (mut lines, mut offset) = (0, 0);
        let mut data = vec![0; READ_BYTES];
        let mut last = b'\n';
        while lines < max {
            let got = match self.data.read_at(&mut data, offset) {
                Ok(0) => break,
                Ok(got) => got,
                Err(e) if is_damage(&e) => break,
                Err(e) => return Err(e),
            };
            for n in memchr::memchr_iter(b'\n', &data[..got]) {
                lines += 1;
                if lines == max {
                    return Ok((lines, offset + n as u64 + 1));
                }
            }
            last = data[got - 1];
            offset += got as u64;
        }
        Ok((lines + u64::from(last != b'\n' && lines < max), offset))
    }
}

/// A record is not longer, or it is torn.
const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

/// Appends the records of `data` that the client wants; until the one that is too late.
fn render_records(out: &mut Vec<u8>, data: &[u8], query: &LogQuery, chunk: &mut Chunk) {
    for (line, raw) in Records::new(data) {
        let seen = raw.and_then(|raw| {
            if query.is_before(raw.time_ns) {
                return Some(true);
            }
            if query.is_past(raw.time_ns) {
                return Some(false);
            }
            let item = Item {
                stream: raw.stream,
                time_ns: raw.time_ns,
                text: text(&raw),
                attrs: raw.attrs,
                gap: json::is_gap(raw.attrs),
            };
            render(out, &item, query).then_some(true)
        });
        match seen {
            Some(true) => {}
            Some(false) => {
                chunk.past_until = true;
                return;
            }
            None => match render_slowly(out, line, query) {
                Slowly::Torn => chunk.torn += 1,
                Slowly::Done => {}
                Slowly::PastUntil => {
                    chunk.past_until = true;
                    return;
                }
            },
        }
    }
}

enum Slowly {
    Done,
    Torn,
    PastUntil,
}

/// A record in another form than ours and Docker's own.
fn render_slowly(out: &mut Vec<u8>, line: &[u8], query: &LogQuery) -> Slowly {
    let Some((record, time_ns)) = json::decode(line) else {
        return Slowly::Torn;
    };
    if query.is_before(time_ns) {
        return Slowly::Done;
    }
    if query.is_past(time_ns) {
        return Slowly::PastUntil;
    }
    let mut attrs = Vec::new();
    if let Some(map) = &record.attrs {
        json::attrs_into(&mut attrs, map);
    }
    let item = Item {
        stream: record.stream(),
        time_ns,
        text: Text::Plain(record.log.as_bytes()),
        attrs: &attrs,
        gap: record.is_gap(),
    };
    render(out, &item, query);
    Slowly::Done
}

/// The text of a record that was taken apart.
fn text<'a>(raw: &Raw<'a>) -> Text<'a> {
    match raw.log.strip_suffix(b"\\n") {
        Some(line) if raw.is_plain => Text::Line(line),
        None if raw.is_plain => Text::Plain(raw.log),
        _ => Text::Escaped(raw.log),
    }
}

/// Lines with their newlines, taken apart if they are records of Docker's form.
struct Records<'a> {
    rest: &'a [u8],
    clock: Clock,
}

impl<'a> Records<'a> {
    fn new(data: &'a [u8]) -> Records<'a> {
        Records {
            rest: data,
            clock: Clock::default(),
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (&'a [u8], Option<Raw<'a>>);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((raw, len)) = json::split_first(self.rest, &mut self.clock) {
            let (line, rest) = self.rest.split_at(len);
            self.rest = rest;
            return Some((line, Some(raw)));
        }
        let mut lines = Lines(self.rest);
        let line = lines.next()?;
        self.rest = lines.0;
        Some((line, json::split(line, &mut self.clock)))
    }
}

/// Lines with their newlines; the last one may have none.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', self.0).map_or(self.0.len(), |n| n + 1);
        let (line, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(line)
    }
}
