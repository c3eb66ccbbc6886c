//! Spill files: what a container printed while no daemon was there, or while its log could not be written and must not
//! hold it up (`mode=non-blocking`).
//!
//! Records of `{stream: u8, 3 zero bytes, length: u32 LE, unix time in ns: u64 LE, bytes}`; a declared gap has stream 0xff
//! and as its bytes the number of dropped bytes (u64 LE). Offsets only grow: what has been replayed is punched out, not cut off.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::{ShmError, Stream};

/// Most bytes of unread spill per container; past it a blocking container blocks and a non-blocking one gets a gap.
pub const SPILL_LIMIT_BYTES: u64 = 64 * 1024 * 1024;
const HEADER_BYTES: usize = 16;
const GAP: u8 = 0xff;
/// Dropped by the daemon: bytes and records (u64 LE each).
const DROPPED: u8 = 0xfe;
/// A stream has ended: its number.
const END: u8 = 0xfd;
/// Longest record that is believed.
const MAX_RECORD_BYTES: usize = 1024 * 1024;

fn io(step: &'static str) -> impl Fn(std::io::Error) -> ShmError {
    move |source| ShmError::Io { step, source }
}

/// Appends to a spill file (keeper; daemon for a log that must not hold up its container).
#[derive(Debug)]
pub struct SpillWriter {
    file: File,
    end: u64,
    scratch: Vec<u8>,
}

impl SpillWriter {
    /// Goes on at the end of `file`.
    pub fn new(file: File) -> Result<SpillWriter, ShmError> {
        let end = file.metadata().map_err(io("fstat of a spill"))?.len();
        Ok(SpillWriter {
            file,
            end,
            scratch: Vec::new(),
        })
    }

    /// Goes on at `end`; what lies past it was never committed.
    pub fn go_on_at(&mut self, end: u64) -> Result<(), ShmError> {
        let cut = self.file.set_len(end);
        cut.map_err(io("ftruncate of a spill"))?;
        self.end = end;
        Ok(())
    }

    /// Length of the spill: what a hand-over tells the daemon.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The file, to be sent to the daemon.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether `more` bytes fit, when the daemon had replayed up to `replayed`.
    pub fn has_room(&self, replayed: u64, more: usize) -> bool {
        self.end.saturating_sub(replayed) + (more + HEADER_BYTES) as u64 <= SPILL_LIMIT_BYTES
    }

    /// Frees the disk space of what was replayed; offsets stay.
    pub fn release(&self, replayed: u64) -> Result<(), ShmError> {
        let len = replayed.min(self.end);
        if len == 0 {
            return Ok(());
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a plain system call on an open file.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, 0, len as libc::off_t) } < 0 {
            return Err(ShmError::last("fallocate(PUNCH_HOLE) of a spill"));
        }
        Ok(())
    }

    /// Appends output. The record is complete or absent: `end` only moves after the write.
    pub fn append(&mut self, stream: Stream, bytes: &[u8], time_ns: u64) -> Result<(), ShmError> {
        for piece in bytes.chunks(MAX_RECORD_BYTES) {
            self.record(stream as u8, piece, time_ns)?;
        }
        Ok(())
    }

    /// Declares dropped bytes (non-blocking mode, spill full).
    pub fn append_gap(&mut self, dropped_bytes: u64, time_ns: u64) -> Result<(), ShmError> {
        self.record(GAP, &dropped_bytes.to_le_bytes(), time_ns)
    }

    /// Declares bytes and records that a full buffer did not take.
    pub fn append_dropped(
        &mut self,
        bytes: u64,
        records: u64,
        time_ns: u64,
    ) -> Result<(), ShmError> {
        let mut amounts = [0; 16];
        amounts[..8].copy_from_slice(&bytes.to_le_bytes());
        amounts[8..].copy_from_slice(&records.to_le_bytes());
        self.record(DROPPED, &amounts, time_ns)
    }

    /// Notes that a stream has ended.
    pub fn append_end(&mut self, stream: Stream, time_ns: u64) -> Result<(), ShmError> {
        self.record(END, &[stream as u8], time_ns)
    }

    fn record(&mut self, kind: u8, bytes: &[u8], time_ns: u64) -> Result<(), ShmError> {
        self.scratch.clear();
        self.scratch.extend_from_slice(&[kind, 0, 0, 0]);
        self.scratch
            .extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.scratch.extend_from_slice(&time_ns.to_le_bytes());
        self.scratch.extend_from_slice(bytes);
        self.file
            .write_all_at(&self.scratch, self.end)
            .map_err(io("write of a spill"))?;
        self.end += self.scratch.len() as u64;
        Ok(())
    }
}

