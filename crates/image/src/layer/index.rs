//! The entries of a layer's tar, for its index.

use std::io;

use gantry_erofs::{BuildError, Content, Entry, Extent, Kind, Place, Tree};

use super::extract::blame;
use super::path::clean;
use crate::ImageError;
use crate::tar;

/// Adds an entry to the tree; its content lies there in the tar.
pub(super) fn add(tree: &mut Tree, entry: &tar::Entry, content_at: u64) -> Result<(), ImageError> {
    let path = clean(&entry.path)?;
    let what = || format!("layer entry {:?}", String::from_utf8_lossy(&entry.path));
    let target = match entry.kind {
        tar::Kind::HardLink => {
            clean(&entry.link).map_err(|e| blame(io::Error::other(e.to_string()), what()))?
        }
        _ => Vec::new(),
    };
    let extents = [Extent {
        file_at: 0,
        len_bytes: entry.size,
        place: Place::Tar(content_at),
    }];
    let kind = match entry.kind {
        tar::Kind::Dir => Kind::Dir,
        tar::Kind::File => Kind::File(Content {
            size_bytes: entry.size,
            extents: &extents,
        }),
        tar::Kind::HardLink => Kind::HardLink(&target),
        tar::Kind::Symlink => Kind::Symlink(&entry.link),
        tar::Kind::CharDevice => Kind::CharDevice(entry.device),
        tar::Kind::BlockDevice => Kind::BlockDevice(entry.device),
        tar::Kind::Fifo => Kind::Fifo,
    };
    let added = tree.add(&Entry {
        path: &path,
        kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime_s: entry.mtime_s,
        mtime_ns: entry.mtime_ns,
        xattrs: &entry.xattrs,
    });
    added.map_err(|e| failed(e, what()))
}

pub(super) fn failed(error: BuildError, what: String) -> ImageError {
    match error {
        BuildError::Refused(e) => blame(e, what),
        BuildError::Limit(_) => ImageError::archive(format_args!("{what}: {error}")),
        BuildError::Write(source) => ImageError::Io { what, source },
    }
}
