//! The entries of a layer's tar, for its index.

use std::io;

use gantry_erofs::{BuildError, Content, Entry, Extent, Kind, Place, Tree, fits_chunks};

use super::extract::blame;
use super::path::clean;
use crate::ImageError;
use crate::tar;

/// Blocks of an index have so many bits.
const BLOCK_BITS: u32 = 9;

/// Adds the entry that was just read to the tree; its content lies in the tar. `false` if an index cannot refer to it there.
pub(super) fn add<R>(
    tree: &mut Tree,
    entry: &tar::Entry,
    reader: &tar::Reader<R>,
) -> Result<bool, ImageError>
where
    R: io::Read,
{
    let path = clean(&entry.path)?;
    let what = || format!("layer entry {:?}", String::from_utf8_lossy(&entry.path));
    let target = match entry.kind {
        tar::Kind::HardLink => {
            clean(&entry.link).map_err(|e| blame(io::Error::other(e.to_string()), what()))?
        }
        _ => Vec::new(),
    };
    let extents = extents(entry, reader);
    if !fits_chunks(entry.size, &extents, BLOCK_BITS) {
        return Ok(false);
    }
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
    added.map(|()| true).map_err(|e| failed(e, what()))
}

/// Where the content of an entry is: in one piece, or around its holes.
fn extents<R: io::Read>(entry: &tar::Entry, reader: &tar::Reader<R>) -> Vec<Extent> {
    let whole = [(0, entry.size)];
    let mut at = reader.position_bytes();
    let stretches = reader.stretches().unwrap_or(&whole).iter();
    let extents = stretches.filter(|(_, len)| *len > 0);
    extents
        .map(|(file_at, len_bytes)| {
            let extent = Extent {
                file_at: *file_at,
                len_bytes: *len_bytes,
                place: Place::Tar(at),
            };
            at += len_bytes;
            extent
        })
        .collect()
}

pub(super) fn failed(error: BuildError, what: String) -> ImageError {
    match error {
        BuildError::Refused(e) => blame(e, what),
        BuildError::Limit(_) => ImageError::archive(format_args!("{what}: {error}")),
        BuildError::Write(source) => ImageError::Io { what, source },
    }
}
