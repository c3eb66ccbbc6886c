//! Records of a json-file log: `{"log":"..\n","stream":"stdout","time":"2006-01-02T15:04:05.999999999Z"}`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use gantry_stream::Stream;
use serde::Deserialize;

use crate::{scan, time};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as the inside of a JSON string, escaped as Docker's jsonlog does: `<`, `>`, `&` and control characters
/// other than \n and \r as \u00xx, U+2028/9 escaped, each invalid UTF-8 byte as \ufffd.
pub fn escape_into(out: &mut Vec<u8>, text: &[u8]) {
    // Most lines are ASCII with nothing to escape: one look, one copy.
    let plain = scan::position(text, |b| !plain_ascii(b)).unwrap_or(text.len());
    out.extend_from_slice(&text[..plain]);
    let text = &text[plain..];
    for chunk in text.utf8_chunks() {
        escape_valid(out, chunk.valid());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

fn plain_ascii(byte: u8) -> bool {
    // No short cuts: without branches this is a few vector comparisons.
    (0x20..0x80).contains(&byte)
        & (byte != b'"')
        & (byte != b'\\')
        & (byte != b'<')
        & (byte != b'>')
        & (byte != b'&')
}

fn plain(byte: u8) -> bool {
    // 0xe2 starts U+2028 and U+2029.
    byte >= 0x20 && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2)
}

fn escape_valid(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut start = 0;
    while let Some(n) = bytes[start..].iter().position(|b| !plain(*b)) {
        let at = start + n;
        out.extend_from_slice(&bytes[start..at]);
        start = at + 1;
        match bytes[at] {
            b @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', b]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0xe2 => match bytes.get(at + 1..at + 3) {
                Some([0x80, last @ (0xa8 | 0xa9)]) => {
                    out.extend_from_slice(b"\\u202");
                    out.push(HEX[usize::from(last & 0xf)]);
                    start = at + 3;
                }
                _ => out.push(0xe2),
            },
            b => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(b >> 4)], HEX[usize::from(b & 0xf)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[start..]);
}

/// Appends a record. `attrs` is empty or the JSON object of the container's log attributes; `stamp` an RFC 3339 time.
pub fn encode_into(
    out: &mut Vec<u8>,
    line: &[u8],
    newline: bool,
    stream: Stream,
    attrs: &[u8],
    stamp: &[u8],
) {
    out.extend_from_slice(b"{\"log\":\"");
    escape_into(out, line);
    if newline {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(match stream {
        Stream::Stdout => b"\",\"stream\":\"stdout\"",
        Stream::Stderr => b"\",\"stream\":\"stderr\"",
    });
    if !attrs.is_empty() {
        out.extend_from_slice(b",\"attrs\":");
        out.extend_from_slice(attrs);
    }
    out.extend_from_slice(b",\"time\":\"");
    out.extend_from_slice(stamp);
    out.extend_from_slice(b"\"}\n");
}

/// Appends the container's log attributes as a JSON object.
pub fn attrs_into(out: &mut Vec<u8>, attrs: &BTreeMap<String, String>) {
    for (i, (name, value)) in attrs.iter().enumerate() {
        out.extend_from_slice(if i == 0 { b"{\"" } else { b",\"" });
        escape_into(out, name.as_bytes());
        out.extend_from_slice(b"\":\"");
        escape_into(out, value.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(if attrs.is_empty() { b"{}" } else { b"}" });
}

/// A record that was read.
#[derive(Debug, Deserialize)]
pub struct Record<'a> {
    /// The line, with its newline unless it is a part of one.
    #[serde(borrow, default)]
    pub log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    /// The container's log attributes.
    #[serde(default)]
    pub attrs: Option<BTreeMap<String, String>>,
}

impl Record<'_> {
    /// Which stream.
    pub fn stream(&self) -> Stream {
        if self.stream == "stderr" {
            Stream::Stderr
        } else {
            Stream::Stdout
        }
    }
}

/// Reads a record; with its time in unix nanoseconds. `None`: torn.
pub fn decode(line: &[u8]) -> Option<(Record<'_>, u64)> {
    let record: Record<'_> = serde_json::from_slice(line).ok()?;
    let time = time::parse_rfc3339(&record.time)?;
    Some((record, time))
}
