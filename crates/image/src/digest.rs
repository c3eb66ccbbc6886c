//! sha256 digests as `sha256:<64 hex>`.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use crate::ImageError;

/// Id of an image: `sha256:<64 hex>`, the digest of its config.
pub type ImageId = String;

const PREFIX: &str = "sha256:";

pub(crate) fn is_hex64(s: &str) -> bool {
    s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The hex part of a well-formed sha256 digest. Anything else (it may come from an archive) is refused.
pub(crate) fn hex_of(digest: &str) -> Result<&str, ImageError> {
    digest
        .strip_prefix(PREFIX)
        .filter(|hex| is_hex64(hex))
        .ok_or_else(|| {
            ImageError::archive(format_args!("invalid or unsupported digest {digest:?}"))
        })
}

pub(crate) fn is_digest(s: &str) -> bool {
    s.strip_prefix(PREFIX).is_some_and(is_hex64)
}

pub(crate) fn format(hash: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(PREFIX.len() + 64);
    text.push_str(PREFIX);
    for byte in hash {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    format(&Sha256::digest(bytes))
}

/// Hashes and counts what is read through it.
pub(crate) struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
    len_bytes: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            len_bytes: 0,
        }
    }

    /// Digest and length of what was read.
    pub(crate) fn finish(self) -> (String, u64) {
        (format(&self.hasher.finalize()), self.len_bytes)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        self.len_bytes += n as u64;
        Ok(n)
    }
}
