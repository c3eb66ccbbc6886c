//! The image, written.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use crate::chunks;
use crate::crc::crc32c;
use crate::error::BuildError;
use crate::format::{
    CHUNK_INDEXES, COMPAT_CHECKSUM, COMPAT_MTIME, DEVICE_SLOT_AT, DEVICE_SLOT_BYTES, DIRENT_BYTES,
    HOLE, INCOMPAT_CHUNKED, INCOMPAT_DEVICES, INODE_BYTES, LAYOUT_INLINE, MAGIC, SUPER_AT,
    SUPER_BYTES, dirent_kind,
};
use crate::layout::{Layout, Placed, XattrArea, dir_entries, padded, xattr_area};
use crate::tree::{Body, Extent, Inode, Node, Place, ROOT, Tree};

/// Where content that is copied into an image begins; it is on blocks from there on.
pub const IMAGE_DATA_AT_BYTES: u64 = 4096;
/// Bytes written at once.
const WRITE_BYTES: usize = 128 * 1024;

/// What an image refers to, and how fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// Blocks of 512 bytes; content lies in a tar of this length, and what cannot be referred to there in the image.
    Index {
        /// Length of the tar.
        tar_bytes: u64,
        /// Length of what the caller has put into the image from [`IMAGE_DATA_AT_BYTES`] on.
        data_bytes: u64,
    },
    /// Blocks of 4096 bytes; all content lies in the image.
    Whole {
        /// Length of what the caller has put into the image from [`IMAGE_DATA_AT_BYTES`] on.
        data_bytes: u64,
    },
}

impl Geometry {
    pub(crate) fn block_bits(self) -> u32 {
        match self {
            Self::Index { .. } => 9,
            Self::Whole { .. } => 12,
        }
    }

