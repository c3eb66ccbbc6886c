//! Mounts of layers: each is mounted once, attached nowhere, and shared by all containers.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// Mounts kept, one descriptor each; the one that was wanted longest ago goes first. What uses it keeps it alive.
pub const MAX_KEPT_MOUNTS: usize = 1024;

#[derive(Default)]
struct Kept {
    mounts: HashMap<String, (Arc<OwnedFd>, u64)>,
    clock: u64,
}

/// Mounts by the name of their layer.
#[derive(Default)]
pub(super) struct Mounts(Mutex<Kept>);

impl Mounts {
    /// The mount of a layer; `make` makes it. The lock is held meanwhile, so that no layer is mounted twice.
    pub(super) fn get(
        &self,
        name: &str,
        make: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<Arc<OwnedFd>> {
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        kept.clock += 1;
        let now = kept.clock;
        if let Some((mount, wanted)) = kept.mounts.get_mut(name) {
            *wanted = now;
            return Ok(mount.clone());
        }
        let mount = Arc::new(make()?);
        if kept.mounts.len() >= MAX_KEPT_MOUNTS {
            let oldest = kept.mounts.iter().min_by_key(|(_, (_, wanted))| *wanted);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                kept.mounts.remove(&oldest);
            }
        }
        kept.mounts.insert(name.to_owned(), (mount.clone(), now));
        Ok(mount)
    }

    /// The layer goes.
    pub(super) fn forget(&self, name: &str) {
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        kept.mounts.remove(name);
    }
}

/// A path that is short enough for the kernel: a descriptor's instead of a long one.
fn named(path: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((format!("/proc/self/fd/{}", file.as_raw_fd()).into(), file))
}

/// Mounts an image whose content lies in `tar`, from its file, attached nowhere.
pub(super) fn mount(image: &Path, tar: &Path) -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let (image, _image) = named(image)?;
    let (tar, _tar) = named(tar)?;
    rustix::mount::fsconfig_set_string(&fs, "source", &image)?;
    rustix::mount::fsconfig_set_string(&fs, "device", &tar)?;
    rustix::mount::fsconfig_create(&fs).map_err(|e| explain(&fs, e))?;
    let readonly = MountAttrFlags::MOUNT_ATTR_RDONLY;
    Ok(rustix::mount::fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        readonly,
    )?)
}

/// The kernel's own words, if it left any in the file system context.
pub(super) fn explain(fs: &OwnedFd, error: rustix::io::Errno) -> io::Error {
    let mut message = [0u8; 512];
    match rustix::io::read(fs.as_fd(), &mut message) {
        Ok(n) if n > 0 => {
            let text = String::from_utf8_lossy(&message[..n]).trim_end().to_owned();
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("{error}: {text}"))
        }
        _ => error.into(),
    }
}
