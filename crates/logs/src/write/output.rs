//! The file that is written to, with its index.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use gantry_stream::LogPosition;

use crate::index::{self, ENTRY_BYTES, Entry, Index, What};
use crate::json;
use crate::read::{read_at, rebuild};

use super::disk::NewSegment;
use super::encoder::Encoder;
use super::files::Opened;

/// Looked at for the time of the last records: most are short, and only those that max-line-size allows are longer than the
/// second.
const TAIL_BYTES: [u64; 3] = [4 * 1024, 256 * 1024, 8 * 1024 * 1024];
/// Read at once when all records are looked at.
const SCAN_BYTES: usize = 256 * 1024;

/// The current file.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) data: Arc<File>,
    pub(super) index: Option<IndexOut>,
    pub(super) id: u64,
    /// Its length, as far as we wrote it.
    pub(super) written: u64,
    /// The latest time that was in it when it was opened; 0 without a record.
    pub(super) last_time_ns: u64,
    /// A failed write may have left something behind `written`, or in the index: it is cut off before more is written.
    uncut: bool,
}

#[derive(Debug)]
pub(super) struct IndexOut {
    pub(super) file: Arc<File>,
    len: u64,
    /// Records in the segment.
    records: u64,
}

impl Output {
    /// An opened file; a torn last record is cut off, and what lies past `committed_bytes`.
    pub(super) fn open(opened: Opened, committed_bytes: Option<u64>) -> io::Result<Output> {
        let Opened { data, index, id } = opened;
        let len = data.metadata()?.len();
        let len = committed_bytes.map_or(len, |bytes| bytes.min(len));
        let mut output = Output {
            data: Arc::new(data),
            index: None,
            id,
            written: len,
            last_time_ns: 0,
            uncut: false,
        };
        match index {
            None => {
                if committed_bytes.is_none() {
                    output.written = end_of_last_record(&output.data)?;
                }
                output.last_time_ns = last_json_time(&output.data, output.written)?;
            }
            Some(index) => output.open_index(Arc::new(index))?,
        }
        output.data.set_len(output.written)?;
        Ok(output)
    }

    /// Checks the index of the segment; makes it anew if it is damaged.
    fn open_index(&mut self, file: Arc<File>) -> io::Result<()> {
        let found = Index::open(file.clone(), self.id, self.written)?;
        let (last, len) = match &found {
            Some(found) if found.len() > 0 => (Some(found.get(found.len() - 1)?), found.len()),
            Some(_) => (None, 0),
            None => (None, 0),
        };
        let sound = match &found {
            Some(found) => (last.is_some() || self.written == 0) && found.is_sound()?,
            None => false,
        };
        let from = last.filter(|_| sound);
        // From the last entry on, or all of it, frame by frame.
        let walked = rebuild(&self.data, from, self.written)?;
        let mut out = IndexOut {
            file,
            len: (len + 1) * ENTRY_BYTES,
            records: walked.records,
        };
        if !sound {
            if self.written > 0 {
                tracing::warn!(
                    segment = self.id,
                    "the index of a log segment is missing or damaged and is made anew; times of its records are lost"
                );
            }
            out.file.set_len(0)?;
            let mut bytes = index::header(self.id).to_vec();
            bytes.extend(walked.entries.iter().flat_map(Entry::encode));
            (&*out.file).write_all(&bytes)?;
            out.len = bytes.len() as u64;
        } else {
            out.file.set_len(out.len)?;
        }
        self.written = walked.end;
        self.last_time_ns = walked.last_time_ns;
        self.index = Some(out);
        Ok(())
    }

    /// How far it is written.
    pub(super) fn position(&self) -> LogPosition {
        LogPosition {
            bytes: self.written,
            file_id: self.id,
        }
    }

    /// What readers see of it; what is written next begins at `start`.
    pub(super) fn new_segment(&self, start: u64) -> NewSegment {
        NewSegment {
            data: self.data.clone(),
            index: self.index.as_ref().map(|index| index.file.clone()),
            id: self.id,
            start,
            len: self.written,
        }
    }

    /// Says that nothing follows in this file, whose latest record has this time. Should something follow after all, because
    /// there is no next file, it is taken back.
    pub(super) fn seal(&mut self, last_time_ns: u64) -> io::Result<()> {
        let Some(index) = &mut self.index else {
            return Ok(());
        };
        let end = Entry {
            offset: self.written,
            record: index.records,
            time_ns: last_time_ns,
            clock_ns: last_time_ns,
            what: What::End,
        };
        self.uncut = true;
        index.append(&end.encode())
    }

    /// Writes a part of the batch, after the index entries that say what it is. Somebody may have emptied the file
    /// (`truncate -s 0`, logrotate's copytruncate): then the answer is where the part begins now.
    pub(super) fn append(
        &mut self,
        encoder: &Encoder,
        batch: &[u8],
        part: Range<usize>,
    ) -> io::Result<Option<u64>> {
        if self.uncut {
            self.go_on_behind_rest()?;
        }
        let appended = self.try_append(encoder, batch, part);
        if appended.is_err() {
            self.uncut = true;
            if let Err(error) = self.cut_off() {
                tracing::error!(id = self.id, %error, "what a failed write left in a log can't be cut off yet");
            }
        }
        appended
    }

