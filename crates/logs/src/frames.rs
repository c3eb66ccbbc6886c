//! Segments of `local`: multiplexed frames as they go on the wire, one after the other.
//!
//! What a frame has no room for, its time, is in the index beside the segment (`index.rs`).

use gantry_stream::mux::{HEADER_BYTES, encode_header};
use gantry_stream::{Stream, mux};

/// Longest record a reader believes in. Writers stay far below.
pub(crate) const MAX_RECORD_BYTES: usize = mux::MAX_FRAME_BYTES;

/// A frame of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) stream: Stream,
    /// Header and text.
    pub(crate) whole: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The line, with its newline unless it is a part of one.
    pub(crate) fn text(&self) -> &'a [u8] {
        &self.whole[HEADER_BYTES..]
    }
}

/// Appends a frame.
pub(crate) fn put(out: &mut Vec<u8>, stream: Stream, line: &[u8], newline: bool) {
    let len = line.len() + usize::from(newline);
    out.extend_from_slice(&encode_header(stream as u8, len as u32));
    out.extend_from_slice(line);
    if newline {
        out.push(b'\n');
    }
}

/// The frames of `data`; what is left over where no whole frame follows is damage, or a torn end.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    data: &'a [u8],
}

impl<'a> Walk<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Walk<'a> {
        Walk { data }
    }

    /// What was not walked.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.data
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let (header, _) = self.data.split_first_chunk::<HEADER_BYTES>()?;
        let [stream, 0, 0, 0, a, b, c, d] = *header else {
            return None;
        };
        let stream = Stream::from_number(stream)?;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > MAX_RECORD_BYTES {
            return None;
        }
        let (whole, rest) = self.data.split_at_checked(HEADER_BYTES + len)?;
        self.data = rest;
        Some(Frame { stream, whole })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_are_walked_as_they_were_put(
            lines in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..20),
            torn in 0..12usize,
        ) {
            let mut out = Vec::new();
            for (stderr, line, newline) in &lines {
                let stream = if *stderr { Stream::Stderr } else { Stream::Stdout };
                put(&mut out, stream, line, *newline);
            }
            let whole = out.len();
            out.extend(std::iter::repeat_n(0, torn));
            let mut walk = Walk::new(&out);
            let found: Vec<_> = walk.by_ref().map(|f| (f.stream == Stream::Stderr, f.text().to_vec())).collect();
            let put: Vec<_> = lines.into_iter().map(|(stderr, mut line, newline)| {
                line.extend(newline.then_some(b'\n'));
                (stderr, line)
            }).collect();
            prop_assert_eq!(found, put);
            prop_assert_eq!(walk.rest().len(), out.len() - whole);
        }

        #[test]
        fn no_bytes_panic_the_walk(bytes in proptest::collection::vec(0..3u8, 0..200)) {
            let mut walk = Walk::new(&bytes);
            let taken: usize = walk.by_ref().map(|f| f.whole.len()).sum();
            prop_assert_eq!(taken + walk.rest().len(), bytes.len());
        }
    }
}
