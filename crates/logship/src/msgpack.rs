//! What the forward protocol needs of MessagePack.

/// Appends an array's head.
pub(crate) fn array(out: &mut Vec<u8>, len: usize) {
    head(out, len, 0x90, 0xdc);
}

/// Appends a map's head.
pub(crate) fn map(out: &mut Vec<u8>, len: usize) {
    head(out, len, 0x80, 0xde);
}

fn head(out: &mut Vec<u8>, len: usize, short: u8, long: u8) {
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=15), _) => out.push(short | len),
        (_, Ok(len)) => {
            out.push(long);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            out.push(long + 1);
            out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

/// Appends a string, of whatever bytes it consists.
pub(crate) fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    match (u8::try_from(bytes.len()), u16::try_from(bytes.len())) {
        (Ok(len @ 0..=31), _) => out.push(0xa0 | len),
        (Ok(len), _) => out.extend_from_slice(&[0xd9, len]),
        (_, Ok(len)) => {
            out.push(0xda);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            // Records are some KiB long.
            out.push(0xdb);
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

/// Appends a number.
pub(crate) fn number(out: &mut Vec<u8>, number: u64) {
    match i32::try_from(number) {
        Ok(small @ 0..=127) => out.push(small as u8),
        Ok(number) => {
            out.push(0xd2);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Err(_) => {
            out.push(0xcf);
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

/// Appends the forward protocol's time with nanoseconds.
pub(crate) fn event_time(out: &mut Vec<u8>, unix_ns: u64) {
    out.extend_from_slice(&[0xd7, 0x00]);
    let seconds = u32::try_from(unix_ns / 1_000_000_000).unwrap_or(u32::MAX);
    out.extend_from_slice(&seconds.to_be_bytes());
    out.extend_from_slice(&((unix_ns % 1_000_000_000) as u32).to_be_bytes());
}

/// What was read of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ack {
    /// The answer is not complete.
    More,
    /// It is none.
    Bad,
    /// The chunk that was taken, and the length of the answer.
    Chunk(Vec<u8>, usize),
}

/// Reads an answer of the forward protocol: a map of strings with the key `ack`.
pub fn read_ack(bytes: &[u8]) -> Ack {
    let mut reader = Reader { bytes, at: 0 };
    match reader.ack() {
        Ok(chunk) => Ack::Chunk(chunk.to_vec(), reader.at),
        Err(Short::More) => Ack::More,
        Err(Short::Bad) => Ack::Bad,
    }
}

enum Short {
    More,
    Bad,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn ack(&mut self) -> Result<&'a [u8], Short> {
        let entries = match self.take(1)?[0] {
            head @ 0x80..=0x8f => usize::from(head & 0xf),
            0xde => self.len(2)?,
            _ => return Err(Short::Bad),
        };
        let mut found = None;
        for _ in 0..entries {
            let (key, value) = (self.string()?, self.string()?);
            if key == b"ack" {
                found = Some(value);
            }
        }
        found.ok_or(Short::Bad)
    }

    fn string(&mut self) -> Result<&'a [u8], Short> {
        let len = match self.take(1)?[0] {
            head @ 0xa0..=0xbf => usize::from(head & 0x1f),
            0xd9 | 0xc4 => self.len(1)?,
            0xda | 0xc5 => self.len(2)?,
            _ => return Err(Short::Bad),
        };
        self.take(len)
    }

    fn len(&mut self, bytes: usize) -> Result<usize, Short> {
        let taken = self.take(bytes)?;
        Ok(taken.iter().fold(0, |len, b| len << 8 | usize::from(*b)))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let taken = self.bytes[self.at..].get(..len).ok_or(Short::More)?;
        self.at += len;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_strings() {
        let mut out = Vec::new();
        array(&mut out, 4);
        array(&mut out, 16);
        map(&mut out, 3);
        string(&mut out, b"a");
        number(&mut out, 1_795_613_221);
        event_time(&mut out, 1_795_613_221_000_000_005);
        let time = [
            0xd2, 0x6b, 0x06, 0xe2, 0x25, 0xd7, 0, 0x6b, 0x06, 0xe2, 0x25, 0, 0, 0, 5,
        ];
        assert_eq!(out[..7], [0x94, 0xdc, 0, 16, 0x83, 0xa1, b'a']);
        assert_eq!(out[7..], time);
        for (len, head) in [
            (31, 0xbf),
            (32, 0xd9),
            (255, 0xd9),
            (256, 0xda),
            (70_000, 0xdb),
        ] {
            out.clear();
            string(&mut out, &vec![b'x'; len]);
            assert_eq!(out[0], head);
        }
    }

    #[test]
    fn answers() {
        let answer = b"\x81\xa3ack\xa2ab";
        assert_eq!(read_ack(answer), Ack::Chunk(b"ab".to_vec(), answer.len()));
        for cut in 0..answer.len() {
            assert_eq!(read_ack(&answer[..cut]), Ack::More);
        }
        assert_eq!(read_ack(b"\x81\xa3foo\xa2ab"), Ack::Bad);
        assert_eq!(read_ack(b"HTTP"), Ack::Bad);
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = read_ack(&bytes);
        }
    }
}
