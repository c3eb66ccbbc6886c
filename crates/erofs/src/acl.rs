//! POSIX access control lists in the form of their attributes.

use crate::error::Errno;

const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
const VERSION: [u8; 4] = [2, 0, 0, 0];

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

struct AclEntry {
    tag: u16,
    permissions: u16,
    id: u32,
}

fn entries(value: &[u8]) -> impl Iterator<Item = AclEntry> + '_ {
    let entries = value.get(HEADER_BYTES..).unwrap_or_default();
    entries.chunks_exact(ENTRY_BYTES).map(|e| AclEntry {
        tag: u16::from_le_bytes([e[0], e[1]]),
        permissions: u16::from_le_bytes([e[2], e[3]]),
        id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
    })
}

/// Whether the kernel takes it; `false` for a list of nothing, which removes one.
pub(crate) fn check(value: &[u8]) -> Result<bool, Errno> {
    if value.is_empty() {
        return Ok(false);
    }
    let whole =
        value.len() >= HEADER_BYTES && (value.len() - HEADER_BYTES).is_multiple_of(ENTRY_BYTES);
    if !whole || value[..HEADER_BYTES] != VERSION {
        return Err(Errno::Invalid);
    }
    if value.len() == HEADER_BYTES {
        return Ok(false);
    }
    let mut wanted = USER_OBJ;
    let mut needs_mask = false;
    for entry in entries(value) {
        let named = entry.id != u32::MAX;
        wanted = match (entry.tag, wanted) {
            _ if entry.permissions > 7 => return Err(Errno::Invalid),
            (USER_OBJ, USER_OBJ) => USER,
            (USER, USER) if named => {
                needs_mask = true;
                USER
            }
            (GROUP_OBJ, USER) => GROUP,
            (GROUP, GROUP) if named => {
                needs_mask = true;
                GROUP
            }
            (MASK, GROUP) => OTHER,
            (OTHER, OTHER) => 0,
            (OTHER, GROUP) if !needs_mask => 0,
            _ => return Err(Errno::Invalid),
        };
    }
    match wanted {
        0 => Ok(true),
        _ => Err(Errno::Invalid),
    }
}

/// An access list after `chmod(mode)`; `None` if it says no more than the mode.
pub(crate) fn with_mode(value: &[u8], mode: u16) -> Option<Vec<u8>> {
    let has_mask = entries(value).any(|e| e.tag == MASK);
    let more = entries(value).any(|e| matches!(e.tag, USER | GROUP | MASK));
    let mut new = value.to_vec();
    for (entry, at) in entries(value).zip((HEADER_BYTES..).step_by(ENTRY_BYTES)) {
        let permissions = match entry.tag {
            USER_OBJ => mode >> 6,
            MASK => mode >> 3,
            GROUP_OBJ if !has_mask => mode >> 3,
            OTHER => mode,
            _ => continue,
        } & 7;
        new[at + 2..at + 4].copy_from_slice(&permissions.to_le_bytes());
    }
    more.then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = VERSION.to_vec();
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    #[test]
    fn lists_follow_their_mode() {
        let none = u32::MAX;
        let full = [
            (USER_OBJ, 7, none),
            (USER, 6, 1000),
            (GROUP_OBJ, 5, none),
            (MASK, 7, none),
            (OTHER, 0, none),
        ];
        assert_eq!(check(&acl(&full)), Ok(true));
        let changed = with_mode(&acl(&full), 0o645);
        let mut wanted = full;
        wanted[0].1 = 6;
        wanted[3].1 = 4;
        wanted[4].1 = 5;
        assert_eq!(changed, Some(acl(&wanted)));
        let plain = acl(&[(USER_OBJ, 7, none), (GROUP_OBJ, 5, none), (OTHER, 0, none)]);
        assert_eq!(check(&plain), Ok(true));
        assert_eq!(with_mode(&plain, 0o750), None);
    }

    #[test]
    fn what_the_kernel_refuses() {
        let none = u32::MAX;
        for bad in [
            acl(&[(USER_OBJ, 8, none), (GROUP_OBJ, 5, none), (OTHER, 0, none)]),
            acl(&[(GROUP_OBJ, 5, none), (USER_OBJ, 7, none), (OTHER, 0, none)]),
            acl(&[
                (USER_OBJ, 7, none),
                (USER, 7, 1),
                (GROUP_OBJ, 5, none),
                (OTHER, 0, none),
            ]),
            acl(&[(USER_OBJ, 7, none)]),
            vec![2, 0, 0, 0, 1],
            vec![3, 0, 0, 0],
        ] {
            assert_eq!(check(&bad), Err(Errno::Invalid));
        }
        assert_eq!(check(&VERSION), Ok(false));
    }
}
