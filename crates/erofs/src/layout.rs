//! Where everything lies in the image.

use crate::chunks;
use crate::error::BuildError;
use crate::format::{
    CHUNK_INDEX_BYTES, DIRENT_BYTES, INODE_BYTES, LAYOUT_CHUNKS, LAYOUT_INLINE, LAYOUT_PLAIN,
    SLOT_BYTES, XATTR_ENTRY_BYTES, XATTR_HEADER_BYTES,
};
use crate::tree::{Body, Extent, Node, Place, ROOT, Tree};

/// Attributes this long are kept apart from their inode even if only one has them.
const SHARED_FROM_BYTES: usize = 1024;
/// Shared attributes of one inode (a byte counts them).
const MAX_SHARED: usize = 255;
/// What the number of words of an inode's attributes can say.
const MAX_XATTR_AREA_BYTES: usize = XATTR_HEADER_BYTES + 4 * (u16::MAX as usize - 1);

/// Places, and the order in which inodes are written.
pub(crate) struct Layout {
    pub(crate) block_bits: u32,
    /// Slot by node; of inodes that are gone it says nothing.
    pub(crate) slots: Vec<u32>,
    /// Every inode that is there, by its place.
    pub(crate) order: Vec<Node>,
    /// Bytes of all inodes with what follows each.
    pub(crate) meta_bytes: u64,
    /// Blocks of directories and links that have some of their own.
    pub(crate) own_blocks: u64,
    pub(crate) shared: Shared,
}

/// Attributes apart from inodes: their words in the shared area by number.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) words: Vec<Option<u32>>,
    pub(crate) bytes: u64,
}

/// The attributes of a set: which are shared, and the bytes of the area behind the inode.
pub(crate) struct XattrArea {
    pub(crate) shared: Vec<u32>,
    pub(crate) own: Vec<u32>,
    pub(crate) bytes: usize,
}

/// An inode and what follows it.
pub(crate) struct Placed {
    pub(crate) layout: u16,
    pub(crate) size: u64,
    /// Bytes of the area of attributes.
    pub(crate) xattr_bytes: u64,
    /// From the start of the inode: where what follows the attributes begins.
    pub(crate) tail_at: u64,
    pub(crate) tail_bytes: u64,
    pub(crate) chunks: Option<chunks::Plan>,
    /// Blocks elsewhere.
    pub(crate) own_blocks: u64,
    /// Blocks of the content lie one after the other from here, in the image.
    pub(crate) plain_at: Option<u64>,
}

pub(crate) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(4)
}

impl Shared {
    /// Counts who has each attribute.
    fn of(tree: &Tree) -> Result<Self, BuildError> {
        let mut users = vec![0u32; tree.xattrs.attributes()];
        for inode in tree.inodes.iter().filter(|i| i.names > 0) {
            for attribute in tree.xattrs.set(inode.xattrs) {
                users[*attribute as usize] = users[*attribute as usize].saturating_add(1);
            }
        }
        let mut shared = Self {
            words: vec![None; users.len()],
            bytes: 0,
        };
        for (number, users) in users.into_iter().enumerate() {
            let bytes = tree.xattrs.attribute(number as u32).len();
            if users > 1 || (users == 1 && bytes >= SHARED_FROM_BYTES) {
                let word = u32::try_from(shared.bytes / 4);
                let limit = |_| BuildError::Limit("shared extended attributes");
                shared.words[number] = Some(word.map_err(limit)?);
                shared.bytes += padded(bytes) as u64;
            }
        }
        Ok(shared)
    }
}

/// Parts the attributes of a set.
pub(crate) fn xattr_area(
    tree: &Tree,
    shared: &Shared,
    set: u32,
) -> Result<Option<XattrArea>, BuildError> {
    let set = tree.xattrs.set(set);
    if set.is_empty() {
        return Ok(None);
    }
    let mut area = XattrArea {
        shared: Vec::new(),
        own: Vec::new(),
        bytes: XATTR_HEADER_BYTES,
    };
    for attribute in set {
        match shared.words[*attribute as usize] {
            Some(word) if area.shared.len() < MAX_SHARED => {
                area.shared.push(word);
                area.bytes += 4;
            }
            _ => {
                area.own.push(*attribute);
                area.bytes += padded(tree.xattrs.attribute(*attribute).len());
            }
        }
    }
    if area.bytes > MAX_XATTR_AREA_BYTES {
        return Err(BuildError::Limit("extended attributes of one file"));
    }
    debug_assert!(area.bytes >= XATTR_HEADER_BYTES + XATTR_ENTRY_BYTES);
    Ok(Some(area))
}

impl Layout {
    pub(crate) fn of(tree: &Tree, block_bits: u32) -> Result<Self, BuildError> {
        let mut layout = Self {
            block_bits,
            slots: vec![u32::MAX; tree.inodes.len()],
            order: Vec::new(),
            meta_bytes: 0,
            own_blocks: 0,
            shared: Shared::of(tree)?,
        };
        // Each directory is followed by its files and links, then come the directories in it.
        let mut dirs = vec![ROOT];
        while let Some(node) = dirs.pop() {
            layout.place(tree, node)?;
            let Some(dir) = tree.dir(node) else { continue };
            let first = dirs.len();
            for child in dir.children.values() {
                if tree.dir(*child).is_some() {
                    dirs.push(*child);
                } else if layout.slots[*child as usize] == u32::MAX {
                    layout.place(tree, *child)?;
                }
            }
            dirs[first..].reverse();
        }
        Ok(layout)
    }

