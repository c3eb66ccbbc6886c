//! Records as those see them who send them on.

use bytes::Bytes;
use gantry_stream::Stream;

/// A line, or a part of one that was longer than a record may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Unix time; the parts of a line have that of the first.
    pub time_ns: u64,
    /// Where the container wrote it.
    pub stream: Stream,
    /// The text, without the newline at its end.
    pub bytes: Bytes,
    /// `None`: a whole line.
    pub partial: Option<Partial>,
    /// Not output: it says how much was lost here, in words and in the log's own attributes.
    pub gap: bool,
}

/// Which part of a line. Stream and time of a record are the same for all parts of a line and for those only, so that
/// they name the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Counts from 1.
    pub ordinal: u32,
    /// The line ends here. The last part of output without a newline at its end has `false`, as with Docker.
    pub last: bool,
}

impl Record {
    /// A name of the line that this is a part of.
    pub fn partial_id(&self) -> String {
        format!("{:016x}{:048x}", self.time_ns, self.stream as u8)
    }
}

/// Finds out which part of a line each record is. The text of a part that is not the last ends without a newline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Parts of the unfinished line of each stream, and its time.
    open: [(u32, u64); 2],
}

impl Parts {
    /// Takes the newline off and says which part it is.
    pub(crate) fn next(
        &mut self,
        stream: Stream,
        time_ns: u64,
        text: &mut &[u8],
    ) -> Option<Partial> {
        let (open, line_time_ns) = &mut self.open[stream.index()];
        if *line_time_ns != time_ns {
            // Another line: what came before has ended without a newline.
            *open = 0;
        }
        *line_time_ns = time_ns;
        let ordinal = *open + 1;
        match text.strip_suffix(b"\n") {
            Some(line) => {
                *text = line;
                *open = 0;
                (ordinal > 1).then_some(Partial {
                    ordinal,
                    last: true,
                })
            }
            None => {
                *open = ordinal;
                Some(Partial {
                    ordinal,
                    last: false,
                })
            }
        }
    }

    pub(crate) fn words(&self) -> [u64; 4] {
        let [(a, b), (c, d)] = self.open;
        [u64::from(a), b, u64::from(c), d]
    }

    pub(crate) fn from_words([a, b, c, d]: [u64; 4]) -> Parts {
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX - 1);
        Parts {
            open: [(count(a), b), (count(c), d)],
        }
    }
}

/// A place between two records of a log. Saved after what was delivered, it is where the next life goes on: across
/// rotation, compression and restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Which segment.
    pub(crate) segment: u64,
    /// Where in it.
    pub(crate) offset: u64,
    pub(crate) parts: Parts,
}

impl Cursor {
    /// Length of [`Cursor::encode`].
    pub const BYTES: usize = 64;
    const VERSION: u64 = 1;

    /// For a file.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        let parts = self.parts.words();
        let words = [Self::VERSION, self.segment, self.offset];
        let mut sum = 0u64;
        for (chunk, word) in out.chunks_exact_mut(8).zip(words.into_iter().chain(parts)) {
            chunk.copy_from_slice(&word.to_le_bytes());
            sum = sum.rotate_left(7) ^ word;
        }
        out[Self::BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// `None`: not a cursor, or a damaged one.
    pub fn decode(bytes: &[u8]) -> Option<Cursor> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let mut words = [0u64; 8];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().ok()?);
        }
        let [version, segment, offset, a, b, c, d, sum] = words;
        let found = words[..7].iter().fold(0u64, |s, w| s.rotate_left(7) ^ w);
        (version == Self::VERSION && found == sum).then_some(Cursor {
            segment,
            offset,
            parts: Parts::from_words([a, b, c, d]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_line_are_counted() {
        let mut parts = Parts::default();
        let mut see = |stream, time, mut text: &[u8]| {
            let partial = parts.next(stream, time, &mut text);
            (partial.map(|p| (p.ordinal, p.last)), text.to_vec())
        };
        assert_eq!(see(Stream::Stdout, 1, b"a\n"), (None, b"a".to_vec()));
        assert_eq!(
            see(Stream::Stdout, 2, b"b"),
            (Some((1, false)), b"b".to_vec())
        );
        assert_eq!(see(Stream::Stderr, 2, b"c\n"), (None, b"c".to_vec()));
        assert_eq!(
            see(Stream::Stdout, 2, b"d"),
            (Some((2, false)), b"d".to_vec())
        );
        assert_eq!(see(Stream::Stdout, 2, b"\n"), (Some((3, true)), vec![]));
        assert_eq!(
            see(Stream::Stdout, 3, b"e"),
            (Some((1, false)), b"e".to_vec())
        );
        assert_eq!(see(Stream::Stdout, 4, b"f\n"), (None, b"f".to_vec()));
    }

    #[test]
    fn a_cursor_reads_back_and_a_damaged_one_does_not() {
        let cursor = Cursor {
            segment: 7,
            offset: 99,
            parts: Parts::from_words([1, 2, 3, 4]),
        };
        let mut bytes = cursor.encode();
        assert_eq!(Cursor::decode(&bytes), Some(cursor));
        bytes[20] ^= 1;
        assert_eq!(Cursor::decode(&bytes), None);
        assert_eq!(Cursor::decode(&bytes[1..]), None);
    }
}
