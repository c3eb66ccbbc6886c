//! A record as it goes on the wire.

use bytes::BufMut;
use gantry_stream::{Stream, mux};

use crate::{json, time};

use super::LogQuery;

/// The text of a record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Text<'a> {
    /// As it is.
    Plain(&'a [u8]),
    /// As it is, and a newline.
    Line(&'a [u8]),
    /// The inside of a JSON string.
    Escaped(&'a [u8]),
}

/// A record that is to be rendered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub(super) stream: Stream,
    pub(super) time_ns: u64,
    pub(super) text: Text<'a>,
    /// Attributes (JSON object), or nothing.
    pub(super) attrs: &'a [u8],
    /// It says what was lost.
    pub(super) gap: bool,
}

/// Appends the record if the client wants it; false if its text cannot be read. What was lost is said to every client:
/// to one that does not read stderr on stdout.
pub(super) fn render(out: &mut Vec<u8>, item: &Item<'_>, query: &LogQuery) -> bool {
    let stream = match item.stream {
        Stream::Stderr if item.gap && !query.stderr => Stream::Stdout,
        other => other,
    };
    let wanted = match stream {
        Stream::Stdout => query.stdout,
        Stream::Stderr => query.stderr,
    };
    if !wanted {
        return true;
    }
    let start = out.len();
    if !query.tty {
        out.put_slice(&mux::encode_header(stream as u8, 0));
    }
    if query.timestamps || query.details {
        put_head(out, item, query);
    }
    match item.text {
        Text::Plain(text) => out.extend_from_slice(text),
        Text::Line(text) => {
            out.extend_from_slice(text);
            out.push(b'\n');
        }
        Text::Escaped(text) if json::unescape_into(out, text) => {}
        Text::Escaped(_) => {
            out.truncate(start);
            return false;
        }
    }
    if !query.tty {
        let len = (out.len() - start - mux::HEADER_BYTES) as u32;
        out[start + 4..start + mux::HEADER_BYTES].copy_from_slice(&len.to_be_bytes());
    }
    true
}

fn put_head(out: &mut Vec<u8>, item: &Item<'_>, query: &LogQuery) {
    if query.timestamps {
        let mut stamp = Vec::with_capacity(32);
        time::format_into(&mut stamp, item.time_ns, true);
        out.put_slice(&stamp);
        out.put_u8(b' ');
    }
    if query.details {
        let attrs: std::collections::BTreeMap<String, String> =
            serde_json::from_slice(item.attrs).unwrap_or_default();
        for (n, (name, value)) in attrs.iter().enumerate() {
            if n > 0 {
                out.put_u8(b',');
            }
            query_escape(out, name);
            out.put_u8(b'=');
            query_escape(out, value);
        }
        out.put_u8(b' ');
    }
}

/// Go's url.QueryEscape.
pub(crate) fn query_escape(out: &mut impl BufMut, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.put_u8(b),
            b' ' => out.put_u8(b'+'),
            _ => out.put_slice(&[b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]),
        }
    }
}
