//! Paths in the tree, as `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` finds them.

use crate::error::Errno;
use crate::tree::{Body, Node, ROOT, Tree};

/// Longest component (`NAME_MAX`).
pub(crate) const MAX_COMPONENT_BYTES: usize = 255;
/// Longest path (`PATH_MAX` without its NUL).
pub(crate) const MAX_PATH_BYTES: usize = 4095;
/// Symbolic links on the way to one path (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

impl Tree {
    /// The directory at a path; symbolic links are followed, and stay below the root.
    pub(crate) fn resolve_dir(&self, parts: &[&[u8]]) -> Result<Node, Errno> {
        let whole = parts.iter().map(|p| p.len() + 1).sum::<usize>();
        if whole.saturating_sub(1) > MAX_PATH_BYTES {
            return Err(Errno::NameTooLong);
        }
        let mut left: Vec<&[u8]> = parts.iter().rev().copied().collect();
        let mut at = ROOT;
        let mut links = 0;
        while let Some(part) = left.pop() {
            let dir = self.dir(at).ok_or(Errno::NotDirectory)?;
            match part {
                b"" | b"." => continue,
                b".." => {
                    at = dir.parent;
                    continue;
                }
                _ => {}
            }
            check_name(part)?;
            let next = *dir.children.get(part).ok_or(Errno::NoEntry)?;
            match &self.inode(next).body {
                Body::Dir(_) => at = next,
                Body::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::Loop);
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    left.extend(target.rsplit(|b| *b == b'/'));
                }
                _ => return Err(Errno::NotDirectory),
            }
        }
        Ok(at)
    }
}

pub(crate) fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.len() > MAX_COMPONENT_BYTES {
        return Err(Errno::NameTooLong);
    }
    if name.is_empty() || name.iter().any(|b| matches!(b, 0 | b'/')) {
        return Err(Errno::Invalid);
    }
    Ok(())
}
