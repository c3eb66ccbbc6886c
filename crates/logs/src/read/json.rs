//! Reading Docker's files of records.

use std::io;

use bytes::{Bytes, BytesMut};

use crate::json::{self, Clock};
use crate::record::{Parts, Record};

use super::render::{Item, render};
use super::source::{Data, Source, is_damage};
use super::{Chunk, LogQuery};

/// Read from a file at once; longer than any record we write.
const CHUNK_BYTES: usize = 512 * 1024;
/// Looked at for one step of a search.
const PROBE_BYTES: u64 = 64 * 1024;
/// A search for a time begins so much earlier: whoever wrote the file may have written what two streams print at one time
/// in another order.
const SLACK_NS: u64 = 1_000_000_000;

impl Source {
    /// Reads whole records: at most a chunk, or one longer than that. Also whether it was the last.
    fn json_lines(&mut self) -> io::Result<(Vec<u8>, bool)> {
        let left = self.end.saturating_sub(self.offset);
        let mut len = usize::try_from(left)
            .unwrap_or(CHUNK_BYTES)
            .min(CHUNK_BYTES);
        loop {
            let mut data = vec![0; len];
            let got = match self.data.read_at(&mut data, self.offset) {
                Ok(got) => got,
                Err(e) if is_damage(&e) => {
                    // What is left cannot be decompressed: a torn record.
                    return Ok((b"\n".to_vec(), true));
                }
                Err(e) => return Err(e),
            };
            data.truncate(got);
            // Less than there should be: the end of a compressed file, or somebody has emptied this one.
            let at_end = got < len || self.offset + got as u64 >= self.end;
            if !at_end {
                match memchr::memrchr(b'\n', &data) {
                    Some(last) => data.truncate(last + 1),
                    // A record that is longer than a chunk, up to a limit past which it is torn.
                    None if len < MAX_LINE_BYTES => {
                        len = (len * 4).min(MAX_LINE_BYTES);
                        continue;
                    }
                    None => {}
                }
            }
            self.offset += data.len() as u64;
            return Ok((data, at_end));
        }
    }

    pub(super) fn json_chunk(&mut self, query: &LogQuery) -> io::Result<Chunk> {
        let (data, at_end) = self.json_lines()?;
        let mut chunk = Chunk {
            at_end,
            ..Chunk::default()
        };
        let mut out = BytesMut::with_capacity(data.len());
        let mut clock = Clock::default();
        for line in Lines::new(&data) {
            let seen = json::split(line, &mut clock).and_then(|raw| {
                if query.is_before(raw.time_ns) {
                    return Some(true);
                }
                if query.is_past(raw.time_ns) {
                    return Some(false);
                }
                let item = Item {
                    stream: raw.stream,
                    time_ns: raw.time_ns,
                    text: raw.log,
                    escaped: true,
                    attrs: raw.attrs,
                    gap: json::is_gap(raw.attrs),
                };
                render(&mut out, &item, query).then_some(true)
            });
            match seen {
                Some(true) => {}
                Some(false) => {
                    chunk.past_until = true;
                    break;
                }
                None => match render_slowly(&mut out, line, query) {
                    Slowly::Torn => chunk.torn += 1,
                    Slowly::Done => {}
                    Slowly::PastUntil => {
                        chunk.past_until = true;
                        break;
                    }
                },
            }
        }
        chunk.out = out.freeze();
        Ok(chunk)
    }

    /// The next records, how many were torn, and whether these were the last ones.
    pub(crate) fn json_records(
        &mut self,
        parts: &mut Parts,
    ) -> io::Result<(Vec<Record>, u64, bool)> {
        let (data, at_end) = self.json_lines()?;
        let (mut records, mut torn) = (Vec::new(), 0);
        for line in Lines::new(&data) {
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
        let mut clock = Clock::default();
        let mut whole = [false; 2];
        let mut found = None;
        let mut offset = start;
        for (n, line) in Lines::new(&data).enumerate() {
            offset += line.len() as u64;
            // The first one may have begun before; the last one may go on.
            if (n == 0 && start > low) || !line.ends_with(b"\n") {
                continue;
            }
            let Some(raw) = json::split(line, &mut clock) else {
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
        let mut data = vec![0; CHUNK_BYTES];
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

enum Slowly {
    Done,
    Torn,
    PastUntil,
}

/// A record in another form than ours and Docker's own.
fn render_slowly(out: &mut BytesMut, line: &[u8], query: &LogQuery) -> Slowly {
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
        text: record.log.as_bytes(),
        escaped: false,
        attrs: &attrs,
        gap: record.is_gap(),
    };
    render(out, &item, query);
    Slowly::Done
}

/// Lines with their newlines; the last one may have none.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn new(data: &'a [u8]) -> Lines<'a> {
        Lines(data)
    }
}

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
