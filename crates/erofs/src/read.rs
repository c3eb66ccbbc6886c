//! A reader of images of ours, for checks: what was written is read as the kernel would read it. It never panics,
//! whatever the bytes.

use crate::crc::crc32c;
use crate::format::{
    CHUNK_INDEX_BYTES, CHUNK_INDEXES, DEVICE_SLOT_AT, DIRENT_BYTES, HOLE, INCOMPAT_CHUNKED,
    INCOMPAT_DEVICES, INODE_BYTES, LAYOUT_CHUNKS, LAYOUT_INLINE, LAYOUT_PLAIN, MAGIC, S_IFBLK,
    S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, SLOT_BYTES, SUPER_AT, XATTR_ENTRY_BYTES,
    XATTR_HEADER_BYTES, decode_device, dirent_kind,
};
use crate::tree::{Extent, MAX_NODES, Place};

/// Deepest directory that is walked.
const MAX_DEPTH: usize = 4096;

/// Why an image cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged image: {0}")]
pub struct ReadError(pub &'static str);

/// A file, directory or other entry of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageEntry {
    /// From the root, which is the empty path.
    pub path: Vec<u8>,
    /// Number of the inode: names of one file have the same.
    pub nid: u64,
    /// Kind and permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names, of a directory also those in its directories.
    pub links: u32,
    /// Time of change: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of content.
    pub size: u64,
    /// Where the content of a file lies, in blocks of the image (holes are left out).
    pub extents: Vec<Extent>,
    /// Where a symbolic link leads.
    pub target: Vec<u8>,
    /// Number of a device.
    pub device: (u32, u32),
    /// Names and values, sorted.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

struct Inode {
    nid: u64,
    layout: u16,
    xattr_bytes: u64,
    mode: u16,
    size: u64,
    content: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    links: u32,
}

/// An image in memory.
#[derive(Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    block_bits: u32,
    meta_at: u64,
    shared_at: u64,
    root: u64,
}

type Result<T> = std::result::Result<T, ReadError>;

