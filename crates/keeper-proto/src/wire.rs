//! Little-endian fields in a row: how messages and plans are written.
//!
//! Readers ignore what follows the fields they know, so a newer side can append fields.

use std::ffi::{CStr, CString};

/// Longest byte string that is believed.
pub const MAX_FIELD_BYTES: usize = 4 * 1024 * 1024;
/// Most elements of a list that are believed.
pub const MAX_LIST_LEN: usize = 64 * 1024;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// the bytes end in the middle of a field
    #[error("the bytes end in the middle of a field")]
    Short,
    /// a length is past its limit
    #[error("a length is past its limit: {0}")]
    TooLong(usize),
    /// a field has a value that is not known
    #[error("{field} has a value that is not known: {value}")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// a string holds a byte it must not hold
    #[error("a string holds a byte it must not hold")]
    BadString,
    /// the plan names a file descriptor that was not sent
    #[error("the plan names file descriptor {0}, which was not sent")]
    NoFd(u8),
}

/// Appends fields.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Empty.
    pub fn new() -> Writer {
        Writer(Vec::with_capacity(512))
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }

    /// A truth value as 0 or 1.
    pub fn bool(&mut self, v: bool) -> &mut Self {
        self.u8(v.into())
    }

    /// Two bytes.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// Four bytes.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// Four bytes, signed.
    pub fn i32(&mut self, v: i32) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// Eight bytes.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// Length and bytes.
    pub fn bytes(&mut self, v: &[u8]) -> &mut Self {
        self.u32(v.len() as u32);
        self.0.extend_from_slice(v);
        self
    }

    /// Count and elements.
    pub fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.u32(items.len() as u32);
        for item in items {
            each(self, item);
        }
        self
    }

    /// A list of strings.
    pub fn cstrs(&mut self, items: &[CString]) -> &mut Self {
        self.list(items, |w, s| {
            w.bytes(s.as_bytes());
        })
    }

    /// Whether there is one, and it.
    pub fn option<T>(&mut self, v: Option<T>, each: impl FnOnce(&mut Self, T)) -> &mut Self {
        self.bool(v.is_some());
        if let Some(v) = v {
            each(self, v);
        }
        self
    }
}

/// Takes fields off.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take(N)?.try_into().map_err(|_| WireError::Short)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    /// A truth value.
    pub fn bool(&mut self) -> Result<bool, WireError> {
        Ok(self.u8()? != 0)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Four bytes, signed.
    pub fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Length and bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.u32()? as usize;
        if len > MAX_FIELD_BYTES {
            return Err(WireError::TooLong(len));
        }
        self.take(len)
    }

    /// A UTF-8 string.
    pub fn string(&mut self) -> Result<String, WireError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| WireError::BadString)
    }

    /// A string without NUL.
    pub fn cstring(&mut self) -> Result<CString, WireError> {
        CString::new(self.bytes()?).map_err(|_| WireError::BadString)
    }

    /// Count and elements.
    pub fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let len = self.u32()? as usize;
        if len > MAX_LIST_LEN {
            return Err(WireError::TooLong(len));
        }
        // Not reserved ahead: the count is only believed as elements come.
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(each(self)?);
        }
        Ok(items)
    }

    /// A list of strings.
    pub fn cstrs(&mut self) -> Result<Vec<CString>, WireError> {
        self.list(Reader::cstring)
    }

    /// Something that may be absent.
    pub fn option<T>(
        &mut self,
        each: impl FnOnce(&mut Self) -> Result<T, WireError>,
    ) -> Result<Option<T>, WireError> {
        Ok(if self.bool()? {
            Some(each(self)?)
        } else {
            None
        })
    }
}

/// For error texts: a C string as readable text.
pub fn lossy(s: &CStr) -> String {
    s.to_string_lossy().into_owned()
}
