//! Docker's multiplexed frames: `{stream, 0, 0, 0, length: u32 BE}` and the bytes.

use bytes::{BufMut, Bytes, BytesMut};

/// Length of a frame's header.
pub const HEADER_BYTES: usize = 8;
/// Longest frame a reader takes.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// A frame's header. `stream` is 1 for stdout, 2 for stderr, 3 for an error of the daemon.
pub fn encode_header(stream: u8, len: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = len.to_be_bytes();
    [stream, 0, 0, 0, a, b, c, d]
}

/// Appends a frame; one that is too long for a length field is cut into several.
pub fn put_frame(out: &mut BytesMut, stream: u8, bytes: &[u8]) {
    for piece in bytes.chunks(MAX_FRAME_BYTES) {
        out.put_slice(&encode_header(stream, piece.len() as u32));
        out.put_slice(piece);
    }
}

/// multiplexed frame is broken
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("multiplexed frame is broken: {0}")]
pub struct BadFrame(&'static str);

/// Takes frames out of bytes that arrive in any pieces.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub fn next_frame(&mut self) -> Result<Option<(u8, Bytes)>, BadFrame> {
        let Some(header) = self.buffer.get(..HEADER_BYTES) else {
            return Ok(None);
        };
        let stream = header[0];
        let len = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if stream > 3 || header[1..4] != [0, 0, 0] {
            return Err(BadFrame("header"));
        }
        if len > MAX_FRAME_BYTES {
            return Err(BadFrame("length"));
        }
        if self.buffer.len() < HEADER_BYTES + len {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(HEADER_BYTES + len);
        Ok(Some((stream, frame.split_off(HEADER_BYTES).freeze())))
    }

    /// Bytes of an unfinished frame.
    pub fn rest(&self) -> usize {
        self.buffer.len()
    }
}