fn slice(bytes: &[u8], at: u64, len: usize) -> Result<&[u8]> {
    let start = usize::try_from(at).map_err(|_| ReadError("position"))?;
    let end = start.checked_add(len).ok_or(ReadError("position"))?;
    bytes.get(start..end).ok_or(ReadError("end of the image"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl<'a> Image<'a> {
    /// Reads the super block.
    ///
    /// # Errors
    /// It is not one that [`crate::Tree::write`] makes.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let sb = slice(bytes, SUPER_AT, 128)?;
        if u32_at(sb, 0) != MAGIC {
            return Err(ReadError("magic"));
        }
        let block_bits = u32::from(sb[12]);
        let block = match block_bits {
            9 | 12 => 1usize << block_bits,
            _ => return Err(ReadError("block size")),
        };
        let checked = if block > 1024 { block - 1024 } else { block };
        let mut whole = slice(bytes, SUPER_AT, checked)?.to_vec();
        whole[4..8].fill(0);
        if crc32c(&whole) != u32_at(sb, 4) {
            return Err(ReadError("checksum"));
        }
        if u32_at(sb, 80) & !(INCOMPAT_CHUNKED | INCOMPAT_DEVICES) != 0 {
            return Err(ReadError("features"));
        }
        if u16_at(sb, 86) > 0 {
            slice(bytes, DEVICE_SLOT_AT, 128)?;
        }
        Ok(Self {
            bytes,
            block_bits,
            meta_at: u64::from(u32_at(sb, 40)) << block_bits,
            shared_at: u64::from(u32_at(sb, 44)) << block_bits,
            root: u64::from(u16_at(sb, 14)),
        })
    }

    fn place_of(&self, nid: u64) -> Result<u64> {
        nid.checked_mul(SLOT_BYTES)
            .and_then(|at| at.checked_add(self.meta_at))
            .ok_or(ReadError("inode number"))
    }

    fn inode(&self, nid: u64) -> Result<Inode> {
        let head = slice(self.bytes, self.place_of(nid)?, INODE_BYTES as usize)?;
        let format = u16_at(head, 0);
        if format & 1 == 0 {
            return Err(ReadError("inode version"));
        }
        let words = u64::from(u16_at(head, 2));
        Ok(Inode {
            nid,
            layout: format >> 1,
            xattr_bytes: match words {
                0 => 0,
                words => XATTR_HEADER_BYTES as u64 + 4 * (words - 1),
            },
            mode: u16_at(head, 4),
            size: u64_at(head, 8),
            content: u32_at(head, 16),
            uid: u32_at(head, 24),
            gid: u32_at(head, 28),
            mtime: (u64_at(head, 32) as i64, u32_at(head, 40)),
            links: u32_at(head, 44),
        })
    }

    /// Content of a directory or link.
    fn own_content(&self, inode: &Inode) -> Result<&'a [u8]> {
        let size = usize::try_from(inode.size).map_err(|_| ReadError("size"))?;
        match inode.layout {
            LAYOUT_PLAIN => slice(
                self.bytes,
                u64::from(inode.content) << self.block_bits,
                size,
            ),
            LAYOUT_INLINE => {
                let at = self.place_of(inode.nid)? + INODE_BYTES + inode.xattr_bytes;
                let block = 1u64 << self.block_bits;
                if inode.size > block || at % block + inode.size > block {
                    return Err(ReadError("inline content crosses a block"));
                }
                slice(self.bytes, at, size)
            }
            _ => Err(ReadError("layout")),
        }
    }

    fn extents(&self, inode: &Inode) -> Result<Vec<Extent>> {
        let mut found: Vec<Extent> = Vec::new();
        if inode.size == 0 {
            return Ok(found);
        }
        if inode.layout == LAYOUT_PLAIN {
            found.push(Extent {
                file_at: 0,
                len_bytes: inode.size,
                place: Place::Image(u64::from(inode.content) << self.block_bits),
            });
            return Ok(found);
        }
        let format = inode.content;
        if inode.layout != LAYOUT_CHUNKS || format & !0x1f != u32::from(CHUNK_INDEXES) {
            return Err(ReadError("layout of a file"));
        }
        let chunk_bits = (format & 0x1f) + self.block_bits;
        let chunk = 1u64 << chunk_bits;
        let after = self.place_of(inode.nid)? + INODE_BYTES + inode.xattr_bytes;
        let table = after.next_multiple_of(CHUNK_INDEX_BYTES);
        for number in 0..inode.size.div_ceil(chunk) {
            let index = slice(self.bytes, table + number * CHUNK_INDEX_BYTES, 8)?;
            let block = u32_at(index, 4);
            if block == HOLE {
                continue;
            }
            let at = u64::from(block) << self.block_bits;
            let place = match u16_at(index, 2) {
                0 => Place::Image(at),
                1 => Place::Tar(at),
                _ => return Err(ReadError("device of a chunk")),
            };
            let file_at = number * chunk;
            let len_bytes = chunk.min(inode.size - file_at);
            match found.last_mut() {
                Some(last) if follows(last, file_at, place) => last.len_bytes += len_bytes,
                _ => found.push(Extent {
                    file_at,
                    len_bytes,
                    place,
                }),
            }
        }
        Ok(found)
    }

    /// Names and values; `shared` ones lie elsewhere.
    fn xattrs(&self, inode: &Inode) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut found = Vec::new();
        if inode.xattr_bytes == 0 {
            return Ok(found);
        }
        let start = self.place_of(inode.nid)? + INODE_BYTES;
        let end = start + inode.xattr_bytes;
        let head = slice(self.bytes, start, XATTR_HEADER_BYTES)?;
        let mut at = start + XATTR_HEADER_BYTES as u64;
        for _ in 0..head[4] {
            let word = u32_at(slice(self.bytes, at, 4)?, 0);
            found.push(self.xattr(self.shared_at + 4 * u64::from(word))?.0);
            at += 4;
        }
        while at < end {
            let (attribute, bytes) = self.xattr(at)?;
            found.push(attribute);
            at += (bytes as u64).next_multiple_of(4);
        }
        found.sort();
        Ok(found)
    }

    #[allow(clippy::type_complexity)]
    fn xattr(&self, at: u64) -> Result<((Vec<u8>, Vec<u8>), usize)> {
        let head = slice(self.bytes, at, XATTR_ENTRY_BYTES)?;
        let prefix: &[u8] = match head[1] {
            1 => b"user.",
            2 => b"system.posix_acl_access",
            3 => b"system.posix_acl_default",
            4 => b"trusted.",
            6 => b"security.",
            _ => return Err(ReadError("prefix of an attribute")),
        };
        let (name_bytes, value_bytes) = (usize::from(head[0]), usize::from(u16_at(head, 2)));
        let rest = slice(self.bytes, at + 4, name_bytes + value_bytes)?;
        let (rest, value) = rest.split_at(name_bytes);
        let name = [prefix, rest].concat();
        Ok(((name, value.to_vec()), 4 + name_bytes + value_bytes))
    }

    /// Names and inode numbers of a directory, in its order, which must be that of the kernel's search.
    fn dir(&self, inode: &Inode) -> Result<Vec<(&'a [u8], u64, u8)>> {
        let content = self.own_content(inode)?;
        let mut found: Vec<(&[u8], u64, u8)> = Vec::new();
        for block in content.chunks(1 << self.block_bits) {
            let head = block.get(..DIRENT_BYTES).ok_or(ReadError("entry"))?;
            let names_at = usize::from(u16_at(head, 8));
            if names_at == 0 || !names_at.is_multiple_of(DIRENT_BYTES) || names_at > block.len() {
                return Err(ReadError("names of a directory"));
            }
            let entries = &block[..names_at];
            for (i, entry) in entries.chunks_exact(DIRENT_BYTES).enumerate() {
                let start = usize::from(u16_at(entry, 8));
                let next = entries.get((i + 1) * DIRENT_BYTES..(i + 2) * DIRENT_BYTES);
                let end = next.map_or(block.len(), |next| usize::from(u16_at(next, 8)));
                let name = block.get(start..end).ok_or(ReadError("name"))?;
                // The last name of a block ends with the block or with a NUL.
                let len = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                let name = &name[..len];
                if name.is_empty() || found.last().is_some_and(|(last, ..)| *last >= name) {
                    return Err(ReadError("order of a directory"));
                }
                found.push((name, u64_at(entry, 0), entry[10]));
            }
        }
        Ok(found)
    }

    fn entry(&self, path: Vec<u8>, inode: &Inode) -> Result<ImageEntry> {
        let format = inode.mode & S_IFMT;
        let mut entry = ImageEntry {
            path,
            nid: inode.nid,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            links: inode.links,
            mtime: inode.mtime,
            size: inode.size,
            extents: Vec::new(),
            target: Vec::new(),
            device: (0, 0),
            xattrs: self.xattrs(inode)?,
        };
        match format {
            S_IFREG => entry.extents = self.extents(inode)?,
            S_IFLNK => entry.target = self.own_content(inode)?.to_vec(),
            S_IFCHR | S_IFBLK => entry.device = decode_device(inode.content),
            _ => {}
        }
        Ok(entry)
    }

    /// Every entry, each directory before what is in it.
    ///
    /// # Errors
    /// Something is not as the format has it.
    pub fn entries(&self) -> Result<Vec<ImageEntry>> {
        let mut found = Vec::new();
        let mut left = vec![(Vec::new(), self.root, self.root, 0usize, 2u8)];
        while let Some((path, nid, parent, depth, kind)) = left.pop() {
            let inode = self.inode(nid)?;
            if dirent_kind(inode.mode) != kind {
                return Err(ReadError("kind of an entry"));
            }
            if found.len() >= MAX_NODES || depth > MAX_DEPTH {
                return Err(ReadError("size of the tree"));
            }
            let is_dir = inode.mode & S_IFMT == S_IFDIR;
            found.push(self.entry(path.clone(), &inode)?);
            if !is_dir {
                continue;
            }
            let mut dots = 0;
            for (name, child, kind) in self.dir(&inode)?.into_iter().rev() {
                match name {
                    b"." if child == nid => dots += 1,
                    b".." if child == parent => dots += 1,
                    b"." | b".." => return Err(ReadError("dots of a directory")),
                    name => {
                        let mut below = path.clone();
                        if !below.is_empty() {
                            below.push(b'/');
                        }
                        below.extend_from_slice(name);
                        left.push((below, child, nid, depth + 1, kind));
                    }
                }
            }
            if dots != 2 {
                return Err(ReadError("dots of a directory"));
            }
        }
        Ok(found)
    }
}

fn follows(last: &Extent, file_at: u64, place: Place) -> bool {
    let end = last.file_at + last.len_bytes;
    let next = match last.place {
        Place::Tar(at) => Place::Tar(at + last.len_bytes),
        Place::Image(at) => Place::Image(at + last.len_bytes),
    };
    end == file_at && next == place
}