    fn place(&mut self, tree: &Tree, node: Node) -> Result<(), BuildError> {
        let block = 1u64 << self.block_bits;
        let mut placed = self.placed(tree, node)?;
        if placed.layout == LAYOUT_INLINE {
            let inside = (self.meta_bytes + placed.tail_at) % block;
            if inside + placed.tail_bytes > block {
                self.meta_bytes = self.meta_bytes.next_multiple_of(block);
                placed = self.placed(tree, node)?;
            }
        }
        let slot = u32::try_from(self.meta_bytes / SLOT_BYTES);
        self.slots[node as usize] = slot.map_err(|_| BuildError::Limit("inodes of one image"))?;
        self.order.push(node);
        let end = self.meta_bytes + placed.tail_at + placed.tail_bytes;
        self.meta_bytes = end.next_multiple_of(SLOT_BYTES);
        self.own_blocks += placed.own_blocks;
        Ok(())
    }

    /// What follows an inode. The same at every call: only whether it begins a block is decided by its place.
    pub(crate) fn placed(&self, tree: &Tree, node: Node) -> Result<Placed, BuildError> {
        let inode = tree.inode(node);
        let area = xattr_area(tree, &self.shared, inode.xattrs)?;
        let xattr_bytes = area.map_or(0, |a| a.bytes as u64);
        let mut placed = Placed {
            layout: LAYOUT_PLAIN,
            size: 0,
            xattr_bytes,
            tail_at: INODE_BYTES + xattr_bytes,
            tail_bytes: 0,
            chunks: None,
            own_blocks: 0,
            plain_at: None,
        };
        match &inode.body {
            Body::Dir(_) => {
                placed.size = dir_bytes(tree, node, 1 << self.block_bits);
                self.inline(&mut placed);
            }
            Body::Symlink(target) => {
                placed.size = target.len() as u64;
                self.inline(&mut placed);
            }
            Body::Whole(size, place) => {
                placed.size = *size;
                let extent = Extent {
                    file_at: 0,
                    len_bytes: *size,
                    place: *place,
                };
                self.content(&mut placed, std::slice::from_ref(&extent))?;
            }
            Body::Sparse(size, extents) => {
                placed.size = *size;
                self.content(&mut placed, extents)?;
            }
            Body::Device(_) | Body::Fifo | Body::Gone => {}
        }
        Ok(placed)
    }

    /// Content of ours: behind the inode if a block holds both, else in blocks of its own.
    fn inline(&self, placed: &mut Placed) {
        let block = 1u64 << self.block_bits;
        if placed.tail_at % block + placed.size <= block {
            placed.layout = LAYOUT_INLINE;
            placed.tail_bytes = placed.size;
        } else {
            placed.own_blocks = placed.size.div_ceil(block);
        }
    }

    fn content(&self, placed: &mut Placed, extents: &[Extent]) -> Result<(), BuildError> {
        if placed.size == 0 {
            return Ok(());
        }
        if let [
            Extent {
                file_at: 0,
                len_bytes,
                place: Place::Image(at),
            },
        ] = extents
            && *len_bytes == placed.size
            && at.trailing_zeros() >= self.block_bits
        {
            placed.plain_at = Some(*at);
            return Ok(());
        }
        let plan = chunks::plan(placed.size, extents, self.block_bits);
        let plan = plan.ok_or(BuildError::Limit("content that is not on blocks"))?;
        placed.layout = LAYOUT_CHUNKS;
        placed.tail_at = placed.tail_at.next_multiple_of(CHUNK_INDEX_BYTES);
        placed.tail_bytes = plan.count * CHUNK_INDEX_BYTES;
        placed.chunks = Some(plan);
        Ok(())
    }
}

/// The entries of a directory with `.` and `..`, in the order of the kernel's search.
pub(crate) fn dir_entries(
    tree: &Tree,
    node: Node,
) -> impl Iterator<Item = (&[u8], Node)> + use<'_> {
    let dir = tree.dir(node);
    let parent = dir.map_or(ROOT, |d| d.parent);
    let mut dots = [(&b"."[..], node), (&b".."[..], parent)]
        .into_iter()
        .peekable();
    let mut children = dir
        .into_iter()
        .flat_map(|d| d.children.iter().map(|(name, child)| (&**name, *child)))
        .peekable();
    std::iter::from_fn(move || match (dots.peek(), children.peek()) {
        (Some(dot), Some(child)) if dot.0 < child.0 => dots.next(),
        (Some(_), None) => dots.next(),
        _ => children.next(),
    })
}

/// Bytes of a directory: every block but the last counts whole.
fn dir_bytes(tree: &Tree, node: Node, block: usize) -> u64 {
    let (mut blocks, mut used) = (0u64, 0);
    for (name, _) in dir_entries(tree, node) {
        let entry = DIRENT_BYTES + name.len();
        if used + entry > block {
            blocks += 1;
            used = 0;
        }
        used += entry;
    }
    blocks * block as u64 + used as u64
}
