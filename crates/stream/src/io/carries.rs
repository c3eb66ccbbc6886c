//! Unfinished lines that are too long for the journal, in a file beside it.
//!
//! Each stream has two places there. A commit writes the one that the commit before does not name, and then names it: a kill
//! in between leaves what was committed.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gantry_keeper_proto::shm::{CARRY_BYTES, SlotState};

/// Longest line that a log may ask for.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

type Carries<'a> = [(&'a [u8], u64); 2];

pub(super) struct LongCarries {
    path: PathBuf,
    file: RefCell<Option<File>>,
    /// The place of each stream that the last commit names.
    place: Cell<[u32; 2]>,
}

fn offset(stream: usize, place: u32) -> u64 {
    (stream as u64 * 2 + u64::from(place)) * MAX_LINE_BYTES as u64
}

impl LongCarries {
    /// With what the last commit says; the carries that are here come into it. One that cannot be read is lost.
    pub(super) fn load(path: PathBuf, state: &mut SlotState) -> LongCarries {
        let mut place = [0; 2];
        for (stream, number) in state.long_carry.into_iter().enumerate() {
            if number == 0 {
                continue;
            }
            place[stream] = number & 1;
            let mut bytes = vec![0; ((number >> 1) as usize).min(MAX_LINE_BYTES)];
            let file = File::open(&path);
            let read =
                file.and_then(|f| f.read_exact_at(&mut bytes, offset(stream, place[stream])));
            match read {
                Ok(()) => state.carry[stream].bytes = bytes,
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "an unfinished line can't be read back");
                    state.lost.bytes += bytes.len() as u64;
                    state.lost.records += 1;
                    if state.lost.reason == 0 {
                        state.lost.reason = libc::EIO as u64;
                    }
                }
            }
        }
        LongCarries {
            path,
            file: RefCell::default(),
            place: Cell::new(place),
        }
    }

    /// Writes what is too long for the journal; what the journal is to have of it. One that cannot be written is cut.
    pub(super) fn keep<'a>(&self, mut carries: Carries<'a>) -> (Carries<'a>, [u32; 2]) {
        let (mut numbers, mut places) = ([0; 2], self.place.get());
        for (stream, (bytes, _)) in carries.iter_mut().enumerate() {
            if bytes.len() <= CARRY_BYTES {
                continue;
            }
            let place = places[stream] ^ 1;
            match self.write(bytes, offset(stream, place)) {
                Ok(()) => {
                    places[stream] = place;
                    numbers[stream] = (bytes.len() as u32) << 1 | place;
                    *bytes = &[];
                }
                Err(error) => {
                    tracing::error!(%error, path = %self.path.display(), "an unfinished line can't be kept; a kill would lose its end");
                    *bytes = &bytes[..CARRY_BYTES];
                }
            }
        }
        self.place.set(places);
        (carries, numbers)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut file = self.file.borrow_mut();
        if file.is_none() {
            let mut how = File::options();
            how.write(true).create(true).truncate(false);
            *file = Some(how.open(&self.path)?);
        }
        match &*file {
            Some(file) => file.write_all_at(bytes, offset),
            None => Ok(()),
        }
    }

    /// The run is over.
    pub(super) fn unlink(&self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a file of unfinished lines is left");
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
