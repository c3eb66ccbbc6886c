//! The index beside a segment of `local`: a header and entries of fixed size.
//!
//! A run is a sequence of frames of one stream that were written by one write(2), whose times follow each other by one
//! nanosecond each. One entry names a run: where it begins, how many records there were before, and the time of its
//! first record; from that every record's time follows. A line at a time makes an entry for each line, a container that
//! prints as fast as it can makes one for each piece that was read from its pipe.

use std::fs::File;
use std::io;
use std::sync::Arc;

use gantry_stream::Stream;

use crate::read::read_at;

/// Length of the header, and of an entry.
pub(crate) const ENTRY_BYTES: u64 = 32;
const MAGIC: &[u8; 8] = b"GTYLOGI\x01";
/// A run is cut when it has so many bytes, so that finding a record in it stays cheap.
pub(crate) const RUN_BYTES: usize = 64 * 1024;

const FLAG_STDERR: u64 = 1;
const FLAG_GAP: u64 = 2;
const FLAG_END: u64 = 4;
const FLAG_BITS: u32 = 8;

/// What a run's entry says of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Output.
    Output(Stream),
    /// One record that says what was lost.
    Gap(Stream),
    /// Not a run: the segment is complete and ends here.
    End,
}

/// A run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where it begins in the segment.
    pub(crate) offset: u64,
    /// Records of the segment before it.
    pub(crate) record: u64,
    /// Time of its first record.
    pub(crate) time_ns: u64,
    /// No record before it has a later time. Never less than in the entry before, while `time_ns` may be: parts of a
    /// line have the time of its first part.
    pub(crate) clock_ns: u64,
    pub(crate) what: What,
}

impl Entry {
    pub(crate) fn encode(&self) -> [u8; ENTRY_BYTES as usize] {
        let stderr = |stream: Stream| u64::from(stream == Stream::Stderr) * FLAG_STDERR;
        let flags = match self.what {
            What::Output(stream) => stderr(stream),
            What::Gap(stream) => FLAG_GAP | stderr(stream),
            What::End => FLAG_END,
        };
        let words = [
            self.offset,
            self.record << FLAG_BITS | flags,
            self.time_ns,
            self.clock_ns,
        ];
        let mut out = [0; ENTRY_BYTES as usize];
        for (chunk, word) in out.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// Any bytes are an entry; what it says is checked against the segment.
    pub(crate) fn decode(bytes: &[u8; ENTRY_BYTES as usize]) -> Entry {
        let mut words = [0u64; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut le = [0; 8];
            le.copy_from_slice(chunk);
            *word = u64::from_le_bytes(le);
        }
        let [offset, record, time_ns, clock_ns] = words;
        let stream = match record & FLAG_STDERR {
            0 => Stream::Stdout,
            _ => Stream::Stderr,
        };
        let what = match record & (FLAG_GAP | FLAG_END) {
            0 => What::Output(stream),
            FLAG_GAP => What::Gap(stream),
            _ => What::End,
        };
        Entry {
            offset,
            record: record >> FLAG_BITS,
            time_ns,
            clock_ns,
            what,
        }
    }
}

/// The first bytes of an index of the segment with this number.
pub(crate) fn header(segment: u64) -> [u8; ENTRY_BYTES as usize] {
    let mut out = [0; ENTRY_BYTES as usize];
    out[..8].copy_from_slice(MAGIC);
    out[8..16].copy_from_slice(&segment.to_le_bytes());
    out
}

/// An index that is read. Entries are in the order of their offsets; one that is not is where the index ends.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    entries: Entries,
}

#[derive(Clone, Debug)]
enum Entries {
    File(Arc<File>, u64),
    Memory(Arc<[Entry]>),
}

impl Index {
    /// The index of a segment of which `end` bytes may be read; `None` if the file is no index of that segment.
    pub(crate) fn open(file: Arc<File>, segment: u64, end: u64) -> io::Result<Option<Index>> {
        let mut head = [0; ENTRY_BYTES as usize];
        if read_at(&file, &mut head, 0)? < head.len() || head != header(segment) {
            return Ok(None);
        }
        let count = file.metadata()?.len() / ENTRY_BYTES;
        let mut index = Index {
            entries: Entries::File(file, count.saturating_sub(1)),
        };
        let below = index.partition(|e| e.offset < end)?;
        if let Entries::File(_, count) = &mut index.entries {
            *count = below;
        }
        Ok(Some(index))
    }

    /// Where a complete segment ends; past every end if its index does not say so.
    pub(crate) fn end_of(file: Option<&File>, segment: u64) -> io::Result<u64> {
        let Some(file) = file else {
            return Ok(u64::MAX);
        };
        let len = file.metadata()?.len() / ENTRY_BYTES * ENTRY_BYTES;
        let mut bytes = [[0; ENTRY_BYTES as usize]; 2];
        if len < 2 * ENTRY_BYTES
            || read_at(file, &mut bytes[0], 0)? < bytes[0].len()
            || bytes[0] != header(segment)
        {
            return Ok(u64::MAX);
        }
        read_whole(file, &mut bytes[1], len - ENTRY_BYTES)?;
        let last = Entry::decode(&bytes[1]);
        Ok(match last.what {
            What::End => last.offset,
            _ => u64::MAX,
        })
    }

