//! Append-only record file under exec-root: survives a kill of the daemon, not a power loss.
//!
//! A record is `length (u32 LE) | crc32 of the payload (u32 LE) | payload`, appended with one `write(2)`. A tail that
//! does not check is cut off when the file is opened for appending; readers stop before it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Longest payload.
pub const MAX_RECORD_BYTES: usize = 4 << 20;
const HEADER_BYTES: usize = 8;

/// What can go wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// the journal's file failed
    #[error("journal {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// the record is too long
    #[error("a journal record of {0} bytes is longer than {MAX_RECORD_BYTES}")]
    TooLong(usize),
}

/// An open journal; one writer.
pub struct Journal {
    path: PathBuf,
    file: File,
    len_bytes: u64,
}

impl Journal {
    /// Opens or makes the file; a torn tail is cut off.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = path.as_ref().to_owned();
        let opened = (|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            let bytes = read_whole(&file)?;
            let good = parse(&bytes).1;
            if good < bytes.len() {
                tracing::warn!(path = %path.display(), cut_bytes = bytes.len() - good, "cut off a torn journal tail");
                file.set_len(good as u64)?;
            }
            Ok((file, good as u64))
        })();
        match opened {
            Ok((file, len_bytes)) => Ok(Self {
                path,
                file,
                len_bytes,
            }),
            Err(source) => Err(JournalError::Io { path, source }),
        }
    }

    /// Appends one record with one write. After a failed or short write the file is cut back to its last good record.
    pub fn append(&mut self, payload: &[u8]) -> Result<(), JournalError> {
        let frame = frame(payload)?;
        let wrote = self.file.write_at(&frame, self.len_bytes);
        match wrote {
            Ok(n) if n == frame.len() => {
                self.len_bytes += n as u64;
                Ok(())
            }
            short => {
                self.file.set_len(self.len_bytes).map_err(|e| self.io(e))?;
                Err(self.io(short
                    .err()
                    .unwrap_or_else(|| io::ErrorKind::WriteZero.into())))
            }
        }
    }

    /// Size of the file.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Replaces the whole content by `records`, atomically (a new file renamed over the old one).
    pub fn compact<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), JournalError> {
        let mut bytes = Vec::new();
        for record in records {
            bytes.extend_from_slice(&frame(record)?);
        }
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let new = PathBuf::from(name);
        let replaced = (|| {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&new)?;
            file.write_all(&bytes)?;
            std::fs::rename(&new, &self.path)?;
            Ok(file)
        })();
        self.file = replaced.map_err(|e| self.io(e))?;
        self.len_bytes = bytes.len() as u64;
        Ok(())
    }

    fn io(&self, source: io::Error) -> JournalError {
        JournalError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// The good records of the journal at `path`, in order; none if there is no file.
pub fn replay(path: impl AsRef<Path>) -> Result<Vec<Vec<u8>>, JournalError> {
    let path = path.as_ref();
    match std::fs::read(path) {
        Ok(bytes) => {
            let (records, good) = parse(&bytes);
            if good < bytes.len() {
                tracing::warn!(path = %path.display(), torn_bytes = bytes.len() - good, "journal has a torn tail");
            }
            Ok(records.into_iter().map(<[u8]>::to_vec).collect())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(JournalError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn frame(payload: &[u8]) -> Result<Vec<u8>, JournalError> {
    if payload.len() > MAX_RECORD_BYTES {
        return Err(JournalError::TooLong(payload.len()));
    }
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(&crc32(payload).to_le_bytes());
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// The records up to the first that does not check, and where that is.
fn parse(bytes: &[u8]) -> (Vec<&[u8]>, usize) {
    let mut records = Vec::new();
    let mut at = 0;
    while let Some((header, rest)) = bytes[at..].split_first_chunk::<HEADER_BYTES>() {
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let crc = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        if len > MAX_RECORD_BYTES || len > rest.len() || crc32(&rest[..len]) != crc {
            break;
        }
        records.push(&rest[..len]);
        at += HEADER_BYTES + len;
    }
    (records, at)
}

/// Tables for eight bytes at a time: the check of a byte, and of one followed by up to seven zeros.
const CRC_TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0u32; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 {
                0xEDB8_8320 ^ (c >> 1)
            } else {
                c >> 1
            };
            bit += 1;
        }
        tables[0][i] = c;
        i += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut i = 0;
        while i < 256 {
            let before = tables[zeros - 1][i];
            tables[zeros][i] = tables[0][(before & 0xFF) as usize] ^ (before >> 8);
            i += 1;
        }
        zeros += 1;
    }
    tables
};

/// CRC-32 (IEEE) over the length and the payload, so that a run of zeros is no record.
pub(crate) fn crc32(payload: &[u8]) -> u32 {
    let len = (payload.len() as u32).to_le_bytes();
    let c = crc_bytes(!0, &len);
    let (chunks, rest) = payload.as_chunks::<8>();
    let c = chunks.iter().fold(c, |c, chunk| {
        let all = u64::from_le_bytes(*chunk) ^ u64::from(c);
        let bytes = all.to_le_bytes().into_iter().zip(CRC_TABLES.iter().rev());
        bytes.fold(0, |c, (byte, table)| c ^ table[usize::from(byte)])
    });
    !crc_bytes(c, rest)
}

fn crc_bytes(c: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(c, |c, byte| {
        CRC_TABLES[0][((c ^ u32::from(*byte)) & 0xFF) as usize] ^ (c >> 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_tail_is_skipped_and_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut journal = Journal::open(&path).unwrap();
        journal.append(b"one").unwrap();
        journal.append(b"").unwrap();
        journal.append(b"three").unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        for cut in whole.len() - 12..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(replay(&path).unwrap(), vec![b"one".to_vec(), b"".to_vec()]);
        }
        let mut journal = Journal::open(&path).unwrap();
        journal.append(b"four").unwrap();
        assert_eq!(
            replay(&path).unwrap(),
            vec![b"one".to_vec(), b"".to_vec(), b"four".to_vec()]
        );
    }

    #[test]
    fn eight_bytes_at_once_are_as_one_by_one() {
        let bytes: Vec<u8> = (0..300u32).map(|n| (n * 7 + n / 9) as u8).collect();
        for len in (0..40).chain([255, 300]) {
            let bytes = &bytes[..len];
            let c = crc_bytes(!0, &(len as u32).to_le_bytes());
            assert_eq!(crc32(bytes), !crc_bytes(c, bytes), "{len}");
        }
    }

    #[test]
    fn zeros_and_flipped_bits_are_no_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut journal = Journal::open(&path).unwrap();
        journal.append(b"one").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(&[0; 64]);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(replay(&path).unwrap(), vec![b"one".to_vec()]);
        bytes[9] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(replay(&path).unwrap().is_empty());
    }

    #[test]
    fn compaction_replaces_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut journal = Journal::open(&path).unwrap();
        for i in 0..100u32 {
            journal.append(&i.to_le_bytes()).unwrap();
        }
        journal.compact([b"kept".as_slice()]).unwrap();
        journal.append(b"after").unwrap();
        assert_eq!(
            replay(&path).unwrap(),
            vec![b"kept".to_vec(), b"after".to_vec()]
        );
        assert!(matches!(
            journal.append(&vec![0; MAX_RECORD_BYTES + 1]),
            Err(JournalError::TooLong(_))
        ));
        assert!(replay(dir.path().join("absent")).unwrap().is_empty());
    }
}
