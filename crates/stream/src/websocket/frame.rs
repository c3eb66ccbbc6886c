//! Frames of RFC 6455, section 5: a reader for what clients send, heads for what we send.

/// Longest payload of a control frame.
pub const MAX_CONTROL_BYTES: usize = 125;
/// Longest head of a client's frame: two bytes, a 64-bit length, the mask.
const MAX_HEAD_BYTES: usize = 14;
/// Longest head of one of ours: without a mask.
pub const MAX_OWN_HEAD_BYTES: usize = 10;
/// Bytes that are unmasked at once.
const WORD_BYTES: usize = 8;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of a message.
    Continuation = 0,
    /// A message of text. What is in it is not checked: Docker's output is bytes in either form.
    Text = 1,
    /// A message of bytes.
    Binary = 2,
    /// The sender sends no more.
    Close = 8,
    /// Asks for a pong with the same payload.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Opcode> {
        use Opcode::*;
        [Continuation, Text, Binary, Close, Ping, Pong]
            .into_iter()
            .find(|o| *o as u8 == bits)
    }

    fn is_control(self) -> bool {
        self as u8 >= Opcode::Close as u8
    }
}

/// Normal end.
pub const CLOSE_NORMAL: u16 = 1000;
/// The peer broke the protocol.
pub const CLOSE_PROTOCOL_ERROR: u16 = 1002;

/// a frame breaks RFC 6455
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// a client's frame is not masked
    #[error("a client's frame is not masked")]
    Unmasked,
    /// a reserved bit or opcode is used
    #[error("a reserved bit or opcode is used")]
    Reserved,
    /// a control frame is longer than 125 bytes or in pieces
    #[error("a control frame is longer than {MAX_CONTROL_BYTES} bytes or in pieces")]
    Control,
    /// a length is not written in its shortest form, or has its highest bit set
    #[error("a length is not written in its shortest form, or has its highest bit set")]
    Length,
    /// a message begins inside another, or goes on without a beginning
    #[error("a message begins inside another, or goes on without a beginning")]
    Order,
}

/// Payload of a control frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Control {
    bytes: [u8; MAX_CONTROL_BYTES],
    len: u8,
}

impl Control {
    const EMPTY: Control = Control {
        bytes: [0; MAX_CONTROL_BYTES],
        len: 0,
    };

    /// The payload.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn extend(&mut self, bytes: &[u8]) {
        let at = usize::from(self.len);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control({})", self.bytes().escape_ascii())
    }
}

/// What a client said.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Bytes of a message. Where frames and messages end means nothing to a stream.
    Data(&'a [u8]),
    /// Wants this back as a pong.
    Ping(Control),
    /// An answer, or a sign of life.
    Pong,
    /// It will send no more.
    Close,
}

#[derive(Clone, Copy, Debug)]
struct Payload {
    opcode: Opcode,
    mask: u64,
    left: u64,
}

/// Takes a client's frames apart as their bytes come. Payloads are handed on piece by piece, so a frame of any length takes
/// no memory.
#[derive(Debug)]
pub struct Reader {
    head: [u8; MAX_HEAD_BYTES],
    have: usize,
    payload: Option<Payload>,
    control: Control,
    /// Within a message of several frames.
    in_message: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Reader {
            head: [0; MAX_HEAD_BYTES],
            have: 0,
            payload: None,
            control: Control::EMPTY,
            in_message: false,
        }
    }
}