    fn try_append(
        &mut self,
        encoder: &Encoder,
        batch: &[u8],
        part: Range<usize>,
    ) -> io::Result<Option<u64>> {
        self.index_part(encoder, batch, part.clone())?;
        (&*self.data).write_all(&batch[part.clone()])?;
        let len = part.len() as u64;
        let end = (&*self.data).stream_position()?;
        let expected = self.written + len;
        self.written = end;
        if end == expected {
            return Ok(None);
        }
        let start = end.saturating_sub(len);
        self.written = start;
        if let Some(index) = &mut self.index {
            index.restart(self.id)?;
        }
        self.index_part(encoder, batch, part)?;
        self.written = end;
        Ok(Some(start))
    }

    fn index_part(
        &mut self,
        encoder: &Encoder,
        batch: &[u8],
        part: Range<usize>,
    ) -> io::Result<()> {
        let Some(index) = &mut self.index else {
            return Ok(());
        };
        let (entries, records) = encoder.entries(batch, part, self.written, index.records);
        let bytes: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
        index.append(&bytes)?;
        index.records += records;
        Ok(())
    }

    /// After a failed write: the files are as they were. Can be tried again.
    fn cut_off(&mut self) -> io::Result<()> {
        if let Some(index) = &mut self.index {
            if index.len < ENTRY_BYTES {
                index.restart(self.id)?;
            }
            (index.len, index.records) = index.behind(self.written)?;
            cut(&index.file, index.len)?;
        }
        cut(&self.data, self.written)?;
        self.uncut = false;
        Ok(())
    }

    /// The earlier rest goes, or, in a file that takes records and cannot be cut (`chattr +a`), becomes a damaged one that
    /// readers skip. Without that an index would say of it what it is not.
    fn go_on_behind_rest(&mut self) -> io::Result<()> {
        let Err(error) = self.cut_off() else {
            return Ok(());
        };
        if self.index.is_some() {
            return Err(error);
        }
        (&*self.data).write_all(b"\n")?;
        self.written = self.data.metadata()?.len();
        self.uncut = false;
        Ok(())
    }
}

/// What lies past `len` goes. Nothing is asked of a file system that fails if nothing does.
fn cut(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() > len {
        file.set_len(len)?;
    }
    Ok(())
}

impl IndexOut {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        // Half an entry would shift all that follow: the caller cuts it off.
        (&*self.file).write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Length of the index and number of records when the segment ends at `end`, a place where an entry begins.
    fn behind(&self, end: u64) -> io::Result<(u64, u64)> {
        let mut len = self.len;
        let mut records = self.records;
        while len > ENTRY_BYTES {
            let mut bytes = [0; ENTRY_BYTES as usize];
            self.file.read_exact_at(&mut bytes, len - ENTRY_BYTES)?;
            let entry = Entry::decode(&bytes);
            if entry.offset < end {
                break;
            }
            records = entry.record;
            len -= ENTRY_BYTES;
        }
        Ok((len, records))
    }

    fn restart(&mut self, segment: u64) -> io::Result<()> {
        self.file.set_len(0)?;
        (self.len, self.records) = (0, 0);
        (&*self.file).write_all(&index::header(segment))?;
        self.len = ENTRY_BYTES;
        Ok(())
    }
}

/// Length of a json-file up to its last newline.
fn end_of_last_record(file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut chunk = [0u8; 4096];
    while end > 0 {
        let start = end.saturating_sub(chunk.len() as u64);
        let piece = &mut chunk[..(end - start) as usize];
        file.read_exact_at(piece, start)?;
        if let Some(at) = memchr::memrchr(b'\n', piece) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The latest time of the records at the end of a json-file; 0 if there is none.
fn last_json_time(file: &File, end: u64) -> io::Result<u64> {
    for tail_bytes in TAIL_BYTES {
        let start = end.saturating_sub(tail_bytes);
        let mut bytes = vec![0; (end - start) as usize];
        let got = read_at(file, &mut bytes, start)?;
        let lines = bytes[..got].split_inclusive(|b| *b == b'\n');
        let times = lines.filter_map(json::decode).map(|(_, time_ns)| time_ns);
        if let Some(last) = times.max() {
            return Ok(last);
        }
    }
    Ok(0)
}

/// The latest time of all records of a json-file; 0 if there is none. The last record need not have it: it may be a part of
/// a line, with the time of the line's first part.
pub(super) fn latest_json_time(file: &File) -> io::Result<u64> {
    let (mut offset, mut latest) = (0, 0);
    let mut clock = json::Clock::default();
    let mut data = Vec::new();
    loop {
        let kept = data.len();
        data.resize(kept + SCAN_BYTES, 0);
        let got = read_at(file, &mut data[kept..], offset)?;
        data.truncate(kept + got);
        offset += got as u64;
        let whole = memchr::memrchr(b'\n', &data).map_or(0, |n| n + 1);
        for line in data[..whole].split_inclusive(|b| *b == b'\n') {
            let time_ns = json::split(line, &mut clock).map(|raw| raw.time_ns);
            let time_ns = time_ns.or_else(|| Some(json::decode(line)?.1));
            latest = latest.max(time_ns.unwrap_or(0));
        }
        data.drain(..whole);
        if got < SCAN_BYTES {
            return Ok(latest);
        }
    }
}
