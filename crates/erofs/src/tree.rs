//! The tree of a layer in memory.

use std::collections::BTreeMap;

use crate::error::BuildError;
use crate::format::{S_IFDIR, S_IFMT};
use crate::xattr::Xattrs;

/// Inodes that one tree may ever have had: about 150 bytes of memory each, with their names.
pub const MAX_NODES: usize = 2_000_000;
/// Bytes of names and link targets in one tree.
pub const MAX_NAME_BYTES: usize = 256 << 20;
/// Bytes of different extended attributes in one tree.
pub const MAX_XATTR_BYTES: usize = 256 << 20;

/// Number of an inode in [`Tree::inodes`].
pub(crate) type Node = u32;
pub(crate) const ROOT: Node = 0;

/// Where content lies, in bytes from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the tar.
    Tar(u64),
    /// In the image, where the caller put it.
    Image(u64),
}

/// A stretch of a file that is no hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file.
    pub file_at: u64,
    /// How long.
    pub len_bytes: u64,
    /// Where it lies.
    pub place: Place,
}

/// Content of a file.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// Bytes, with holes.
    pub size_bytes: u64,
    /// In the order of the file; what is between them is zero.
    pub extents: &'a [Extent],
}

/// What an entry makes.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// Directory.
    Dir,
    /// Regular file.
    File(Content<'a>),
    /// One more name of the entry at this path.
    HardLink(&'a [&'a [u8]]),
    /// Symbolic link to this path.
    Symlink(&'a [u8]),
    /// Character device of this number.
    CharDevice((u32, u32)),
    /// Block device of this number.
    BlockDevice((u32, u32)),
    /// Named pipe.
    Fifo,
}

/// An entry of the tar.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Components of its path below the root, without `.` and `..`. A last one that begins with `.wh.` is a whiteout of
    /// the layers below, as OCI has it.
    pub path: &'a [&'a [u8]],
    /// What it makes.
    pub kind: Kind<'a>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner; all ones leave it.
    pub uid: u32,
    /// Group; all ones leave it.
    pub gid: u32,
    /// Time of change, seconds.
    pub mtime_s: i64,
    /// Time of change, nanoseconds.
    pub mtime_ns: u32,
    /// Extended attributes with their whole names; what Linux would not take is left out.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) parent: Node,
    pub(crate) children: BTreeMap<Box<[u8]>, Node>,
}

#[derive(Debug)]
pub(crate) enum Body {
    /// Removed.
    Gone,
    Dir(Box<Dir>),
    /// Size, and where it lies in one piece from its start.
    Whole(u64, Place),
    /// Size and stretches.
    Sparse(u64, Box<[Extent]>),
    Symlink(Box<[u8]>),
    /// As the kernel encodes it.
    Device(u32),
    Fifo,
}

#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Names of what is no directory.
    pub(crate) names: u32,
    pub(crate) mtime_s: i64,
    pub(crate) mtime_ns: u32,
    /// In [`Tree::xattrs`].
    pub(crate) xattrs: u32,
    pub(crate) body: Body,
}

/// The tree that the entries so far make.
#[derive(Debug)]
pub struct Tree {
    pub(crate) inodes: Vec<Inode>,
    pub(crate) xattrs: Xattrs,
    name_bytes: usize,
    /// Directory of the last entry, by its path.
    pub(crate) last_parent: Option<(Vec<u8>, Node)>,
    pub(crate) size_bytes: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// A root directory of mode 0755 and nothing in it.
    pub fn new() -> Self {
        let root = Inode {
            mode: S_IFDIR | 0o755,
            uid: 0,
            gid: 0,
            names: 1,
            mtime_s: 0,
            mtime_ns: 0,
            xattrs: 0,
            body: Body::Dir(Box::new(Dir {
                parent: ROOT,
                children: BTreeMap::new(),
            })),
        };
        Self {
            inodes: vec![root],
            xattrs: Xattrs::default(),
            name_bytes: 0,
            last_parent: None,
            size_bytes: 0,
        }
    }

    /// Sum of the sizes of files and links, as an extraction counts them.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) fn inode(&self, node: Node) -> &Inode {
        &self.inodes[node as usize]
    }

    pub(crate) fn inode_mut(&mut self, node: Node) -> &mut Inode {
        &mut self.inodes[node as usize]
    }

    pub(crate) fn dir(&self, node: Node) -> Option<&Dir> {
        match &self.inode(node).body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    pub(crate) fn child(&self, dir: Node, name: &[u8]) -> Option<Node> {
        self.dir(dir)?.children.get(name).copied()
    }

    /// Makes an inode that has no name yet.
    pub(crate) fn make(&mut self, inode: Inode) -> Result<Node, BuildError> {
        if self.inodes.len() >= MAX_NODES {
            return Err(BuildError::Limit("inodes in one tree"));
        }
        if let Body::Symlink(target) = &inode.body {
            self.count_name(target.len())?;
        }
        self.inodes.push(inode);
        Ok((self.inodes.len() - 1) as Node)
    }

    fn count_name(&mut self, bytes: usize) -> Result<(), BuildError> {
        self.name_bytes += bytes;
        if self.name_bytes > MAX_NAME_BYTES {
            return Err(BuildError::Limit("bytes of names in one tree"));
        }
        Ok(())
    }

    /// Gives an inode a name that is free.
    pub(crate) fn attach(
        &mut self,
        parent: Node,
        name: &[u8],
        node: Node,
    ) -> Result<(), BuildError> {
        self.count_name(name.len())?;
        self.inode_mut(node).names += 1;
        if let Body::Dir(dir) = &mut self.inode_mut(parent).body {
            dir.children.insert(name.into(), node);
        }
        Ok(())
    }

    /// Takes a name away, with all that is below it.
    pub(crate) fn remove(&mut self, parent: Node, name: &[u8]) {
        self.last_parent = None;
        let Body::Dir(dir) = &mut self.inode_mut(parent).body else {
            return;
        };
        let Some(node) = dir.children.remove(name) else {
            return;
        };
        self.name_bytes -= name.len();
        let mut gone = vec![node];
        while let Some(node) = gone.pop() {
            let inode = self.inode_mut(node);
            inode.names -= 1;
            if inode.names > 0 {
                continue;
            }
            match std::mem::replace(&mut inode.body, Body::Gone) {
                Body::Dir(dir) => {
                    for (name, child) in dir.children {
                        self.name_bytes -= name.len();
                        gone.push(child);
                    }
                }
                Body::Symlink(target) => self.name_bytes -= target.len(),
                _ => {}
            }
        }
    }

    /// What `stat` says of its kind.
    pub(crate) fn format_of(&self, node: Node) -> u16 {
        self.inode(node).mode & S_IFMT
    }
}
