//! Records of a json-file log: `{"log":"..\n","stream":"stdout","time":"2006-01-02T15:04:05.999999999Z"}`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::BufMut;
use gantry_stream::Stream;
use serde::Deserialize;

use crate::loss::GAP_ATTRIBUTE;
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

    /// It says what was lost.
    pub fn is_gap(&self) -> bool {
        let attrs = self.attrs.as_ref();
        attrs.is_some_and(|attrs| attrs.contains_key(GAP_ATTRIBUTE))
    }
}

/// Reads a record; with its time in unix nanoseconds. `None`: torn.
pub fn decode(line: &[u8]) -> Option<(Record<'_>, u64)> {
    let record: Record<'_> = serde_json::from_slice(line).ok()?;
    let time = time::parse_rfc3339(&record.time)?;
    Some((record, time))
}

/// A record that was taken apart and not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a> {
    /// The line as it stands in the record, escaped.
    pub log: &'a [u8],
    /// Nothing is escaped in it but a newline at its end.
    pub is_plain: bool,
    /// Which stream.
    pub stream: Stream,
    /// The attributes' JSON object, or nothing.
    pub attrs: &'a [u8],
    /// Unix time.
    pub time_ns: u64,
}

/// Whether attributes are those of a record that says what was lost.
pub fn is_gap(attrs: &[u8]) -> bool {
    !attrs.is_empty() && memchr::memmem::find(attrs, GAP_ATTRIBUTE.as_bytes()).is_some()
}

/// Takes a record apart as Docker and we write it, an order of magnitude faster than [`decode`]; `None`: it is not one, or
/// has another form.
pub fn split<'a>(line: &'a [u8], clock: &mut Clock) -> Option<Raw<'a>> {
    let rest = line.strip_prefix(b"{\"log\":\"")?;
    let (log, is_plain, rest) = string(rest)?;
    let (stream, rest) = stream(rest)?;
    let rest = rest.strip_suffix(b"\n").unwrap_or(rest);
    let rest = rest.strip_suffix(b"\"}")?;
    let stamp = memchr::memrchr(b'"', rest)? + 1;
    let (before, stamp) = rest.split_at(stamp);
    let before = before.strip_suffix(b",\"time\":\"")?;
    let attrs = match before {
        [] => before,
        _ => before.strip_prefix(b",\"attrs\":")?,
    };
    if !attrs.is_empty() && !clock.has_seen(attrs) {
        return None;
    }
    Some(Raw {
        log,
        is_plain,
        stream,
        attrs,
        time_ns: clock.read(stamp)?,
    })
}

/// Takes the record apart that `data` begin with, without looking for its end first; and its length. `None`: it is longer
/// than `data`, has attributes, or is one for [`split`].
pub fn split_first<'a>(data: &'a [u8], clock: &mut Clock) -> Option<(Raw<'a>, usize)> {
    let (log, is_plain, rest) = string(data.strip_prefix(b"{\"log\":\"")?)?;
    let (stream, rest) = stream(rest)?;
    let rest = rest.strip_prefix(b",\"time\":\"")?;
    // Nine times of ten it is as long as it can be.
    let close = match rest.get(Clock::LONGEST) {
        Some(b'"') => Clock::LONGEST,
        _ => memchr::memchr(b'"', &rest[..rest.len().min(Clock::LONGEST)])?,
    };
    let (stamp, rest) = rest.split_at(close);
    let rest = rest.strip_prefix(b"\"}\n")?;
    let raw = Raw {
        log,
        is_plain,
        stream,
        attrs: b"",
        time_ns: clock.read(stamp)?,
    };
    Some((raw, data.len() - rest.len()))
}

/// The inside of a JSON string, whether nothing is escaped in it but a newline at its end, and what follows its quote.
fn string(text: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let (mut end, mut is_plain) = (0, true);
    loop {
        end += memchr::memchr3(b'"', b'\\', b'\n', &text[end..])?;
        match text[end] {
            b'"' => break,
            b'\\' => {
                // What is escaped is at least one byte, whatever it is.
                end += 2;
                is_plain &= text.get(end - 1..=end)? == b"n\"";
            }
            // A record that was cut off, and the next one.
            _ => return None,
        }
    }
    Some((&text[..end], is_plain, &text[end + 1..]))
}

/// What follows the quote of the line.
fn stream(text: &[u8]) -> Option<(Stream, &[u8])> {
    let rest = text.strip_prefix(b",\"stream\":\"std")?;
    match rest.split_first_chunk::<4>()? {
        (b"out\"", rest) => Some((Stream::Stdout, rest)),
        (b"err\"", rest) => Some((Stream::Stderr, rest)),
        _ => None,
    }
}