    fn data_bytes(self) -> u64 {
        match self {
            Self::Index { data_bytes, .. } | Self::Whole { data_bytes } => data_bytes,
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Length of the image.
    pub image_bytes: u64,
    /// Inodes in it.
    pub inodes: u64,
}

/// Places of the parts, in blocks.
struct Parts {
    shared_at: u64,
    meta_at: u64,
    end: u64,
}

impl Tree {
    /// Writes the image of the tree: what was put into it by the caller stays, everything else is written.
    ///
    /// # Errors
    /// A tree that does not fit into the format, or the writer's.
    pub fn write(
        &self,
        geometry: Geometry,
        to: &mut (impl Write + Seek),
    ) -> Result<Summary, BuildError> {
        let layout = Layout::of(self, geometry.block_bits())?;
        let block = 1u64 << layout.block_bits;
        let data_end = IMAGE_DATA_AT_BYTES.saturating_add(geometry.data_bytes());
        let shared_at = data_end.div_ceil(block);
        let meta_at = shared_at + layout.shared.bytes.div_ceil(block);
        let own_at = meta_at + layout.meta_bytes.div_ceil(block);
        let parts = Parts {
            shared_at,
            meta_at,
            end: own_at + layout.own_blocks,
        };
        let tar_blocks = match geometry {
            Geometry::Index { tar_bytes, .. } => tar_bytes / block,
            Geometry::Whole { .. } => 0,
        };
        // Devices lie behind each other in one space of blocks.
        if parts.end.saturating_add(tar_blocks) >= u64::from(HOLE) {
            return Err(BuildError::Limit("blocks of one image"));
        }
        to.seek(SeekFrom::Start(0))?;
        to.write_all(&head(&layout, &parts, geometry, tar_blocks))?;
        to.seek(SeekFrom::Start(shared_at * block))?;
        let mut writer = Writer {
            tree: self,
            layout: &layout,
            meta_at_bytes: meta_at * block,
            next_own_block: own_at,
            at: shared_at * block,
            to: BufWriter::with_capacity(WRITE_BYTES, to),
        };
        writer.shared()?;
        writer.pad_to(meta_at * block)?;
        for node in &layout.order {
            writer.inode(*node)?;
        }
        writer.pad_to(own_at * block)?;
        for node in &layout.order {
            writer.own(*node)?;
        }
        writer.to.flush()?;
        Ok(Summary {
            image_bytes: parts.end * block,
            inodes: layout.order.len() as u64,
        })
    }
}

fn put<const N: usize>(to: &mut [u8], at: usize, bytes: [u8; N]) {
    to[at..at + N].copy_from_slice(&bytes);
}

/// What lies before the data: the super block and the slot of the tar.
fn head(layout: &Layout, parts: &Parts, geometry: Geometry, tar_blocks: u64) -> Vec<u8> {
    let mut head = vec![0u8; IMAGE_DATA_AT_BYTES as usize];
    let (start, slot) = (SUPER_AT as usize, DEVICE_SLOT_AT as usize);
    let is_index = matches!(geometry, Geometry::Index { .. });
    let incompatible = INCOMPAT_CHUNKED | if is_index { INCOMPAT_DEVICES } else { 0 };
    let sb = &mut head[start..start + SUPER_BYTES];
    put(sb, 0, MAGIC.to_le_bytes());
    put(sb, 8, (COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
    sb[12] = layout.block_bits as u8;
    put(sb, 14, (layout.slots[ROOT as usize] as u16).to_le_bytes());
    put(sb, 16, (layout.order.len() as u64).to_le_bytes());
    put(sb, 36, (parts.end as u32).to_le_bytes());
    put(sb, 40, (parts.meta_at as u32).to_le_bytes());
    put(sb, 44, (parts.shared_at as u32).to_le_bytes());
    put(sb, 80, incompatible.to_le_bytes());
    if is_index {
        put(sb, 86, 1u16.to_le_bytes());
        let slots_before = DEVICE_SLOT_AT / DEVICE_SLOT_BYTES as u64;
        put(sb, 88, (slots_before as u16).to_le_bytes());
        put(&mut head[slot..], 64, (tar_blocks as u32).to_le_bytes());
        put(&mut head[slot..], 68, (parts.end as u32).to_le_bytes());
    }
    // Over the rest of the block, or of the first 4096 bytes.
    let checked = (1usize << layout.block_bits).min(IMAGE_DATA_AT_BYTES as usize);
    let end = if checked > start {
        checked
    } else {
        start + checked
    };
    let checksum = crc32c(&head[start..end]);
    put(&mut head[start..], 4, checksum.to_le_bytes());
    head
}

struct Writer<'a, W: Write> {
    tree: &'a Tree,
    layout: &'a Layout,
    meta_at_bytes: u64,
    next_own_block: u64,
    /// Position in the image.
    at: u64,
    to: BufWriter<W>,
}

impl<W: Write> Writer<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    fn pad_to(&mut self, at: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < at {
            let n = (at - self.at).min(ZEROS.len() as u64) as usize;
            self.write(&ZEROS[..n])?;
        }
        Ok(())
    }

    fn shared(&mut self) -> io::Result<()> {
        let layout = self.layout;
        for (number, word) in layout.shared.words.iter().enumerate() {
            if word.is_some() {
                self.attribute(number as u32)?;
            }
        }
        Ok(())
    }

    fn attribute(&mut self, number: u32) -> io::Result<()> {
        let tree = self.tree;
        let bytes = tree.xattrs.attribute(number);
        self.write(bytes)?;
        self.write(&[0; 4][..padded(bytes.len()) - bytes.len()])
    }

    fn inode(&mut self, node: Node) -> Result<(), BuildError> {
        let (tree, layout) = (self.tree, self.layout);
        let placed = layout.placed(tree, node)?;
        let inode = tree.inode(node);
        let start = self.meta_at_bytes + number(layout, node) * crate::format::SLOT_BYTES;
        self.pad_to(start)?;
        let head = self.inode_head(node, inode, &placed);
        self.write(&head)?;
        if let Some(area) = xattr_area(tree, &layout.shared, inode.xattrs)? {
            self.xattr_area(&area)?;
        }
        self.pad_to(start + placed.tail_at)?;
        match &inode.body {
            Body::Dir(_) if placed.layout == LAYOUT_INLINE => self.dir(node)?,
            Body::Symlink(target) if placed.layout == LAYOUT_INLINE => self.write(target)?,
            Body::Whole(size, place) => {
                let extent = Extent {
                    file_at: 0,
                    len_bytes: *size,
                    place: *place,
                };
                self.chunks(&placed, std::slice::from_ref(&extent))?;
            }
            Body::Sparse(_, extents) => self.chunks(&placed, extents)?,
            _ => {}
        }
        debug_assert!(placed.layout == 0 || self.at == start + placed.tail_at + placed.tail_bytes);
        Ok(())
    }

    fn inode_head(&mut self, node: Node, inode: &Inode, placed: &Placed) -> Vec<u8> {
        let mut head = vec![0u8; INODE_BYTES as usize];
        let block_bits = self.layout.block_bits;
        let content = match (&inode.body, &placed.chunks, placed.plain_at) {
            (Body::Device(number), ..) => *number,
            (_, Some(plan), _) => u32::from(CHUNK_INDEXES) | (plan.chunk_bits - block_bits),
            (_, _, Some(at)) => (at >> block_bits) as u32,
            _ if placed.own_blocks > 0 => {
                let first = self.next_own_block;
                self.next_own_block += placed.own_blocks;
                first as u32
            }
            _ => 0,
        };
        let links = match self.tree.dir(node) {
            Some(dir) => {
                let dirs = dir
                    .children
                    .values()
                    .filter(|c| self.tree.dir(**c).is_some());
                2 + dirs.count() as u32
            }
            None => inode.names,
        };
        let xattr_words = match placed.xattr_bytes {
            0 => 0,
            bytes => 1 + (bytes - crate::format::XATTR_HEADER_BYTES as u64) / 4,
        };
        put(&mut head, 0, (1 | placed.layout << 1).to_le_bytes());
        put(&mut head, 2, (xattr_words as u16).to_le_bytes());
        put(&mut head, 4, inode.mode.to_le_bytes());
        put(&mut head, 8, placed.size.to_le_bytes());
        put(&mut head, 16, content.to_le_bytes());
        put(&mut head, 20, (node + 1).to_le_bytes());
        put(&mut head, 24, inode.uid.to_le_bytes());
        put(&mut head, 28, inode.gid.to_le_bytes());
        put(&mut head, 32, inode.mtime_s.to_le_bytes());
        put(&mut head, 40, inode.mtime_ns.to_le_bytes());
        put(&mut head, 44, links.to_le_bytes());
        head
    }

    fn xattr_area(&mut self, area: &XattrArea) -> io::Result<()> {
        let mut head = [0u8; crate::format::XATTR_HEADER_BYTES];
        head[4] = area.shared.len() as u8;
        self.write(&head)?;
        for word in &area.shared {
            self.write(&word.to_le_bytes())?;
        }
        for attribute in &area.own {
            self.attribute(*attribute)?;
        }
        Ok(())
    }

    fn chunks(&mut self, placed: &Placed, extents: &[Extent]) -> io::Result<()> {
        let Some(plan) = &placed.chunks else {
            return Ok(());
        };
        let block_bits = self.layout.block_bits;
        for place in chunks::places(plan, extents) {
            let (device, block) = match place {
                None => (0u16, HOLE),
                Some(Place::Image(at)) => (0, (at >> block_bits) as u32),
                Some(Place::Tar(at)) => (1, (at >> block_bits) as u32),
            };
            let mut index = [0u8; 8];
            put(&mut index, 2, device.to_le_bytes());
            put(&mut index, 4, block.to_le_bytes());
            self.write(&index)?;
        }
        Ok(())
    }

    /// What has blocks of its own.
    fn own(&mut self, node: Node) -> Result<(), BuildError> {
        let (tree, layout) = (self.tree, self.layout);
        if layout.placed(tree, node)?.own_blocks == 0 {
            return Ok(());
        }
        match &tree.inode(node).body {
            Body::Dir(_) => self.dir(node)?,
            Body::Symlink(target) => self.write(target)?,
            _ => {}
        }
        let block = 1u64 << layout.block_bits;
        self.pad_to(self.at.next_multiple_of(block))?;
        Ok(())
    }

    /// The blocks of a directory: in each the entries, then their names.
    fn dir(&mut self, node: Node) -> io::Result<()> {
        let (tree, layout) = (self.tree, self.layout);
        let block = 1usize << layout.block_bits;
        let (mut pending, mut used): (Vec<(&[u8], Node)>, _) = (Vec::new(), 0);
        for (name, child) in dir_entries(tree, node) {
            let entry = DIRENT_BYTES + name.len();
            if used + entry > block {
                self.dir_block(&pending)?;
                self.write(&vec![0; block - used])?;
                pending.clear();
                used = 0;
            }
            used += entry;
            pending.push((name, child));
        }
        self.dir_block(&pending)
    }

    fn dir_block(&mut self, entries: &[(&[u8], Node)]) -> io::Result<()> {
        let mut name_at = entries.len() * DIRENT_BYTES;
        for (name, child) in entries {
            let mut entry = [0u8; DIRENT_BYTES];
            put(&mut entry, 0, number(self.layout, *child).to_le_bytes());
            put(&mut entry, 8, (name_at as u16).to_le_bytes());
            entry[10] = dirent_kind(self.tree.inode(*child).mode);
            self.write(&entry)?;
            name_at += name.len();
        }
        for (name, _) in entries {
            self.write(name)?;
        }
        Ok(())
    }
}

/// The number of an inode on disk.
fn number(layout: &Layout, node: Node) -> u64 {
    u64::from(layout.slots[node as usize])
}
