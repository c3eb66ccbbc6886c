//! The root file system: one detached overlay mount per start.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::error::LaunchError;
use crate::spec::RootfsSpec;
use crate::sys::make_private;

/// Longest string fsconfig takes, with its NUL.
const FSCONFIG_STRING_BYTES: usize = 256;

/// File systems whose server may be away: whatever touches them may hang.
const REMOTE_MAGICS: &[u64] = &[
    0x6969,      // nfs
    0x517b,      // smb
    0xff53_4d42, // cifs
    0xfe53_4d42, // smb2
    0x6573_5546, // fuse
    0x0102_1997, // 9p
    0x00c3_6400, // ceph
    0x5346_414f, // afs
    0x0bd0_0bd0, // lustre
    0x0116_1970, // gfs2
    0x7461_636f, // ocfs2
];

/// Mounts the overlay; nothing is attached anywhere.
pub(crate) fn mount(spec: &RootfsSpec) -> Result<OwnedFd, LaunchError> {
    let about = || spec.upper.display().to_string();
    make_dir(&spec.upper).map_err(|e| LaunchError::prepare("make directory", about(), e))?;
    if spec.lowers.is_empty() {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(rustix::fs::CWD, &spec.upper, flags)
            .map_err(|e| LaunchError::prepare("bind the root file system", about(), e))?;
        make_private(tree.as_fd(), 0, false).map_err(|e| {
            LaunchError::prepare("set the propagation of the root file system", about(), e)
        })?;
        return Ok(tree);
    }
    make_dir(&spec.work).map_err(|e| LaunchError::prepare("make directory", about(), e))?;
    if spec.volatile {
        clear_volatile_marker(&spec.work)
            .map_err(|e| LaunchError::prepare("clear the overlay marker", about(), e))?;
    }
    let mounted = match overlay_mode() {
        OverlayMode::Lowers => overlay(spec),
        OverlayMode::Mount => crate::prepare::rootfs_old::overlay(spec),
    };
    mounted.map_err(|(step, e)| LaunchError::prepare(step, about(), e))
}

/// How the lower directories of an overlay are given to this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlayMode {
    /// One by one, to a detached mount (6.7).
    Lowers,
    /// All in the option string of mount(2), in a mount namespace that lives for that call only.
    Mount,
}

impl OverlayMode {
    /// The name in diagnostics.
    pub fn name(self) -> &'static str {
        match self {
            OverlayMode::Lowers => "lowerdir+",
            OverlayMode::Mount => "mount",
        }
    }
}

/// Asks the kernel, once.
pub fn overlay_mode() -> OverlayMode {
    static MODE: OnceLock<OverlayMode> = OnceLock::new();
    *MODE.get_or_init(|| {
        // Any directory does: the context never becomes a mount.
        let takes = |key: &str| {
            rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
                .and_then(|fs| rustix::mount::fsconfig_set_string(&fs, key, "/"))
                .is_ok()
        };
        // Before 6.5 options are only collected and looked at in the end: there every name is taken.
        match takes("lowerdir+") && !takes("no-such-option") {
            true => OverlayMode::Lowers,
            false => OverlayMode::Mount,
        }
    })
}

/// The union of layers, read-only; nothing is attached anywhere.
pub(crate) fn union(layers: &[PathBuf], about: &str) -> Result<OwnedFd, LaunchError> {
    let make = || -> Result<OwnedFd, io::Error> {
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&fs, "source", "overlay")?;
        for lower in layers {
            set_path(&fs, "lowerdir+", lower)?;
        }
        rustix::mount::fsconfig_create(&fs).map_err(|e| explain(&fs, e))?;
        let readonly = MountAttrFlags::MOUNT_ATTR_RDONLY;
        let mount = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, readonly)?;
        Ok(mount)
    };
    match overlay_mode() {
        OverlayMode::Lowers => {
            make().map_err(|e| LaunchError::prepare("mount the image", about, e))
        }
        OverlayMode::Mount => crate::prepare::rootfs_old::union(layers)
            .map_err(|(step, e)| LaunchError::prepare(step, about, e)),
    }
}

fn overlay(spec: &RootfsSpec) -> Result<OwnedFd, (&'static str, io::Error)> {
    let at = |step: &'static str| move |e: rustix::io::Errno| (step, io::Error::from(e));
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(at("fsopen overlay"))?;
    rustix::mount::fsconfig_set_string(&fs, "source", "overlay").map_err(at("overlay source"))?;
    for lower in &spec.lowers {
        set_path(&fs, "lowerdir+", lower).map_err(at("overlay lowerdir+"))?;
    }
    set_path(&fs, "upperdir", &spec.upper).map_err(at("overlay upperdir"))?;
    set_path(&fs, "workdir", &spec.work).map_err(at("overlay workdir"))?;
    // Without an index the upper directory can be mounted again while an old mount of it still dies.
    rustix::mount::fsconfig_set_string(&fs, "index", "off").map_err(at("overlay index"))?;
    if spec.volatile {
        rustix::mount::fsconfig_set_flag(&fs, "volatile").map_err(at("overlay volatile"))?;
    }
    rustix::mount::fsconfig_create(&fs).map_err(|e| ("create the overlay", explain(&fs, e)))?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    rustix::mount::fsmount(&fs, flags, MountAttrFlags::empty()).map_err(at("mount the overlay"))
}

fn set_path(fs: &OwnedFd, key: &str, path: &Path) -> rustix::io::Result<()> {
    if path.as_os_str().as_bytes().len() < FSCONFIG_STRING_BYTES {
        return rustix::mount::fsconfig_set_string(fs, key, path);
    }
    // Longer paths only as descriptors (kernel 6.13).
    let dir = rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::mount::fsconfig_set_fd(fs, key, &dir)
}

/// The kernel's own words, if it left any in the file system context.
fn explain(fs: &OwnedFd, error: rustix::io::Errno) -> io::Error {
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

fn make_dir(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Ok(()) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

/// A volatile overlay marks its work directory so that it is not mounted again after a crash. Only containers that are
/// removed at their end are volatile; if one is started again in between, its data may be lost with the power anyway.
fn clear_volatile_marker(work: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(work.join("work/incompat")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether what lies at this path may hang (a network file system).
pub(crate) fn may_block(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| REMOTE_MAGICS.contains(&(s.f_type as u64 & 0xffff_ffff)))
}
