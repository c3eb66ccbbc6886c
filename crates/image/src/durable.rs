//! Names that a power cut does not take.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::ImageError;
use crate::error::IoContext;

/// Makes a directory and those above it that are missing, durably: what is synced in it later must be found.
pub(crate) fn create_dir_all(path: &Path) -> Result<(), ImageError> {
    create(path).context(|| format!("make {}", path.display()))
}

fn create(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent().filter(|parent| *parent != Path::new("")) else {
        return std::fs::create_dir_all(path);
    };
    if path.is_dir() {
        return Ok(());
    }
    create(parent)?;
    match std::fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), ImageError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .context(|| format!("sync {}", path.display()))
}