impl Reader {
    /// The next event, which takes its bytes off the front of `input`; they are unmasked in place. `None`: all is taken.
    pub fn next<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Event<'a>>, BadFrame> {
        loop {
            let Some(mut payload) = self.payload else {
                if !self.take_head(input)? {
                    return Ok(None);
                }
                continue;
            };
            let here = usize::try_from(payload.left).map_or(input.len(), |n| n.min(input.len()));
            if here == 0 && payload.left > 0 {
                return Ok(None);
            }
            let (bytes, rest) = std::mem::take(input).split_at_mut(here);
            *input = rest;
            payload.mask = unmask(bytes, payload.mask);
            payload.left -= here as u64;
            self.payload = Some(payload).filter(|p| p.left > 0);
            if !payload.opcode.is_control() {
                if here > 0 {
                    return Ok(Some(Event::Data(bytes)));
                }
                continue;
            }
            self.control.extend(bytes);
            if payload.left == 0 {
                let control = std::mem::replace(&mut self.control, Control::EMPTY);
                return Ok(Some(match payload.opcode {
                    Opcode::Ping => Event::Ping(control),
                    Opcode::Pong => Event::Pong,
                    _ => Event::Close,
                }));
            }
        }
    }

    /// Takes the head of a frame; false if there is more to come.
    fn take_head(&mut self, input: &mut &mut [u8]) -> Result<bool, BadFrame> {
        loop {
            let need = match self.have {
                0 | 1 => 2,
                _ => {
                    self.check_start()?;
                    head_len(self.head[1])
                }
            };
            if self.have >= need {
                break;
            }
            let n = (need - self.have).min(input.len());
            if n == 0 {
                return Ok(false);
            }
            let (bytes, rest) = std::mem::take(input).split_at_mut(n);
            *input = rest;
            self.head[self.have..self.have + n].copy_from_slice(bytes);
            self.have += n;
        }
        let opcode = self.check_start()?;
        let (left, mask_at) = self.length()?;
        let mask: [u8; 4] = std::array::from_fn(|i| self.head[mask_at + i]);
        let mask = u64::from(u32::from_le_bytes(mask));
        if !opcode.is_control() {
            self.in_message = self.head[0] & FIN == 0;
        }
        self.have = 0;
        self.payload = Some(Payload {
            opcode,
            mask: mask << 32 | mask,
            left,
        });
        Ok(true)
    }

    /// Checks what the first two bytes say.
    fn check_start(&self) -> Result<Opcode, BadFrame> {
        let [first, second, ..] = self.head;
        let opcode = Opcode::from_bits(first & 0x0f)
            .filter(|_| first & RESERVED == 0)
            .ok_or(BadFrame::Reserved)?;
        if second & MASKED == 0 {
            return Err(BadFrame::Unmasked);
        }
        if opcode.is_control() {
            let too_long = usize::from(second & !MASKED) > MAX_CONTROL_BYTES;
            if too_long || first & FIN == 0 {
                return Err(BadFrame::Control);
            }
        } else if self.in_message != (opcode == Opcode::Continuation) {
            return Err(BadFrame::Order);
        }
        Ok(opcode)
    }

    /// The payload's length, and where the mask begins.
    fn length(&self) -> Result<(u64, usize), BadFrame> {
        let h = &self.head;
        match h[1] & !MASKED {
            126 => match u16::from_be_bytes([h[2], h[3]]) {
                0..126 => Err(BadFrame::Length),
                n => Ok((n.into(), 4)),
            },
            127 => match u64::from_be_bytes(std::array::from_fn(|i| h[2 + i])) {
                n if n <= u64::from(u16::MAX) || n > i64::MAX as u64 => Err(BadFrame::Length),
                n => Ok((n, 10)),
            },
            n => Ok((n.into(), 2)),
        }
    }
}

/// Length of a head by its second byte.
fn head_len(second: u8) -> usize {
    match second & !MASKED {
        126 => 8,
        127 => MAX_HEAD_BYTES,
        _ => 6,
    }
}

/// Unmasks with a mask that is repeated in a word, and says how the mask stands after it.
fn unmask(bytes: &mut [u8], mask: u64) -> u64 {
    let mut words = bytes.chunks_exact_mut(WORD_BYTES);
    for word in &mut words {
        let plain = u64::from_le_bytes(std::array::from_fn(|i| word[i])) ^ mask;
        word.copy_from_slice(&plain.to_le_bytes());
    }
    let rest = words.into_remainder();
    for (byte, key) in rest.iter_mut().zip(mask.to_le_bytes()) {
        *byte ^= key;
    }
    mask.rotate_right(8 * rest.len() as u32)
}

