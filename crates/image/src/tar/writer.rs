//! Writes the archives of a save: plain files and directories with short names.

use std::io::{self, Write};

use super::BLOCK_BYTES;

const NAME_BYTES: usize = 100;
/// Sizes from here on do not fit into the octal field.
const OCTAL_LIMIT: u64 = 1 << 33;

/// Writes one archive. Everything in it belongs to root and is from the start of the epoch, so that the same images
/// give the same bytes.
pub struct Writer<'a> {
    to: &'a mut dyn Write,
    left: u64,
    padding: usize,
}

impl<'a> Writer<'a> {
    /// An archive at its start.
    pub fn new(to: &'a mut dyn Write) -> Self {
        Self {
            to,
            left: 0,
            padding: 0,
        }
    }

    /// A directory; its name ends with a slash.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        let block = header(name, b'5', 0o755, 0)?;
        self.to.write_all(&block)
    }

    /// A whole file.
    pub fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.begin_file(name, content.len() as u64)?;
        self.write_content(content)?;
        self.end_file()
    }

    /// The head of a file of this size.
    pub fn begin_file(&mut self, name: &str, size: u64) -> io::Result<()> {
        let block = header(name, b'0', 0o644, size)?;
        self.left = size;
        let over = size % BLOCK_BYTES as u64;
        self.padding = usize::try_from(over).map_or(0, |over| (BLOCK_BYTES - over) % BLOCK_BYTES);
        self.to.write_all(&block)
    }

    /// A part of its content; more than its size is an error.
    pub fn write_content(&mut self, part: &[u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(part.len() as u64)
            .ok_or_else(|| io::Error::other("more content than the size says"))?;
        self.to.write_all(part)
    }

    /// The end of a file; less than its size is an error.
    pub fn end_file(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("less content than the size says"));
        }
        self.to.write_all(&[0; BLOCK_BYTES][..self.padding])
    }

    /// The mark of the end.
    pub fn finish(self) -> io::Result<()> {
        self.to.write_all(&[0; 2 * BLOCK_BYTES])?;
        self.to.flush()
    }
}

fn header(name: &str, kind: u8, mode: u32, size: u64) -> io::Result<[u8; BLOCK_BYTES]> {
    if name.len() > NAME_BYTES {
        return Err(io::Error::other("name too long"));
    }
    let mut block = [0; BLOCK_BYTES];
    let mut put =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar\x0000");
    if size < OCTAL_LIMIT {
        put(124, &format!("{size:011o}"));
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    block[156] = kind;
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::tar::{Kind, Reader};

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.directory("d/").unwrap();
        writer.file("d/f", &[7; 700]).unwrap();
        writer.file("empty", b"").unwrap();
        assert!(writer.begin_file(&"n".repeat(101), 1).is_err());
        writer.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let mut reader = Reader::new(&bytes[..]);
        assert_eq!(reader.next_entry().unwrap().unwrap().kind, Kind::Dir);
        let file = reader.next_entry().unwrap().unwrap();
        assert_eq!(
            (file.path.as_slice(), file.size, file.mode),
            (&b"d/f"[..], 700, 0o644)
        );
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        assert_eq!(content, [7; 700]);
        assert_eq!(reader.next_entry().unwrap().unwrap().size, 0);
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn sizes_are_kept_to() {
        let mut sink = std::io::sink();
        let mut writer = Writer::new(&mut sink);
        writer.begin_file("f", 3).unwrap();
        assert!(writer.write_content(b"four").is_err());
        let mut writer = Writer::new(&mut sink);
        writer.begin_file("f", OCTAL_LIMIT * 5).unwrap();
        assert!(writer.end_file().is_err());
        let block = header("big", b'0', 0o644, OCTAL_LIMIT * 5).unwrap();
        let mut reader = Reader::new(&block[..]);
        assert_eq!(reader.next_entry().unwrap().unwrap().size, OCTAL_LIMIT * 5);
    }
}
