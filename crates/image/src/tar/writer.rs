//! Writes archives: those of a save, plain files and directories with short names, and trees of any files.

use std::io::{self, Write};

use super::pax::Records;
use super::{BLOCK_BYTES, Entry, Kind};

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

    /// Any entry, with PAX records for what the header has no place for. After a file its content follows, as after
    /// [`Writer::begin_file`]. The name of a directory gets its slash here.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        let mut path = entry.path.clone();
        if entry.kind == Kind::Dir && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let records = Records::of(entry, &path);
        if !records.is_empty() {
            let records = records.into_bytes();
            let name = format!("PaxHeaders.0/{}", String::from_utf8_lossy(last_part(&path)));
            let mut block = Block::new(name.as_bytes(), b'x');
            block.number(MODE, 0o644);
            block.number(SIZE, records.len() as u64);
            self.to.write_all(&block.finish())?;
            self.to.write_all(&records)?;
            let over = records.len() % BLOCK_BYTES;
            let padding = (BLOCK_BYTES - over) % BLOCK_BYTES;
            self.to.write_all(&[0; BLOCK_BYTES][..padding])?;
        }
        let mut block = Block::new(&path, type_flag(entry.kind));
        block.text(LINK, &entry.link);
        block.number(MODE, entry.mode.into());
        block.number(UID, entry.uid.into());
        block.number(GID, entry.gid.into());
        block.number(MTIME, u64::try_from(entry.mtime_s).unwrap_or(0));
        block.number(MAJOR, entry.device.0.into());
        block.number(MINOR, entry.device.1.into());
        self.left = 0;
        if entry.kind == Kind::File {
            block.number(SIZE, entry.size);
            self.left = entry.size;
        }
        self.padding = usize::try_from(self.left % BLOCK_BYTES as u64)
            .map_or(0, |over| (BLOCK_BYTES - over) % BLOCK_BYTES);
        self.to.write_all(&block.finish())
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

fn last_part(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

fn type_flag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Dir => b'5',
        Kind::Fifo => b'6',
    }
}

type Field = std::ops::Range<usize>;

const NAME: Field = 0..100;
const MODE: Field = 100..108;
const UID: Field = 108..116;
const GID: Field = 116..124;
const SIZE: Field = 124..136;
const MTIME: Field = 136..148;
const LINK: Field = 157..257;
const MAJOR: Field = 329..337;
const MINOR: Field = 337..345;

/// Largest number of an octal field of this many bytes.
pub(super) const fn octal_limit(bytes: usize) -> u64 {
    (1 << (3 * (bytes - 1))) - 1
}

/// A header block being filled. What does not fit is cut or zero: PAX records have it.
struct Block([u8; BLOCK_BYTES]);

impl Block {
    fn new(name: &[u8], flag: u8) -> Self {
        let mut block = Block([0; BLOCK_BYTES]);
        block.text(NAME, name);
        for field in [MODE, UID, GID, SIZE, MTIME, MAJOR, MINOR] {
            block.number(field, 0);
        }
        block.0[156] = flag;
        block.text(257..265, b"ustar\x0000");
        block
    }

    fn text(&mut self, field: Field, text: &[u8]) {
        for (to, from) in self.0[field].iter_mut().zip(text) {
            *to = if *from < 0x80 { *from } else { b'_' };
        }
    }

    fn number(&mut self, field: Field, value: u64) {
        let digits = field.len() - 1;
        let value = if value > octal_limit(field.len()) {
            0
        } else {
            value
        };
        let text = format!("{value:0digits$o}");
        self.text(field, text.as_bytes());
    }

    fn finish(mut self) -> [u8; BLOCK_BYTES] {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|b| u32::from(*b)).sum();
        self.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0
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
    fn entries_of_every_kind_come_back_as_they_were() {
        let plain = Entry {
            path: b"d/f".to_vec(),
            link: Vec::new(),
            kind: Kind::File,
            mode: 0o4751,
            uid: 1000,
            gid: 2000,
            size: 0,
            mtime_s: 1_700_000_000,
            mtime_ns: 0,
            device: (0, 0),
            xattrs: Vec::new(),
        };
        let entries = [
            plain.clone(),
            Entry {
                path: [b"long/".repeat(60), b"\xff\xfe".to_vec()].concat(),
                uid: u32::MAX - 1,
                mtime_s: -5,
                mtime_ns: 250_000_000,
                xattrs: vec![(b"security.capability".to_vec(), vec![0, 10, 61, 255])],
                ..plain.clone()
            },
            Entry {
                kind: Kind::Symlink,
                link: b"x".repeat(101),
                ..plain.clone()
            },
            Entry {
                kind: Kind::HardLink,
                link: b"a\nb".to_vec(),
                ..plain.clone()
            },
            Entry {
                kind: Kind::BlockDevice,
                device: (259, 1_048_575),
                ..plain.clone()
            },
            Entry {
                kind: Kind::Dir,
                path: b"d/".to_vec(),
                ..plain.clone()
            },
        ];
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        for entry in &entries {
            writer.entry(entry).unwrap();
            writer.end_file().unwrap();
        }
        writer.finish().unwrap();
        let mut reader = Reader::new(&bytes[..]);
        for entry in &entries {
            assert_eq!(reader.next_entry().unwrap().as_ref(), Some(entry));
        }
        assert!(reader.next_entry().unwrap().is_none());
        // And as another reader has it.
        let mut names = 0;
        for (read, entry) in tar::Archive::new(&bytes[..])
            .entries()
            .unwrap()
            .zip(&entries)
        {
            assert_eq!(read.unwrap().path_bytes().as_ref(), &entry.path[..]);
            names += 1;
        }
        assert_eq!(names, entries.len());
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
