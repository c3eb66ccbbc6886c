//! What an entry does to the tree: the rules of an extraction, in its order.

use std::collections::BTreeMap;

use crate::chunks;
use crate::error::{BuildError, Errno};
use crate::format::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, encode_device};
use crate::resolve::{MAX_PATH_BYTES, check_name};
use crate::tree::{Body, Content, Dir, Entry, Inode, Kind, Node, Place, ROOT, Tree};

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// Mode of directories that no entry declares.
const IMPLIED_MODE: u16 = 0o755;
/// Permission bits of a symbolic link.
const LINK_MODE: u16 = 0o777;

impl Tree {
    /// Adds the next entry.
    ///
    /// # Errors
    /// [`BuildError::Refused`] where an extraction would fail, [`BuildError::Limit`] if the tree grows too large. The
    /// tree is of no use afterwards.
    pub fn add(&mut self, entry: &Entry<'_>) -> Result<(), BuildError> {
        let Some((name, parents)) = entry.path.split_last() else {
            if matches!(entry.kind, Kind::Dir) {
                self.set_metadata(ROOT, entry)?;
            }
            return Ok(());
        };
        let parent = self.enter(parents, entry)?;
        if name.starts_with(WHITEOUT) {
            return self.whiteout(parent, name, entry);
        }
        check_name(name)?;
        let over_whiteout = self.clear(parent, name, matches!(entry.kind, Kind::Dir));
        match entry.kind {
            Kind::HardLink(target) => self.hard_link(parent, name, target),
            Kind::Dir => {
                let node = match self.child(parent, name) {
                    Some(node) => node,
                    None => self.make_dir(parent, name, entry)?,
                };
                if over_whiteout {
                    // The directory below was deleted before this one was made.
                    self.set_opaque(node)?;
                }
                self.set_metadata(node, entry)
            }
            kind => {
                let (format, body) = self.body(kind)?;
                let node = self.make(inode(format, entry, body))?;
                self.attach(parent, name, node)?;
                self.set_metadata(node, entry)
            }
        }
    }

    /// Finds (makes) the directory of an entry.
    fn enter(&mut self, parents: &[&[u8]], entry: &Entry<'_>) -> Result<Node, BuildError> {
        let path = parents.join(&b'/');
        if let Some((known, node)) = &self.last_parent
            && *known == path
        {
            return Ok(*node);
        }
        let node = match self.resolve_dir(parents) {
            Err(Errno::NoEntry) => {
                for depth in 1..=parents.len() {
                    let dir = self.resolve_dir(&parents[..depth - 1])?;
                    let name = parents[depth - 1];
                    check_name(name)?;
                    if self.child(dir, name).is_none() {
                        self.make_dir(dir, name, entry)?;
                    }
                }
                self.resolve_dir(parents)?
            }
            found => found?,
        };
        self.last_parent = Some((path, node));
        Ok(node)
    }

    fn make_dir(
        &mut self,
        parent: Node,
        name: &[u8],
        entry: &Entry<'_>,
    ) -> Result<Node, BuildError> {
        let body = Body::Dir(Box::new(Dir {
            parent,
            children: BTreeMap::new(),
        }));
        let node = self.make(inode(S_IFDIR | IMPLIED_MODE, entry, body))?;
        self.attach(parent, name, node)?;
        Ok(node)
    }

