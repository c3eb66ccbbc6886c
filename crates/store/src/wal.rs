//! The write-ahead log beside the database: what was committed since the last transaction of the database.
//!
//! A transaction of the database writes some seven pages; a record here is one write and one sync of a file that is
//! allocated ahead. The database takes over what is here when the file is full, when a record does not fit, when it could
//! not be written, at the end and at the next start: with one transaction, which also counts the generation up.
//!
//! A record is `length of what follows the check (u32 LE) | crc32 of that (u32 LE) | generation (u64 LE) | changes`, at a
//! multiple of [`RECORD_ALIGNMENT`], so that no later write touches the page of one that was answered. Those of another
//! generation than the database's are old. Nothing is ever appended behind a record that may be torn: a new generation
//! begins.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::Table;
use crate::batch::Changes;
use crate::journal::crc32;

/// Size of the file.
pub const WAL_BYTES: u64 = 1 << 20;
/// Where records begin.
pub const RECORD_ALIGNMENT: u64 = 4096;
/// Length and check.
const HEADER_BYTES: usize = 8;
const GENERATION_BYTES: usize = 8;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// The open log.
#[derive(Debug)]
pub(crate) struct Wal {
    file: File,
    /// Where the next record goes.
    end: u64,
    generation: u64,
    /// A write has failed: what it left is not known until the next generation.
    torn: bool,
}

/// What the log of a generation has.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) changes: Changes,
    /// Something of this generation is there, whole or not.
    pub(crate) used: bool,
}

/// The log of the database at `path`.
pub(crate) fn path_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".wal");
    PathBuf::from(name)
}

impl Wal {
    /// Opens or makes the file, whole. The database is locked by us.
    pub(crate) fn open(path: &Path, generation: u64) -> io::Result<Wal> {
        // Documents of clients are in it, with their secrets: it is root's alone.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        let len = file.metadata()?.len();
        if len < WAL_BYTES {
            // Written, not only reserved: a sync must not have to change the file's extents.
            let zeros = vec![0u8; (WAL_BYTES - len) as usize];
            file.write_all_at(&zeros, len)?;
            file.sync_all()?;
            if let Some(dir) = path.parent() {
                File::open(dir)?.sync_all()?;
            }
        }
        Ok(Wal {
            file,
            end: 0,
            generation,
            torn: false,
        })
    }

    /// What was committed in this generation, in order.
    pub(crate) fn replay(&self) -> io::Result<Replay> {
        let mut bytes = vec![0; self.file.metadata()?.len() as usize];
        self.file.read_exact_at(&mut bytes, 0)?;
        let mut replay = Replay::default();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..) {
            match record(rest, self.generation) {
                Found::Nothing => break,
                Found::Torn => {
                    replay.used = true;
                    tracing::warn!(at, "the metadata log has a torn tail");
                    break;
                }
                Found::Record(payload) => {
                    replay.used = true;
                    let changes = decode(payload).ok_or_else(|| {
                        io::Error::other("a record of the metadata log is whole but has no meaning")
                    })?;
                    replay.changes.extend(changes);
                    at += aligned(HEADER_BYTES + GENERATION_BYTES + payload.len());
                }
            }
        }
        Ok(replay)
    }

    /// Commits changes. False: there is no room, or a write has failed (now or before); the database has to take them,
    /// with [`Wal::generation`] counted up.
    pub(crate) fn append(&mut self, changes: &Changes) -> bool {
        if self.torn {
            return false;
        }
        let Some(mut record) = encode(changes, self.generation) else {
            return false;
        };
        // Whole pages: of one that is written in part the kernel would have to read the rest.
        record.resize(aligned(record.len()), 0);
        let after = self.end + record.len() as u64;
        if after > WAL_BYTES {
            return false;
        }
        let written = self
            .file
            .write_all_at(&record, self.end)
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.end = after;
                true
            }
            Err(e) => {
                tracing::error!(error = %e, "the metadata log cannot be written");
                self.torn = true;
                false
            }
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether it has records.
    pub(crate) fn is_used(&self) -> bool {
        self.end > 0 || self.torn
    }

    /// The database has everything, and this generation.
    pub(crate) fn begin(&mut self, generation: u64) {
        self.generation = generation;
        self.end = 0;
        self.torn = false;
    }
}

fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(RECORD_ALIGNMENT as usize)
}

enum Found<'a> {
    /// Never written, or of an older generation.
    Nothing,
    Torn,
    Record(&'a [u8]),
}