/// Writes the head of a whole message of ours into `out`, and says how long it is.
pub fn put_head(out: &mut [u8; MAX_OWN_HEAD_BYTES], opcode: Opcode, len: usize) -> usize {
    out[0] = FIN | opcode as u8;
    match (u16::try_from(len), len) {
        (_, 0..=125) => {
            out[1] = len as u8;
            2
        }
        (Ok(short), _) => {
            out[1] = 126;
            out[2..4].copy_from_slice(&short.to_be_bytes());
            4
        }
        _ => {
            out[1] = 127;
            out[2..10].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a client writes it.
    fn masked(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
        let mut out = [0; MAX_OWN_HEAD_BYTES];
        let n = put_head(&mut out, Opcode::Binary, payload.len());
        (out[0], out[1]) = (first, out[1] | MASKED);
        let mut frame = [&out[..n], &key].concat();
        frame.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
        frame
    }

    /// What comes of bytes that arrive in pieces of `step`.
    fn read(bytes: &[u8], step: usize) -> Result<(Vec<u8>, Vec<String>), BadFrame> {
        let mut reader = Reader::default();
        let (mut data, mut control) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            let mut piece = piece.to_vec();
            let mut input = &mut piece[..];
            while let Some(event) = reader.next(&mut input)? {
                match event {
                    Event::Data(bytes) => data.extend_from_slice(bytes),
                    other => control.push(format!("{other:?}")),
                }
            }
            assert!(input.is_empty());
        }
        Ok((data, control))
    }

    #[test]
    fn the_example_of_the_rfc() {
        let hello = [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(read(&hello, 64).expect("good").0, b"Hello");
    }

    #[test]
    fn control_frames_between_fragments() {
        let key = [1, 2, 3, 4];
        let bytes = [
            masked(0x02, b"he", key),
            masked(0x89, b"p", key),
            masked(0x00, b"", key),
            masked(0x8a, b"", key),
            masked(0x80, b"llo", key),
            masked(0x88, b"\x03\xe8", key),
        ]
        .concat();
        for step in 1..bytes.len() {
            let (data, control) = read(&bytes, step).expect("good");
            assert_eq!(data, b"hello");
            assert_eq!(control, ["Ping(Control(p))", "Pong", "Close"]);
        }
    }

    #[test]
    fn what_is_refused() {
        let long = [0; MAX_CONTROL_BYTES + 1];
        let key = [9; 4];
        for (bytes, error) in [
            (vec![0x82, 0x01, b'x'], BadFrame::Unmasked),
            (masked(0xc2, b"x", key), BadFrame::Reserved),
            (masked(0x83, b"x", key), BadFrame::Reserved),
            (masked(0x8b, b"x", key), BadFrame::Reserved),
            (masked(0x89, &long, key), BadFrame::Control),
            (masked(0x09, b"x", key), BadFrame::Control),
            (masked(0x80, b"x", key), BadFrame::Order),
            (
                [masked(0x02, b"x", key), masked(0x82, b"x", key)].concat(),
                BadFrame::Order,
            ),
            (vec![0x82, 0xfe, 0, 1, 0, 0, 0, 0, b'x'], BadFrame::Length),
            (
                [&[0x82, 0xff, 0x80][..], &[0; 11]].concat(),
                BadFrame::Length,
            ),
        ] {
            assert_eq!(read(&bytes, 1), Err(error), "{bytes:02x?}");
            assert_eq!(read(&bytes, 64), Err(error), "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn messages_come_through_in_any_pieces(
            messages in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..300), any::<[u8; 4]>()), 0..8),
            step in 1usize..100,
            big in 0usize..70_000,
        ) {
            let mut bytes = masked(0x81, &vec![b'b'; big], [5, 6, 7, 8]);
            let mut expected = vec![b'b'; big];
            for (payload, key) in &messages {
                bytes.extend(masked(0x82, payload, *key));
                expected.extend_from_slice(payload);
            }
            prop_assert_eq!(read(&bytes, step).expect("good").0, expected);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), step in 1usize..50) {
            let _ = read(&bytes, step);
        }
    }
}