    /// The entry that says that a segment is complete at `end`.
    pub(crate) fn closing(&self, end: u64) -> io::Result<Option<Entry>> {
        let Entries::File(file, count) = &self.entries else {
            return Ok(None);
        };
        let mut bytes = [0; ENTRY_BYTES as usize];
        let got = read_at(file, &mut bytes, (count + 1) * ENTRY_BYTES)?;
        let entry = Entry::decode(&bytes);
        let closes = got == bytes.len() && entry.what == What::End && entry.offset == end;
        Ok(closes.then_some(entry))
    }

    /// Whether every entry is behind the one before. Reads all of it.
    pub(crate) fn is_sound(&self) -> io::Result<bool> {
        const STEP: u64 = 4096;
        let mut last = None;
        for from in (0..self.len()).step_by(STEP as usize) {
            for entry in self.load(from, STEP)? {
                if last.is_some_and(|last| entry.offset <= last) || entry.what == What::End {
                    return Ok(false);
                }
                last = Some(entry.offset);
            }
        }
        Ok(true)
    }

    /// One that was made up for a segment without.
    pub(crate) fn of(entries: Vec<Entry>) -> Index {
        Index {
            entries: Entries::Memory(entries.into()),
        }
    }

    /// Runs.
    pub(crate) fn len(&self) -> u64 {
        match &self.entries {
            Entries::File(_, count) => *count,
            Entries::Memory(entries) => entries.len() as u64,
        }
    }

    /// Entries from `from` on, at most `max`; fewer at the end.
    pub(crate) fn load(&self, from: u64, max: u64) -> io::Result<Vec<Entry>> {
        let to = self.len().min(from.saturating_add(max));
        let from = from.min(to);
        match &self.entries {
            Entries::Memory(entries) => Ok(entries[from as usize..to as usize].to_vec()),
            Entries::File(file, _) => {
                let mut bytes = vec![0; ((to - from) * ENTRY_BYTES) as usize];
                read_whole(file, &mut bytes, (from + 1) * ENTRY_BYTES)?;
                let (chunks, _) = bytes.as_chunks();
                Ok(chunks.iter().map(Entry::decode).collect())
            }
        }
    }

    /// One entry.
    pub(crate) fn get(&self, n: u64) -> io::Result<Entry> {
        let found = self.load(n, 1)?.into_iter().next();
        found.ok_or_else(|| io::Error::other("an index has no such entry"))
    }

    /// How many entries `holds` is true for, if it is true for the first ones and false for all others. What is looked for
    /// is mostly at the end.
    pub(crate) fn partition(&self, holds: impl Fn(&Entry) -> bool) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.len());
        let mut from = high.saturating_sub(BLOCK_ENTRIES);
        while low < high {
            let block = self.load(from, BLOCK_ENTRIES.min(high - from))?;
            match block.iter().position(|entry| !holds(entry)) {
                None => low = from + block.len() as u64,
                Some(0) => high = from,
                Some(n) => return Ok(from + n as u64),
            }
            let middle = low + (high - low) / 2;
            from = middle.saturating_sub(BLOCK_ENTRIES / 2).max(low);
        }
        Ok(low)
    }
}

/// Looked at in one step of a search: a page of them.
const BLOCK_ENTRIES: u64 = 4096 / ENTRY_BYTES;

/// Reads what must be there.
fn read_whole(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    match read_at(file, bytes, offset)? {
        got if got < bytes.len() => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn entry(n: u64) -> Entry {
        Entry {
            offset: n * 100,
            record: n * 3,
            time_ns: n * 10,
            clock_ns: n * 10,
            what: match n % 3 {
                0 => What::Output(Stream::Stderr),
                1 => What::Gap(Stream::Stdout),
                _ => What::Output(Stream::Stdout),
            },
        }
    }

    #[test]
    fn entries_read_back_and_are_found() {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(&header(7)).expect("write");
        for n in 0..1000 {
            file.write_all(&entry(n).encode()).expect("write");
        }
        file.write_all(b"torn").expect("write");
        let file = Arc::new(file);
        let open = |segment, end| Index::open(file.clone(), segment, end).expect("open");
        assert!(open(8, u64::MAX).is_none());
        let index = open(7, 50_001).expect("an index");
        assert_eq!(index.len(), 501);
        assert_eq!(index.load(499, 10).expect("load"), [entry(499), entry(500)]);
        assert_eq!(index.partition(|e| e.clock_ns < 1234).expect("found"), 124);
        for n in [0, 1, 127, 128, 129, 250, 372, 373, 374, 500, 501] {
            let found = index.partition(|e| e.record < n * 3).expect("found");
            assert_eq!(found, n);
        }
        let memory = Index::of((0..501).map(entry).collect());
        assert_eq!(
            memory.load(3, 2).expect("load"),
            index.load(3, 2).expect("load")
        );
        assert_eq!(memory.load(600, 2).expect("load"), []);
    }
}
