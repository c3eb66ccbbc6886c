//! The root file system of a container that does not run, to read the image's content.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use super::rootfs;
use crate::error::LaunchError;
use crate::spec::RootfsSpec;
use crate::sys::IN_ROOT;

/// A mounted root file system that is attached nowhere; it is gone when it is dropped.
#[derive(Debug)]
pub struct RootView {
    root: OwnedFd,
}

/// A file or directory of a [`RootView`], held open.
#[derive(Debug)]
pub struct RootEntry {
    fd: OwnedFd,
}

impl RootView {
    /// Mounts it. Blocks.
    ///
    /// # Errors
    /// The kernel's, with the step that failed.
    pub fn mount(spec: &RootfsSpec) -> Result<RootView, LaunchError> {
        let root = rootfs::mount(spec)?;
        Ok(RootView { root })
    }

    /// What lies at this path; symbolic links are followed inside the root. `None` if there is nothing.
    ///
    /// # Errors
    /// The kernel's, other than that nothing is there.
    pub fn open(&self, path: &str) -> std::io::Result<Option<RootEntry>> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), IN_ROOT) {
            Ok(fd) => Ok(Some(RootEntry { fd })),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl RootEntry {
    /// A path that means it as long as this value lives, in this process.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/.", self.fd.as_raw_fd()).into()
    }

    /// Whether it is a directory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_directory(&self) -> std::io::Result<bool> {
        let stat = rustix::fs::fstat(&self.fd)?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        Ok(kind == rustix::fs::FileType::Directory)
    }
}