/// Reads times that mostly lie in the same second as the one before, and attributes that mostly are the same.
#[derive(Debug, Default)]
pub struct Clock {
    second: [u8; 19],
    second_ns: u64,
    attrs: Vec<u8>,
}

impl Clock {
    /// Longest time: `2006-01-02T15:04:05.999999999Z`.
    const LONGEST: usize = 30;

    /// Whether these are attributes: what is torn in them may go on in the next record.
    fn has_seen(&mut self, attrs: &[u8]) -> bool {
        if self.attrs != attrs {
            if serde_json::from_slice::<BTreeMap<String, String>>(attrs).is_err() {
                return false;
            }
            attrs.clone_into(&mut self.attrs);
        }
        true
    }

    /// A time as Go's RFC3339Nano in UTC.
    fn read(&mut self, stamp: &[u8]) -> Option<u64> {
        let (second, rest) = stamp.split_first_chunk::<19>()?;
        if *second != self.second {
            let text = std::str::from_utf8(second).ok()?;
            let second_ns = time::parse_rfc3339(&format!("{text}Z"))?;
            // What is before 1970 is 0, whatever its fraction.
            if second_ns == 0 && text != "1970-01-01T00:00:00" {
                return None;
            }
            self.second_ns = second_ns;
            self.second = *second;
        }
        let nanos = match <[u8; 11]>::try_from(rest) {
            // Nine times of ten.
            Ok([b'.', a, b, c, d, e, f, g, h, last, b'Z']) if last.is_ascii_digit() => {
                eight_digits([a, b, c, d, e, f, g, h])? * 10 + u64::from(last - b'0')
            }
            _ => fraction(rest)?,
        };
        self.second_ns.checked_add(nanos)
    }
}

/// The nanoseconds that a fraction of a second and a `Z` are.
fn fraction(text: &[u8]) -> Option<u64> {
    match text {
        b"Z" => Some(0),
        [b'.', digits @ .., b'Z'] if (1..=9).contains(&digits.len()) => {
            let mut nanos = 0u64;
            for digit in digits {
                nanos = nanos * 10 + u64::from(digit.wrapping_sub(b'0'));
                if !digit.is_ascii_digit() {
                    return None;
                }
            }
            Some(nanos * 10u64.pow(9 - digits.len() as u32))
        }
        _ => None,
    }
}

/// The number that eight decimal digits are, all of them at once.
fn eight_digits(digits: [u8; 8]) -> Option<u64> {
    const HIGH: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    let text = u64::from_le_bytes(digits);
    // '0' to '9' and no others are 0x3X, also when 6 is added.
    let above = text.wrapping_add(0x0606_0606_0606_0606);
    if text & HIGH != ZEROS || above & HIGH != ZEROS {
        return None;
    }
    let pairs = (text & !HIGH).wrapping_mul(10 << 8 | 1) >> 8;
    let fours = (pairs & 0x00ff_00ff_00ff_00ff).wrapping_mul(100 << 16 | 1) >> 16;
    Some((fours & 0x0000_ffff_0000_ffff).wrapping_mul(10_000 << 32 | 1) >> 32)
}

/// Appends what the inside of a JSON string stands for; false if it is none.
pub fn unescape_into(out: &mut impl BufMut, mut text: &[u8]) -> bool {
    while let Some(n) = memchr::memchr(b'\\', text) {
        out.put_slice(&text[..n]);
        let Some(escape) = text.get(n + 1) else {
            return false;
        };
        text = &text[n + 2..];
        match escape {
            b'n' => out.put_u8(b'\n'),
            b'r' => out.put_u8(b'\r'),
            b't' => out.put_u8(b'\t'),
            b'"' | b'\\' | b'/' => out.put_u8(*escape),
            b'b' => out.put_u8(8),
            b'f' => out.put_u8(12),
            b'u' => match unicode(&mut text) {
                Some(c) => out.put_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                None => return false,
            },
            _ => return false,
        }
    }
    out.put_slice(text);
    true
}

/// The character of `\u` and four digits, or of two of them.
fn unicode(text: &mut &[u8]) -> Option<char> {
    let first = hex4(text)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first);
    }
    *text = text.strip_prefix(b"\\u")?;
    let second = hex4(text)?;
    (0xdc00..0xe000).contains(&second).then_some(())?;
    char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))
}

fn hex4(text: &mut &[u8]) -> Option<u32> {
    let (digits, rest) = text.split_first_chunk::<4>()?;
    *text = rest;
    let digit = |b: &u8| char::from(*b).to_digit(16);
    digits.iter().try_fold(0, |n, b| Some(n << 4 | digit(b)?))
}

#[cfg(test)]
mod tests;