/// One record of a spill file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpillRecord {
    /// Output, and when it was read.
    Data {
        /// Which stream.
        stream: Stream,
        /// Unix time in nanoseconds.
        time_ns: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// So many bytes were dropped here while no daemon was there.
    Gap(u64),
    /// A full buffer did not take so much here.
    Dropped {
        /// Bytes of output.
        bytes: u64,
        /// Lines whose end is among them.
        records: u64,
    },
    /// A stream has ended.
    End {
        /// Which.
        stream: Stream,
        /// Unix time in nanoseconds.
        time_ns: u64,
    },
}

/// Reads a spill file (daemon).
#[derive(Debug)]
pub struct SpillReader {
    file: File,
    offset: u64,
    end: u64,
}

impl SpillReader {
    /// Reads `[offset, end)`; `offset` is the committed one, `end` what the keeper said when it stopped.
    pub fn new(file: File, offset: u64, end: u64) -> SpillReader {
        SpillReader { file, offset, end }
    }

    /// There is more now: up to `end`.
    pub fn set_end(&mut self, end: u64) {
        self.end = end;
    }

    /// Offset of the next record.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What was replayed and punched out reads as zeros; no record begins with one.
    fn end_of_hole(&self) -> Result<u64, ShmError> {
        let mut chunk = [0u8; 4096];
        let mut offset = self.offset;
        while offset < self.end {
            let wanted = chunk.len().min((self.end - offset) as usize);
            let chunk = &mut chunk[..wanted];
            self.file
                .read_exact_at(chunk, offset)
                .map_err(io("read of a spill"))?;
            match chunk.iter().position(|b| *b != 0) {
                Some(zeros) => return Ok(offset + zeros as u64),
                None => offset += wanted as u64,
            }
        }
        Ok(offset)
    }

    /// The next record, `None` at the end.
    pub fn next_record(&mut self) -> Result<Option<SpillRecord>, ShmError> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let mut header = [0u8; HEADER_BYTES];
        let mut read = |offset| {
            let read = self.file.read_exact_at(&mut header, offset);
            read.map_err(io("read of a spill")).map(|()| header)
        };
        let mut header = read(self.offset)?;
        if header[0] == 0 {
            self.offset = self.end_of_hole()?;
            if self.offset >= self.end {
                return Ok(None);
            }
            header = read(self.offset)?;
        }
        let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if len > MAX_RECORD_BYTES || self.offset + (HEADER_BYTES + len) as u64 > self.end {
            return Err(ShmError::Corrupt("spill record length"));
        }
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, self.offset + HEADER_BYTES as u64)
            .map_err(io("read of a spill"))?;
        self.offset += (HEADER_BYTES + len) as u64;
        let time_ns = number(&header[8..])?;
        let stream = |n| Stream::from_number(n).ok_or(ShmError::Corrupt("spill stream"));
        Ok(Some(match (header[0], bytes.as_slice()) {
            (GAP, dropped) => SpillRecord::Gap(number(dropped)?),
            (DROPPED, amounts) => {
                let (bytes, records) = amounts.split_at(amounts.len() / 2);
                let (bytes, records) = (number(bytes)?, number(records)?);
                SpillRecord::Dropped { bytes, records }
            }
            (END, [ended]) => SpillRecord::End {
                stream: stream(*ended)?,
                time_ns,
            },
            (from, _) => SpillRecord::Data {
                stream: stream(from)?,
                time_ns,
                bytes,
            },
        }))
    }
}

fn number(bytes: &[u8]) -> Result<u64, ShmError> {
    let bytes = bytes.try_into();
    bytes
        .map(u64::from_le_bytes)
        .map_err(|_| ShmError::Corrupt("spill number"))
}