fn record(bytes: &[u8], generation: u64) -> Found<'_> {
    let number = |from: usize| Some(u32::from_le_bytes(*bytes.get(from..)?.first_chunk()?));
    let (Some(len), Some(check)) = (number(0), number(4)) else {
        return Found::Nothing;
    };
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let of = body.first_chunk().map(|g| u64::from_le_bytes(*g));
    if len == 0 || of != Some(generation) {
        return Found::Nothing;
    }
    match body.get(..len as usize) {
        Some(body) if body.len() >= GENERATION_BYTES && crc32(body) == check => {
            Found::Record(&body[GENERATION_BYTES..])
        }
        _ => Found::Torn,
    }
}

/// The record of changes, unless it is longer than the log could ever have.
fn encode(changes: &Changes, generation: u64) -> Option<Vec<u8>> {
    let mut record = vec![0; HEADER_BYTES];
    record.extend_from_slice(&generation.to_le_bytes());
    let put = |record: &mut Vec<u8>, bytes: &[u8]| {
        record.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        record.extend_from_slice(bytes);
    };
    for ((table, key), value) in changes {
        let bytes = key.len() + value.as_ref().map_or(0, Vec::len);
        if record.len() + bytes > WAL_BYTES as usize {
            return None;
        }
        let kind = value.as_ref().map_or(DELETE, |_| PUT);
        record.extend_from_slice(&[kind, table.number()]);
        put(&mut record, key.as_bytes());
        if let Some(value) = value {
            put(&mut record, value);
        }
    }
    let body = &record[HEADER_BYTES..];
    let (len, check) = (body.len() as u32, crc32(body));
    record[..4].copy_from_slice(&len.to_le_bytes());
    record[4..HEADER_BYTES].copy_from_slice(&check.to_le_bytes());
    Some(record)
}

fn decode(mut payload: &[u8]) -> Option<Changes> {
    fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (taken, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        *bytes = rest;
        Some(taken)
    }
    let mut changes = Changes::new();
    while let Some(([kind, table], rest)) = payload.split_first_chunk::<2>() {
        payload = rest;
        let table = Table::from_number(*table)?;
        let key = String::from_utf8(take(&mut payload)?.to_vec()).ok()?;
        let value = match *kind {
            PUT => Some(take(&mut payload)?.to_vec()),
            DELETE => None,
            _ => return None,
        };
        changes.insert((table, key), value);
    }
    payload.is_empty().then_some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, bytes: usize) -> Changes {
        Changes::from([((Table::Containers, key.to_owned()), Some(vec![7; bytes]))])
    }

    fn keys(replay: Replay) -> Vec<String> {
        replay.changes.into_keys().map(|(_, key)| key).collect()
    }

    #[test]
    fn a_torn_record_and_an_old_one_are_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        let mut wal = Wal::open(&path, 3).unwrap();
        assert!(!wal.replay().unwrap().used);
        for key in ["a", "b", "c"] {
            assert!(wal.append(&put(key, 5000)));
        }
        assert_eq!(keys(wal.replay().unwrap()), ["a", "b", "c"]);
        // The second page of the last one.
        wal.file.write_all_at(&[0; 100], 5 * 4096 + 10).unwrap();
        let replay = wal.replay().unwrap();
        assert!(replay.used);
        assert_eq!(keys(replay), ["a", "b"]);
        wal.begin(4);
        assert!(!wal.is_used() && !wal.replay().unwrap().used);
        assert!(wal.append(&put("d", 1)));
        // Behind it the second page of "a" of the generation before.
        assert_eq!(keys(wal.replay().unwrap()), ["d"]);
        let gone = Changes::from([((Table::Meta, "m".to_owned()), None)]);
        assert!(wal.append(&gone));
        let replay = wal.replay().unwrap();
        assert_eq!(
            replay.changes.get(&(Table::Meta, "m".to_owned())),
            Some(&None)
        );
        assert_eq!(keys(replay), ["d", "m"]);
    }

    #[test]
    fn what_does_not_fit_is_for_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let mut wal = Wal::open(&dir.path().join("w"), 0).unwrap();
        assert!(!wal.append(&put("a", WAL_BYTES as usize)));
        let records = WAL_BYTES / RECORD_ALIGNMENT;
        assert!((0..records).all(|n| wal.append(&put(&n.to_string(), 1))));
        assert!(!wal.append(&put("a", 1)));
        assert_eq!(wal.replay().unwrap().changes.len() as u64, records);
    }
}
