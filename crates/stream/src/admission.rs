//! What a buffer that is full takes of a container's output: whole lines, as long as they fit.

use gantry_keeper_proto::shm::{CARRY_BYTES, Stream};

/// Which part of a piece is kept, and what is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// Bytes in front of the kept part, and lines that end there.
    pub(crate) before: (u64, u64),
    /// Where the kept part begins, and where it ends.
    pub(crate) kept: (usize, usize),
    /// Bytes behind it, and lines that end there.
    pub(crate) after: (u64, u64),
}

/// The rule, and where each stream stands.
#[derive(Debug)]
pub(crate) struct Admission {
    max_bytes: u64,
    /// Bytes that were dropped since the last newline, if the last ones were.
    dropped: [Option<u64>; 2],
}

impl Admission {
    pub(crate) fn new(max_bytes: u64) -> Admission {
        Admission {
            max_bytes,
            dropped: [None; 2],
        }
    }

    /// Looks at a piece when so many bytes wait. What is kept of it leaves out no line in its middle: the rest of one whose
    /// beginning was dropped is dropped too, but for lines without an end. As Docker's, an empty buffer takes any line.
    pub(crate) fn admit(&mut self, stream: Stream, piece: &[u8], waiting_bytes: u64) -> Admitted {
        let dropped = &mut self.dropped[stream.index()];
        let mut admitted = Admitted::default();
        let mut start = 0;
        if let Some(bytes) = *dropped {
            let Some(end) = memchr::memchr(b'\n', piece) else {
                let bytes = bytes + piece.len() as u64;
                *dropped = (bytes < CARRY_BYTES as u64).then_some(bytes);
                admitted.before = (piece.len() as u64, 0);
                admitted.kept = (piece.len(), piece.len());
                return admitted;
            };
            start = end + 1;
            admitted.before = (start as u64, 1);
            *dropped = None;
        }
        let rest = &piece[start..];
        let room = self.max_bytes.saturating_sub(waiting_bytes);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let kept = match (rest.len() <= room, waiting_bytes) {
            (true, _) => rest.len(),
            (false, 0) => match memchr::memrchr(b'\n', &rest[..room]) {
                Some(n) => n + 1,
                None => memchr::memchr(b'\n', rest).map_or(rest.len(), |n| n + 1),
            },
            (false, _) => memchr::memrchr(b'\n', &rest[..room]).map_or(0, |n| n + 1),
        };
        let after = &rest[kept..];
        admitted.kept = (start, start + kept);
        admitted.after = (after.len() as u64, lines(after));
        if !after.is_empty() {
            let open = memchr::memrchr(b'\n', after).map_or(after.len(), |n| after.len() - n - 1);
            *dropped = (open > 0).then_some(open as u64);
        }
        admitted
    }

    /// The stream has ended: how many lines end with it among what was dropped.
    pub(crate) fn end(&mut self, stream: Stream) -> u64 {
        u64::from(self.dropped[stream.index()].take().is_some())
    }
}

fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn admit(admission: &mut Admission, piece: &str, waiting: u64) -> (String, u64, u64) {
        let a = admission.admit(Stream::Stdout, piece.as_bytes(), waiting);
        let kept = piece[a.kept.0..a.kept.1].to_owned();
        (kept, a.before.0 + a.after.0, a.before.1 + a.after.1)
    }

    #[test]
    fn whole_lines_are_kept_as_long_as_they_fit() {
        let mut admission = Admission::new(10);
        let kept = |text: &str, bytes, lines| (text.to_owned(), bytes, lines);
        assert_eq!(
            admit(&mut admission, "abc\ndef\n", 0),
            kept("abc\ndef\n", 0, 0)
        );
        assert_eq!(admit(&mut admission, "abc\ndef\n", 4), kept("abc\n", 4, 1));
        assert_eq!(admit(&mut admission, "abc\nde", 6), kept("abc\n", 2, 0));
        // The rest of a line that was dropped is dropped, however much room there is.
        assert_eq!(admit(&mut admission, "f\nghi\n", 0), kept("ghi\n", 2, 1));
        assert_eq!(
            admit(&mut admission, "a line for an empty one\nx\n", 0),
            kept("a line for an empty one\n", 2, 1)
        );
        assert_eq!(admit(&mut admission, "no end", 9), kept("", 6, 0));
        assert_eq!(admission.end(Stream::Stdout), 1);
        assert_eq!(admission.end(Stream::Stdout), 0);
    }

    #[test]
    fn a_line_without_an_end_is_taken_again_after_a_while() {
        let mut admission = Admission::new(1 << 20);
        let piece = [b'x'; 8192];
        let mut admit = |waiting| admission.admit(Stream::Stderr, &piece, waiting).kept;
        assert_eq!(admit(1 << 20), (0, 0));
        assert_eq!(admit(0), (8192, 8192));
        assert_eq!(admit(0), (0, 8192));
    }

    proptest! {
        #[test]
        fn every_byte_and_every_line_is_kept_or_counted(
            pieces in prop::collection::vec(("[a\n]{0,20}", 0u64..30), 0..20),
        ) {
            let mut admission = Admission::new(16);
            let (mut kept, mut bytes, mut ends) = (String::new(), 0, 0);
            for (piece, waiting) in &pieces {
                let (text, dropped, lines) = admit(&mut admission, piece, *waiting);
                kept.push_str(&text);
                bytes += dropped;
                ends += lines;
            }
            let all: String = pieces.iter().map(|(piece, _)| piece.as_str()).collect();
            prop_assert_eq!(kept.len() as u64 + bytes, all.len() as u64);
            prop_assert_eq!(lines(kept.as_bytes()) + ends, lines(all.as_bytes()));
        }
    }
}