    /// Makes room for an entry; whether a whiteout of this layer was there.
    fn clear(&mut self, parent: Node, name: &[u8], for_dir: bool) -> bool {
        let Some(old) = self.child(parent, name) else {
            return false;
        };
        let inode = self.inode(old);
        let gone_bytes = match &inode.body {
            Body::Dir(_) if for_dir => return false,
            Body::Whole(size, _) | Body::Sparse(size, _) => *size,
            Body::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        let whiteout = self.format_of(old) == S_IFCHR && matches!(inode.body, Body::Device(0));
        if inode.names == 1 {
            self.size_bytes = self.size_bytes.saturating_sub(gone_bytes);
        }
        self.remove(parent, name);
        whiteout
    }

    fn hard_link(&mut self, parent: Node, name: &[u8], target: &[&[u8]]) -> Result<(), BuildError> {
        let (target_name, target_parents) = target.split_last().ok_or(Errno::NotPermitted)?;
        let dir = self.resolve_dir(target_parents)?;
        check_name(target_name)?;
        let node = self.child(dir, target_name).ok_or(Errno::NoEntry)?;
        if matches!(self.inode(node).body, Body::Dir(_)) {
            return Err(Errno::NotPermitted.into());
        }
        self.attach(parent, name, node)
    }

    fn body(&mut self, kind: Kind<'_>) -> Result<(u16, Body), BuildError> {
        Ok(match kind {
            Kind::File(content) => {
                self.size_bytes = self.size_bytes.saturating_add(content.size_bytes);
                (S_IFREG, file(content)?)
            }
            Kind::Symlink(target) => {
                if target.is_empty() {
                    return Err(Errno::NoEntry.into());
                }
                if target.len() > MAX_PATH_BYTES {
                    return Err(Errno::NameTooLong.into());
                }
                if target.contains(&0) {
                    return Err(Errno::Invalid.into());
                }
                self.size_bytes = self.size_bytes.saturating_add(target.len() as u64);
                (S_IFLNK, Body::Symlink(target.into()))
            }
            Kind::CharDevice(number) => (S_IFCHR, Body::Device(encode_device(number))),
            Kind::BlockDevice(number) => (S_IFBLK, Body::Device(encode_device(number))),
            Kind::Fifo => (S_IFIFO, Body::Fifo),
            Kind::Dir | Kind::HardLink(_) => return Err(Errno::Invalid.into()),
        })
    }

    fn whiteout(&mut self, parent: Node, name: &[u8], entry: &Entry<'_>) -> Result<(), BuildError> {
        if name == WHITEOUT_OPAQUE {
            return self.set_opaque(parent);
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Errno::Invalid.into());
        }
        check_name(hidden)?;
        // What this layer itself brought is not hidden by its own whiteout.
        if self.child(parent, hidden).is_none() {
            let node = self.make(inode(S_IFCHR, entry, Body::Device(0)))?;
            self.attach(parent, hidden, node)?;
        }
        Ok(())
    }

    fn set_opaque(&mut self, node: Node) -> Result<(), BuildError> {
        let set = self.inode(node).xattrs;
        self.inode_mut(node).xattrs = self.xattrs.with_opaque(set)?;
        Ok(())
    }

    fn set_metadata(&mut self, node: Node, entry: &Entry<'_>) -> Result<(), BuildError> {
        let format = self.format_of(node);
        let bits = match format {
            S_IFLNK => LINK_MODE,
            _ => (entry.mode & 0o7777) as u16,
        };
        let set = self.inode(node).xattrs;
        let xattrs = self.xattrs.apply(set, format | bits, entry.xattrs)?;
        let inode = self.inode_mut(node);
        // The kernel reads an owner of all ones as "leave it".
        if entry.uid != u32::MAX {
            inode.uid = entry.uid;
        }
        if entry.gid != u32::MAX {
            inode.gid = entry.gid;
        }
        inode.mode = format | bits;
        inode.mtime_s = entry.mtime_s;
        inode.mtime_ns = entry.mtime_ns.min(999_999_999);
        inode.xattrs = xattrs;
        Ok(())
    }
}

/// One without a name. What no entry declares has the time of the entry that brought it.
fn inode(mode: u16, entry: &Entry<'_>, body: Body) -> Inode {
    Inode {
        mode,
        uid: 0,
        gid: 0,
        names: 0,
        mtime_s: entry.mtime_s,
        mtime_ns: entry.mtime_ns.min(999_999_999),
        xattrs: 0,
        body,
    }
}

fn file(content: Content<'_>) -> Result<Body, BuildError> {
    let Content {
        size_bytes,
        extents,
    } = content;
    chunks::check(size_bytes, extents)?;
    Ok(match extents {
        _ if size_bytes == 0 => Body::Whole(0, Place::Tar(0)),
        [one] if one.file_at == 0 && one.len_bytes == size_bytes => {
            Body::Whole(size_bytes, one.place)
        }
        more => Body::Sparse(size_bytes, more.into()),
    })
}
