//! A batch's output on its way to the clients.

use std::borrow::Cow;
use std::cell::OnceCell;

use bytes::Bytes;
use gantry_keeper_proto::shm::Stream;

/// Pieces shorter than this are joined with their neighbours: one frame for the client instead of many.
const JOIN_BYTES: usize = 4096;
/// Longest piece that joining makes.
const JOINED_BYTES: usize = 32 * 1024;

/// Output that still lies where the pump read it. It is copied when a client cannot take it at once, and then once for
/// all of them.
pub(crate) struct Piece<'a> {
    pub(crate) stream: Stream,
    pub(crate) data: Cow<'a, [u8]>,
    copy: OnceCell<Bytes>,
}

impl<'a> Piece<'a> {
    /// The pieces of a batch in order, small ones joined.
    pub(crate) fn gather(batch: impl Iterator<Item = (Stream, &'a [u8])>) -> Vec<Piece<'a>> {
        let mut pieces: Vec<Piece<'a>> = Vec::new();
        for (stream, data) in batch {
            match pieces.last_mut() {
                Some(last) if last.joins(stream, data) => {
                    last.data.to_mut().extend_from_slice(data);
                }
                _ => pieces.push(Piece {
                    stream,
                    data: Cow::Borrowed(data),
                    copy: OnceCell::new(),
                }),
            }
        }
        pieces
    }

    fn joins(&self, stream: Stream, data: &[u8]) -> bool {
        let grows = matches!(self.data, Cow::Owned(_)) || self.data.len() < JOIN_BYTES;
        grows
            && self.stream == stream
            && data.len() < JOIN_BYTES
            && self.data.len() + data.len() <= JOINED_BYTES
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        self.copy.get_or_init(|| Bytes::copy_from_slice(&self.data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_neighbours_of_one_stream_are_one_piece() {
        let (line, block) = ([b'l'; 100], [b'b'; 8192]);
        let batch = [
            (Stream::Stdout, &line[..]),
            (Stream::Stdout, &line[..]),
            (Stream::Stderr, &line[..]),
            (Stream::Stderr, &block[..]),
            (Stream::Stderr, &line[..]),
        ];
        let pieces = Piece::gather(batch.into_iter());
        let sizes: Vec<_> = pieces.iter().map(|p| (p.stream, p.data.len())).collect();
        let stderr = |bytes| (Stream::Stderr, bytes);
        assert_eq!(
            sizes,
            [
                (Stream::Stdout, 200),
                stderr(100),
                stderr(8192),
                stderr(100)
            ]
        );
        let many = Piece::gather((0..1000).map(|_| (Stream::Stdout, &line[..])));
        assert!(many.iter().all(|p| p.data.len() <= JOINED_BYTES));
        assert_eq!(many.iter().map(|p| p.data.len()).sum::<usize>(), 100_000);
        assert!(many.len() < 5);
    }
}
