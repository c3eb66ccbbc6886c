//! Extended header records of one entry.

use super::reader::MAX_PATH_BYTES;
use super::writer::octal_limit;
use super::{Entry, Kind, TarError, sparse};

/// Longest value of an extended attribute (the kernel's limit).
pub const MAX_XATTR_VALUE_BYTES: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: sparse::Records,
}

impl Extensions {
    /// Adds the records of one `x` header.
    pub(super) fn add_pax(&mut self, mut bytes: &[u8]) -> Result<(), TarError> {
        while !bytes.is_empty() {
            let (record, rest) = split_record(bytes)?;
            bytes = rest;
            let at = record
                .iter()
                .position(|b| *b == b'=')
                .ok_or(TarError::Header("pax record"))?;
            self.add_record(&record[..at], &record[at + 1..])?;
        }
        Ok(())
    }

    fn add_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if name.is_empty() || name.contains(&0) || value.len() > MAX_XATTR_VALUE_BYTES {
                return Err(TarError::Header("extended attribute"));
            }
            self.xattrs.retain(|(known, _)| known != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        // An empty value takes an earlier record back.
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| pax_path(value)).transpose()?,
            b"linkpath" => self.link = given.then(|| pax_path(value)).transpose()?,
            b"size" => self.size = given.then(|| decimal(value)).transpose()?,
            b"uid" => self.uid = given.then(|| decimal(value)).transpose()?,
            b"gid" => self.gid = given.then(|| decimal(value)).transpose()?,
            b"mtime" => self.mtime = given.then(|| time(value)).transpose()?,
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.add(key, value)?;
                }
            }
        }
        Ok(())
    }
}

/// Records to be written for one entry.
#[derive(Default)]
pub(super) struct Records(Vec<u8>);

/// Longest name or link target of a plain header.
const HEADER_NAME_BYTES: usize = 100;

impl Records {
    /// What the header of an entry has no place for. `path` is the entry's, as it is written.
    pub(super) fn of(entry: &Entry, path: &[u8]) -> Records {
        let mut records = Records::default();
        let needs = |text: &[u8]| text.len() > HEADER_NAME_BYTES || !text.is_ascii();
        if needs(path) {
            records.add(b"path", path);
        }
        if needs(&entry.link) {
            records.add(b"linkpath", &entry.link);
        }
        let mut number = |key: &[u8], value: u64, field_bytes| {
            if value > octal_limit(field_bytes) {
                records.add(key, value.to_string().as_bytes());
            }
        };
        number(b"uid", entry.uid.into(), 8);
        number(b"gid", entry.gid.into(), 8);
        if entry.kind == Kind::File {
            number(b"size", entry.size, 12);
        }
        let fits = u64::try_from(entry.mtime_s).is_ok_and(|s| s <= octal_limit(12));
        if !fits || entry.mtime_ns != 0 {
            records.add(b"mtime", &time_text(entry.mtime_s, entry.mtime_ns));
        }
        for (name, value) in &entry.xattrs {
            // A name with the sign between key and value cannot be told from it.
            if !name.contains(&b'=') {
                records.add(&[b"SCHILY.xattr.", &name[..]].concat(), value);
            }
        }
        records
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        // The length counts its own digits.
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.0.extend_from_slice(format!("{length} ").as_bytes());
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }
}

/// The inverse of [`time`].
fn time_text(seconds: i64, nanos: u32) -> Vec<u8> {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let (sign, total) = if total < 0 {
        ("-", -total)
    } else {
        ("", total)
    };
    let (seconds, nanos) = (total / 1_000_000_000, total % 1_000_000_000);
    if nanos == 0 {
        return format!("{sign}{seconds}").into_bytes();
    }
    format!("{sign}{seconds}.{nanos:09}").into_bytes()
}

/// `"<length> key=value\n"`; the length counts the whole record.
fn split_record(bytes: &[u8]) -> Result<(&[u8], &[u8]), TarError> {
    let bad = TarError::Header("pax record");
    let Some(space) = bytes.iter().take(20).position(|b| *b == b' ') else {
        return Err(bad);
    };
    let len =
        usize::try_from(decimal(&bytes[..space])?).map_err(|_| TarError::Header("pax record"))?;
    if len <= space + 1 || len > bytes.len() || bytes[len - 1] != b'\n' {
        return Err(bad);
    }
    Ok((&bytes[space + 1..len - 1], &bytes[len..]))
}

pub(super) fn pax_path(value: &[u8]) -> Result<Vec<u8>, TarError> {
    if value.contains(&0) {
        return Err(TarError::Header("NUL in a path"));
    }
    if value.len() > MAX_PATH_BYTES {
        return Err(TarError::Limit("path length"));
    }
    Ok(value.to_vec())
}

pub(super) fn decimal(digits: &[u8]) -> Result<u64, TarError> {
    if digits.is_empty() {
        return Err(TarError::Header("pax number"));
    }
    digits.iter().try_fold(0u64, |value, b| match b {
        b'0'..=b'9' => value
            .checked_mul(10)
            .and_then(|v| v.checked_add(u64::from(b - b'0')))
            .ok_or(TarError::Header("pax number")),
        _ => Err(TarError::Header("pax number")),
    })
}

/// `[-]seconds[.fraction]` as floor seconds and nanoseconds.
fn time(value: &[u8]) -> Result<(i64, u32), TarError> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let dot = value.iter().position(|b| *b == b'.');
    let whole = decimal(&value[..dot.unwrap_or(value.len())])?;
    let seconds = i64::try_from(whole).map_err(|_| TarError::Header("pax time"))?;
    let mut nanos = 0u32;
    if let Some(dot) = dot {
        let fraction = &value[dot + 1..];
        if !fraction.iter().all(u8::is_ascii_digit) {
            return Err(TarError::Header("pax time"));
        }
        for i in 0..9 {
            nanos = nanos * 10 + fraction.get(i).map_or(0, |b| u32::from(b - b'0'));
        }
    }
    match (negative, nanos) {
        (false, _) => Ok((seconds, nanos)),
        (true, 0) => Ok((-seconds, 0)),
        (true, _) => Ok((-seconds - 1, 1_000_000_000 - nanos)),
    }
}
