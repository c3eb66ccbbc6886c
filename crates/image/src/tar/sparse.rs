//! Sparse files: GNU's old headers, and the three forms of its PAX records.

use super::pax::decimal;
use super::{BLOCK_BYTES, TarError};

/// Stretches of one file that are no holes.
pub const MAX_SPARSE_EXTENTS: usize = 64 * 1024;

const DAMAGED: TarError = TarError::Header("sparse map");

/// Where a stretch lies in the file, and how long it is.
pub type Stretch = (u64, u64);

/// What PAX records say of a sparse file.
#[derive(Default)]
pub(super) struct Records {
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    major: Option<u64>,
    minor: Option<u64>,
    numbers: Vec<u64>,
    any: bool,
}

impl Records {
    /// A record whose key begins with `GNU.sparse.`; `key` is the rest.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        self.any = true;
        match key {
            b"name" => self.name = Some(super::pax::pax_path(value)?),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"offset" if self.numbers.len().is_multiple_of(2) => self.number(value)?,
            b"numbytes" if !self.numbers.len().is_multiple_of(2) => self.number(value)?,
            b"offset" | b"numbytes" => return Err(DAMAGED),
            b"map" => {
                self.numbers.clear();
                for number in value.split(|b| *b == b',').filter(|_| !value.is_empty()) {
                    self.number(number)?;
                }
            }
            // How many there are shows.
            _ => {}
        }
        Ok(())
    }

    fn number(&mut self, digits: &[u8]) -> Result<(), TarError> {
        if self.numbers.len() >= 2 * MAX_SPARSE_EXTENTS {
            return Err(TarError::Limit("stretches of a sparse file"));
        }
        self.numbers.push(decimal(digits)?);
        Ok(())
    }

    /// Whether the file is sparse; its map may follow (version 1.0).
    pub(super) fn is_sparse(&self) -> Result<bool, TarError> {
        match (self.any, self.major.unwrap_or(0), self.minor.unwrap_or(0)) {
            (any, 0, _) => Ok(any),
            (_, 1, 0) => Ok(true),
            _ => Err(TarError::Unsupported("version of a sparse file")),
        }
    }

    pub(super) fn map_follows(&self) -> bool {
        self.major == Some(1)
    }

    /// The map of an older version.
    pub(super) fn map(&self, stored: u64) -> Result<Map, TarError> {
        let pairs = self.numbers.chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err(DAMAGED);
        }
        let stretches = pairs.map(|pair| (pair[0], pair[1])).collect();
        Map::new(stretches, self.size.ok_or(DAMAGED)?, stored)
    }

    /// The map that was read before the content.
    pub(super) fn map_of(&self, stretches: Vec<Stretch>, stored: u64) -> Result<Map, TarError> {
        Map::new(stretches, self.size.ok_or(DAMAGED)?, stored)
    }
}

/// Reads the lines of numbers of a map of version 1.0, block by block.
#[derive(Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    count: Option<u64>,
    numbers: Vec<u64>,
}

impl Lines {
    /// Takes a block; whether the map is whole.
    pub(super) fn add(&mut self, block: &[u8; BLOCK_BYTES]) -> Result<bool, TarError> {
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > 20 {
                    return Err(DAMAGED);
                }
                continue;
            }
            let number = decimal(&self.line).map_err(|_| DAMAGED)?;
            self.line.clear();
            match self.count {
                None if number > MAX_SPARSE_EXTENTS as u64 => {
                    return Err(TarError::Limit("stretches of a sparse file"));
                }
                None => self.count = Some(number),
                Some(_) => self.numbers.push(number),
            }
            if self
                .count
                .is_some_and(|n| self.numbers.len() as u64 == 2 * n)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn stretches(&self) -> Vec<Stretch> {
        self.numbers.chunks_exact(2).map(|p| (p[0], p[1])).collect()
    }
}

/// Stretches of an old header or of a block that continues it; empty fields end them.
pub(super) fn old_stretches(
    fields: &[u8],
    to: &mut Vec<Stretch>,
    number: impl Fn(&[u8]) -> Result<u64, TarError>,
) -> Result<(), TarError> {
    for pair in fields.chunks_exact(24).take_while(|pair| pair[0] != 0) {
        if to.len() >= MAX_SPARSE_EXTENTS {
            return Err(TarError::Limit("stretches of a sparse file"));
        }
        to.push((number(&pair[..12])?, number(&pair[12..])?));
    }
    Ok(())
}

/// The content of a sparse file: stretches of what is stored, and how far it was read.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) stretches: Vec<Stretch>,
    pub(super) size: u64,
    next: usize,
    at: u64,
}

/// What comes next of a sparse file.
pub(super) enum Next {
    /// So many zeros.
    Hole(u64),
    /// So many stored bytes.
    Stored(u64),
    End,
}

impl Map {
    /// In order, apart, inside the file, and all that is stored.
    pub(super) fn new(
        mut stretches: Vec<Stretch>,
        size: u64,
        stored: u64,
    ) -> Result<Map, TarError> {
        let (mut end, mut sum) = (0u64, 0u64);
        for (at, len) in &stretches {
            let next = at.checked_add(*len).ok_or(DAMAGED)?;
            if *at < end || next > size {
                return Err(DAMAGED);
            }
            end = next;
            sum += len;
        }
        if sum != stored || i64::try_from(size).is_err() {
            return Err(DAMAGED);
        }
        stretches.retain(|(_, len)| *len > 0);
        Ok(Map {
            stretches,
            size,
            next: 0,
            at: 0,
        })
    }

    pub(super) fn next(&self) -> Next {
        match self.stretches.get(self.next) {
            Some((start, _)) if self.at < *start => Next::Hole(start - self.at),
            Some((start, len)) => Next::Stored(start + len - self.at),
            None if self.at < self.size => Next::Hole(self.size - self.at),
            None => Next::End,
        }
    }

    pub(super) fn advance(&mut self, bytes: u64) {
        self.at += bytes;
        let passed = |(start, len): &Stretch| start + len <= self.at;
        if self.stretches.get(self.next).is_some_and(passed) {
            self.next += 1;
        }
    }
}
