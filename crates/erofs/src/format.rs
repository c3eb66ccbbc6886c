//! Numbers of the on-disk format (`fs/erofs/erofs_fs.h` of Linux).

/// Where the super block lies.
pub(crate) const SUPER_AT: u64 = 1024;
pub(crate) const SUPER_BYTES: usize = 128;
pub(crate) const MAGIC: u32 = 0xE0F5_E1E2;
/// A device slot follows the super block.
pub(crate) const DEVICE_SLOT_BYTES: usize = 128;
/// Where the first device slot lies.
pub(crate) const DEVICE_SLOT_AT: u64 = SUPER_AT + SUPER_BYTES as u64;

/// The super block has a checksum.
pub(crate) const COMPAT_CHECKSUM: u32 = 1;
/// Inode times are times of change.
pub(crate) const COMPAT_MTIME: u32 = 2;
pub(crate) const INCOMPAT_CHUNKED: u32 = 4;
pub(crate) const INCOMPAT_DEVICES: u32 = 8;

/// Inodes lie at multiples of this; their number is the multiple.
pub(crate) const SLOT_BYTES: u64 = 32;
/// The extended form of an inode.
pub(crate) const INODE_BYTES: u64 = 64;

/// Layouts of the content of an inode.
pub(crate) const LAYOUT_PLAIN: u16 = 0;
pub(crate) const LAYOUT_INLINE: u16 = 2;
pub(crate) const LAYOUT_CHUNKS: u16 = 4;

/// A chunk's place has a device.
pub(crate) const CHUNK_INDEXES: u16 = 0x20;
/// How many bits more than a block a chunk may have.
pub(crate) const CHUNK_BITS_MAX: u32 = 31;
pub(crate) const CHUNK_INDEX_BYTES: u64 = 8;
/// A chunk that is a hole.
pub(crate) const HOLE: u32 = u32::MAX;

pub(crate) const DIRENT_BYTES: usize = 12;
pub(crate) const XATTR_HEADER_BYTES: usize = 12;
pub(crate) const XATTR_ENTRY_BYTES: usize = 4;

pub(crate) const S_IFMT: u16 = 0o170_000;
pub(crate) const S_IFIFO: u16 = 0o010_000;
pub(crate) const S_IFCHR: u16 = 0o020_000;
pub(crate) const S_IFDIR: u16 = 0o040_000;
pub(crate) const S_IFBLK: u16 = 0o060_000;
pub(crate) const S_IFREG: u16 = 0o100_000;
pub(crate) const S_IFLNK: u16 = 0o120_000;

/// The kind in a directory entry.
pub(crate) fn dirent_kind(mode: u16) -> u8 {
    match mode & S_IFMT {
        S_IFREG => 1,
        S_IFDIR => 2,
        S_IFCHR => 3,
        S_IFBLK => 4,
        S_IFIFO => 5,
        S_IFLNK => 7,
        _ => 0,
    }
}

/// A device number as the kernel writes it on disks.
pub(crate) fn encode_device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

pub(crate) fn decode_device(device: u32) -> (u32, u32) {
    (
        (device & 0xf_ff00) >> 8,
        (device & 0xff) | ((device >> 12) & 0xf_ff00),
    )
}
