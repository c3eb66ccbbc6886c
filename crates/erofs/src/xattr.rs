//! Extended attributes: each different one is kept once, and each different set of them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::acl;
use crate::error::{BuildError, Errno};
use crate::format::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, XATTR_ENTRY_BYTES};
use crate::tree::MAX_XATTR_BYTES;

/// Longest name, with its prefix (`XATTR_NAME_MAX`).
const MAX_NAME_BYTES: usize = 255;
/// Longest value that the format holds.
const MAX_VALUE_BYTES: usize = u16::MAX as usize;

const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;
/// Prefixes with their numbers on disk.
const PREFIXES: &[(&[u8], u8)] = &[(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
/// What the overlay itself writes; a layer that brings it would steer the mount.
const OVERLAY: &[u8] = b"overlay.";
const TRUSTED: u8 = 4;
const SECURITY: u8 = 6;
const USER: u8 = 1;

/// One attribute as it is written: lengths, number of the prefix, the rest of the name, the value.
type Attribute = Arc<[u8]>;

#[derive(Debug, Default)]
pub(crate) struct Xattrs {
    attributes: Vec<Attribute>,
    by_bytes: HashMap<Attribute, u32>,
    /// By number less one: number 0 is the empty set, which is in no table.
    sets: Vec<Arc<[u32]>>,
    by_set: HashMap<Arc<[u32]>, u32>,
    total_bytes: usize,
}

/// What of it names the attribute.
fn key(attribute: &[u8]) -> (u8, &[u8]) {
    let name_bytes = usize::from(attribute[0]);
    (
        attribute[1],
        &attribute[XATTR_ENTRY_BYTES..XATTR_ENTRY_BYTES + name_bytes],
    )
}

/// A name as the kernel resolves it: number of its prefix and the rest. `None` for one that no file system takes.
fn resolve(name: &[u8]) -> Result<Option<(u8, &[u8])>, Errno> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(Errno::OutOfRange);
    }
    match name {
        b"system.posix_acl_access" => return Ok(Some((ACL_ACCESS, b""))),
        b"system.posix_acl_default" => return Ok(Some((ACL_DEFAULT, b""))),
        _ => {}
    }
    for (prefix, number) in PREFIXES {
        if let Some(rest) = name.strip_prefix(*prefix) {
            return match rest.is_empty() {
                true => Err(Errno::Invalid),
                false => Ok(Some((*number, rest))),
            };
        }
    }
    Ok(None)
}

/// Header, revision and size of `security.capability`.
fn is_capability(value: &[u8]) -> bool {
    let revision = value.get(..4).map(|v| v[3]);
    matches!((revision, value.len()), (Some(2), 20) | (Some(3), 24))
}

impl Xattrs {
    pub(crate) fn set(&self, number: u32) -> &[u32] {
        match number.checked_sub(1) {
            Some(at) => &self.sets[at as usize],
            None => &[],
        }
    }

    pub(crate) fn attribute(&self, number: u32) -> &[u8] {
        &self.attributes[number as usize]
    }

    pub(crate) fn attributes(&self) -> usize {
        self.attributes.len()
    }

    /// The set after `setxattr` of each of `wanted` and `chmod(mode)`.
    pub(crate) fn apply(
        &mut self,
        set: u32,
        mode: u16,
        wanted: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<u32, BuildError> {
        if wanted.is_empty() && set == 0 {
            return Ok(0);
        }
        let mut new = self.set(set).to_vec();
        for (name, value) in wanted {
            if let Some((number, rest, value)) = taken(name, value, mode)? {
                self.put(&mut new, number, rest, value)?;
            }
        }
        let access = new
            .iter()
            .find(|a| key(self.attribute(**a)).0 == ACL_ACCESS);
        if let Some(access) = access {
            let bytes = self.attribute(*access);
            let list = acl::with_mode(&bytes[XATTR_ENTRY_BYTES..], mode);
            self.put(&mut new, ACL_ACCESS, b"", list.as_deref())?;
        }
        self.number_of(new)
    }

    /// The set with the mark of a directory that hides what is below it.
    pub(crate) fn with_opaque(&mut self, set: u32) -> Result<u32, BuildError> {
        let mut new = self.set(set).to_vec();
        self.put(&mut new, TRUSTED, b"overlay.opaque", Some(b"y"))?;
        self.number_of(new)
    }

    fn put(
        &mut self,
        set: &mut Vec<u32>,
        number: u8,
        rest: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), BuildError> {
        set.retain(|a| key(self.attribute(*a)) != (number, rest));
        let Some(value) = value else { return Ok(()) };
        let name_bytes = u8::try_from(rest.len()).map_err(|_| Errno::OutOfRange)?;
        let value_bytes = u16::try_from(value.len())
            .map_err(|_| BuildError::Limit("value of an extended attribute"))?;
        let mut bytes = Vec::with_capacity(XATTR_ENTRY_BYTES + rest.len() + value.len());
        bytes.extend([name_bytes, number]);
        bytes.extend(value_bytes.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.extend_from_slice(value);
        if let Some(known) = self.by_bytes.get(bytes.as_slice()) {
            set.push(*known);
            return Ok(());
        }
        self.grow(bytes.len())?;
        let attribute: Attribute = bytes.into();
        let id = self.attributes.len() as u32;
        self.attributes.push(attribute.clone());
        self.by_bytes.insert(attribute, id);
        set.push(id);
        Ok(())
    }

    fn number_of(&mut self, set: Vec<u32>) -> Result<u32, BuildError> {
        if set.is_empty() {
            return Ok(0);
        }
        if let Some(known) = self.by_set.get(set.as_slice()) {
            return Ok(*known);
        }
        self.grow(set.len() * size_of::<u32>())?;
        let set: Arc<[u32]> = set.into();
        self.sets.push(set.clone());
        let number = self.sets.len() as u32;
        self.by_set.insert(set, number);
        Ok(number)
    }

    fn grow(&mut self, bytes: usize) -> Result<(), BuildError> {
        self.total_bytes += bytes;
        if self.total_bytes > MAX_XATTR_BYTES {
            return Err(BuildError::Limit("bytes of extended attributes"));
        }
        Ok(())
    }
}

/// What `setxattr` of this makes of a file of this mode, `None` where it is left out (as Docker leaves out what is not
/// supported). A value of `None` removes it.
#[allow(clippy::type_complexity)]
fn taken<'a>(
    name: &'a [u8],
    value: &'a [u8],
    mode: u16,
) -> Result<Option<(u8, &'a [u8], Option<&'a [u8]>)>, BuildError> {
    let Some((number, rest)) = resolve(name)? else {
        return Ok(None);
    };
    let format = mode & S_IFMT;
    if number == TRUSTED && rest.starts_with(OVERLAY) {
        return Ok(None);
    }
    if value.len() > MAX_VALUE_BYTES {
        return Err(BuildError::Limit("value of an extended attribute"));
    }
    let value = match number {
        USER if format != S_IFREG && format != S_IFDIR => return Ok(None),
        ACL_ACCESS | ACL_DEFAULT if format == S_IFLNK => return Ok(None),
        ACL_ACCESS | ACL_DEFAULT => {
            let some = acl::check(value)?;
            if some && number == ACL_DEFAULT && format != S_IFDIR {
                return Err(Errno::Invalid.into());
            }
            some.then_some(value)
        }
        SECURITY if rest == b"capability" && !is_capability(value) => {
            return Err(Errno::Invalid.into());
        }
        _ => Some(value),
    };
    Ok(Some((number, rest, value)))
}
