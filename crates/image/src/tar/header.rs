//! One 512-byte header block.

use std::io;

use super::BLOCK_BYTES;
use super::sparse::{self, Stretch};

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// the source failed
    #[error("read: {0}")]
    Io(#[from] io::Error),
    /// the archive ends in the middle of something
    #[error("unexpected end of the archive")]
    Truncated,
    /// a header is damaged
    #[error("damaged header: {0}")]
    Header(&'static str),
    /// a kind of entry that is not supported
    #[error("unsupported entry: {0}")]
    Unsupported(&'static str),
    /// a limit is exceeded
    #[error("limit exceeded: {0}")]
    Limit(&'static str),
}

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Hard link to an earlier entry.
    HardLink,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Directory.
    Dir,
    /// Named pipe.
    Fifo,
}

pub(super) enum Flag {
    Entry(Kind),
    /// Older than POSIX: a directory if its whole name ends with a slash, else a file.
    OldEntry,
    PaxNext,
    PaxGlobal,
    GnuLongName,
    GnuLongLink,
    /// A sparse file whose map is in its header, and in blocks behind it.
    OldSparse,
}

pub(super) type Block = [u8; BLOCK_BYTES];

pub(super) struct Header {
    pub(super) flag: Flag,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime_s: i64,
    pub(super) major: u32,
    pub(super) minor: u32,
}

pub(super) fn parse(block: &Block) -> Result<Header, TarError> {
    verify_checksum(block)?;
    let mut name = text(&block[..100]);
    let posix = &block[257..263] == b"ustar\0";
    if posix && block[345] != 0 {
        let mut whole = text(&block[345..500]);
        whole.push(b'/');
        whole.extend_from_slice(&name);
        name = whole;
    }
    let flag = flag(block[156])?;
    let known = posix || &block[257..263] == b"ustar ";
    let device = matches!(flag, Flag::Entry(Kind::CharDevice | Kind::BlockDevice));
    let device_number = |range: std::ops::Range<usize>| {
        if known && device {
            u32::try_from(number(&block[range])?).map_err(|_| TarError::Header("device number"))
        } else {
            Ok(0)
        }
    };
    Ok(Header {
        flag,
        name,
        link: text(&block[157..257]),
        size: unsigned(&block[124..136], "size")?,
        mode: u32::try_from(number(&block[100..108])? & 0o7777)
            .map_err(|_| TarError::Header("mode"))?,
        uid: unsigned(&block[108..116], "uid")?,
        gid: unsigned(&block[116..124], "gid")?,
        mtime_s: number(&block[136..148])?,
        major: device_number(329..337)?,
        minor: device_number(337..345)?,
    })
}

/// The first stretches of an old sparse file, and whether a block with more follows.
pub(super) fn sparse_header(block: &Block, to: &mut Vec<Stretch>) -> Result<(u64, bool), TarError> {
    if &block[257..263] != b"ustar " {
        return Err(TarError::Header("sparse file"));
    }
    let field = |field: &[u8]| unsigned(field, "sparse map");
    sparse::old_stretches(&block[386..482], to, field)?;
    Ok((unsigned(&block[483..495], "size")?, block[482] != 0))
}

/// More of them.
pub(super) fn more_sparse(block: &Block, to: &mut Vec<Stretch>) -> Result<bool, TarError> {
    let field = |field: &[u8]| unsigned(field, "sparse map");
    sparse::old_stretches(&block[..504], to, field)?;
    Ok(block[504] != 0)
}

fn flag(byte: u8) -> Result<Flag, TarError> {
    Ok(match byte {
        0 => Flag::OldEntry,
        b'0' | b'7' => Flag::Entry(Kind::File),
        b'1' => Flag::Entry(Kind::HardLink),
        b'2' => Flag::Entry(Kind::Symlink),
        b'3' => Flag::Entry(Kind::CharDevice),
        b'4' => Flag::Entry(Kind::BlockDevice),
        b'5' => Flag::Entry(Kind::Dir),
        b'6' => Flag::Entry(Kind::Fifo),
        b'x' | b'X' => Flag::PaxNext,
        b'g' => Flag::PaxGlobal,
        b'L' => Flag::GnuLongName,
        b'K' => Flag::GnuLongLink,
        b'S' => Flag::OldSparse,
        b'M' => return Err(TarError::Unsupported("continued volume")),
        _ => return Err(TarError::Unsupported("unknown type")),
    })
}

/// Up to the first NUL.
pub(super) fn text(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|b| *b != 0).collect()
}

fn unsigned(field: &[u8], what: &'static str) -> Result<u64, TarError> {
    u64::try_from(number(field)?).map_err(|_| TarError::Header(what))
}

/// Octal digits, or base-256 when the first bit is set.
fn number(field: &[u8]) -> Result<i64, TarError> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

fn base256(field: &[u8]) -> Result<i64, TarError> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (i, byte) in field.iter().enumerate() {
        let byte = if i == 0 {
            (byte & 0x3F) | if negative { 0xC0 } else { 0 }
        } else {
            *byte
        };
        value = (value << 8) | i128::from(byte);
        if i64::try_from(value).is_err() {
            return Err(TarError::Header("number too large"));
        }
    }
    i64::try_from(value).map_err(|_| TarError::Header("number too large"))
}

fn octal(field: &[u8]) -> Result<i64, TarError> {
    let digits = field.iter().skip_while(|b| matches!(b, b' ' | 0));
    let mut value = 0i64;
    let mut ended = false;
    for byte in digits {
        match byte {
            b'0'..=b'7' if !ended => value = (value << 3) | i64::from(byte - b'0'),
            b' ' | 0 => ended = true,
            _ => return Err(TarError::Header("number")),
        }
    }
    Ok(value)
}

fn verify_checksum(block: &Block) -> Result<(), TarError> {
    let stored = octal(&block[148..156])?;
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (i, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&i) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    if stored == unsigned || stored == signed {
        Ok(())
    } else {
        Err(TarError::Header("checksum"))
    }
}
