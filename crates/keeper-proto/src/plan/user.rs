//! User namespaces.

use super::FdIndex;
use crate::wire::{Reader, WireError, Writer};

/// Longest content of an id map: the kernel takes one page.
const MAX_MAP_BYTES: usize = 4096;

/// A user namespace that owns every namespace of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserNamespace {
    /// Where it comes from.
    pub source: UserSource,
    /// Detached copies of the host's whole proc and sysfs: the kernel lets a user namespace mount its own only where
    /// the whole is in sight already.
    pub views: [FdIndex; 2],
}

/// Where a user namespace comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserSource {
    /// A new one.
    New {
        /// Content of `/proc/PID/uid_map`.
        uid_map: Vec<u8>,
        /// Content of `/proc/PID/gid_map`.
        gid_map: Vec<u8>,
    },
    /// The one behind this descriptor.
    Join(FdIndex),
}

impl UserNamespace {
    pub(super) fn encode(&self, w: &mut Writer) {
        match &self.source {
            UserSource::New { uid_map, gid_map } => w.u8(0).bytes(uid_map).bytes(gid_map),
            UserSource::Join(fd) => w.u8(1).u8(*fd),
        };
        self.views.iter().for_each(|fd| {
            w.u8(*fd);
        });
    }

    pub(super) fn decode(r: &mut Reader<'_>, fds: usize) -> Result<UserNamespace, WireError> {
        let index = |r: &mut Reader<'_>| match r.u8()? {
            fd if usize::from(fd) < fds => Ok(fd),
            fd => Err(WireError::NoFd(fd)),
        };
        let map = |r: &mut Reader<'_>| match r.bytes()? {
            map if map.len() < MAX_MAP_BYTES => Ok(map.to_vec()),
            map => Err(WireError::Unknown {
                field: "length of an id map",
                value: map.len() as u64,
            }),
        };
        let source = match r.u8()? {
            0 => UserSource::New {
                uid_map: map(r)?,
                gid_map: map(r)?,
            },
            1 => UserSource::Join(index(r)?),
            n => {
                return Err(WireError::Unknown {
                    field: "user namespace",
                    value: n.into(),
                });
            }
        };
        Ok(UserNamespace {
            source,
            views: [index(r)?, index(r)?],
        })
    }
}
