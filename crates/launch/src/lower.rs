//! Read-only layers of root file systems.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A read-only layer: a directory, or a mount that is attached nowhere.
#[derive(Clone, Debug)]
pub struct Lower {
    /// Where this process finds it.
    path: PathBuf,
    mount: Option<Arc<OwnedFd>>,
}

impl Lower {
    /// A mount that is attached nowhere; it is kept at least as long as this.
    pub fn mounted(mount: Arc<OwnedFd>) -> Lower {
        Lower {
            path: format!("/proc/self/fd/{}", mount.as_raw_fd()).into(),
            mount: Some(mount),
        }
    }

    /// Of a mount that is attached nowhere.
    pub(crate) fn mount(&self) -> Option<BorrowedFd<'_>> {
        self.mount.as_ref().map(|mount| mount.as_fd())
    }
}

impl From<PathBuf> for Lower {
    fn from(path: PathBuf) -> Lower {
        Lower { path, mount: None }
    }
}

impl AsRef<Path> for Lower {
    /// Good in this process only, while this is kept.
    fn as_ref(&self) -> &Path {
        &self.path
    }
}
