//! The root file system: one detached overlay mount per start.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::error::LaunchError;
use crate::lower::Lower;
use crate::remap::Remap;
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
        if let Some(remap) = &spec.remap {
            let failed = |e| LaunchError::prepare("map the owners of", about(), e);
            remap.apply(tree.as_fd()).map_err(failed)?;
        }
        return Ok(tree);
    }
    make_dir(&spec.work).map_err(|e| LaunchError::prepare("make directory", about(), e))?;
    if spec.volatile {
        clear_volatile_marker(&spec.work)
            .map_err(|e| LaunchError::prepare("clear the overlay marker", about(), e))?;
    }
    let mounted = match (overlay_mode(), &spec.remap) {
        (OverlayMode::Mount, None) => crate::prepare::rootfs_old::overlay(spec),
        // An old kernel refuses remapped layers.
        (OverlayMode::Lowers, _) | (_, Some(_)) => overlay(spec),
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
pub(crate) fn union(
    layers: &[Lower],
    remap: Option<&Remap>,
    about: &str,
) -> Result<OwnedFd, LaunchError> {
    let make = || -> Result<OwnedFd, io::Error> {
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&fs, "source", "overlay")?;
        // Detached mounts end with their descriptors.
        let mut held = Vec::new();
        for lower in layers {
            match remap {
                None => set_lower(&fs, lower)?,
                Some(remap) => {
                    let lower = mapped(lower.as_ref(), remap)?;
                    rustix::mount::fsconfig_set_fd(&fs, "lowerdir+", &lower)?;
                    held.push(lower);
                }
            }
        }
        rustix::mount::fsconfig_create(&fs).map_err(|e| explain(&fs, e))?;
        let readonly = MountAttrFlags::MOUNT_ATTR_RDONLY;
        let mount = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, readonly)?;
        Ok(mount)
    };
    match (overlay_mode(), remap) {
        (OverlayMode::Mount, None) => crate::prepare::rootfs_old::union(layers)
            .map_err(|(step, e)| LaunchError::prepare(step, about, e)),
        (OverlayMode::Lowers, _) | (_, Some(_)) => {
            make().map_err(|e| LaunchError::prepare("mount the image", about, e))
        }
    }
}

/// A detached copy of the mount at a directory, with its owners mapped.
fn mapped(path: &Path, remap: &Remap) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, path, flags)?;
    remap.apply(tree.as_fd())?;
    Ok(tree)
}

fn overlay(spec: &RootfsSpec) -> Result<OwnedFd, (&'static str, io::Error)> {
    let at = |step: &'static str| move |e: rustix::io::Errno| (step, io::Error::from(e));
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(at("fsopen overlay"))?;
    rustix::mount::fsconfig_set_string(&fs, "source", "overlay").map_err(at("overlay source"))?;
    // Detached mounts end with their descriptors.
    let _layers = match &spec.remap {
        None => set_layers(&fs, spec).map(|()| Vec::new())?,
        Some(remap) => set_remapped_layers(&fs, spec, remap).map_err(|e| ("map owners", e))?,
    };
    // Without an index the upper directory can be mounted again while an old mount of it still dies.
    rustix::mount::fsconfig_set_string(&fs, "index", "off").map_err(at("overlay index"))?;
    if spec.volatile {
        rustix::mount::fsconfig_set_flag(&fs, "volatile").map_err(at("overlay volatile"))?;
    }
    {
        // What the overlay makes itself on its upper layer belongs to who mounts it.
        let acting = spec.remap.as_ref().map(|remap| remap.act_as_root());
        let _acting = acting.transpose().map_err(|e| ("act as root", e))?;
        rustix::mount::fsconfig_create(&fs).map_err(|e| ("create the overlay", explain(&fs, e)))?;
    }
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    rustix::mount::fsmount(&fs, flags, MountAttrFlags::empty()).map_err(at("mount the overlay"))
}

fn set_layers(fs: &OwnedFd, spec: &RootfsSpec) -> Result<(), (&'static str, io::Error)> {
    let at = |step: &'static str| move |e: rustix::io::Errno| (step, io::Error::from(e));
    for lower in &spec.lowers {
        set_lower(fs, lower).map_err(at("overlay lowerdir+"))?;
    }
    set_path(fs, "upperdir", &spec.upper).map_err(at("overlay upperdir"))?;
    set_path(fs, "workdir", &spec.work).map_err(at("overlay workdir"))
}

/// Every layer with its owners mapped: on disk they stay those of the image, so that layers are shared between
/// containers of every map, and what is read from there (a commit, say) needs no way back. Detached mounts as layers:
/// Linux 6.15. They have to be held until the overlay is made.
fn set_remapped_layers(fs: &OwnedFd, spec: &RootfsSpec, remap: &Remap) -> io::Result<Vec<OwnedFd>> {
    let mut held = Vec::with_capacity(spec.lowers.len() + 1);
    for lower in &spec.lowers {
        let lower = mapped(lower.as_ref(), remap)?;
        rustix::mount::fsconfig_set_fd(fs, "lowerdir+", &lower)?;
        held.push(lower);
    }
    // The work directory must be on the mount of the upper layer.
    let parent = spec
        .upper
        .parent()
        .filter(|p| spec.work.parent() == Some(p));
    let parent = mapped(parent.ok_or(io::ErrorKind::InvalidInput)?, remap)?;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for (key, path) in [("upperdir", &spec.upper), ("workdir", &spec.work)] {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let inner = rustix::fs::openat(&parent, name, directory, Mode::empty())?;
        rustix::mount::fsconfig_set_fd(fs, key, &inner)?;
    }
    held.push(parent);
    Ok(held)
}

/// Whether the root file systems of remapped containers can be mounted from this directory: the reason why not.
///
/// # Errors
/// The kernel's, with the step that failed.
pub fn probe_remapped(dir: &Path, remap: &Arc<Remap>) -> Result<(), LaunchError> {
    let lower = dir.join("lower");
    let spec = RootfsSpec {
        lowers: vec![lower.clone().into()],
        upper: dir.join("upper"),
        work: dir.join("work"),
        volatile: false,
        remap: Some(remap.clone()),
    };
    let about = || dir.display().to_string();
    make_dir(&lower).map_err(|e| LaunchError::prepare("make directory", about(), e))?;
    let root = mount(&spec)?;
    let made = remap
        .act_as_root()
        .and_then(|_acting| crate::sys::ensure(root.as_fd(), "a", crate::sys::Kind::Directory));
    made.map_err(|e| LaunchError::prepare("write to a remapped overlay in", about(), e))
}

fn set_lower(fs: &OwnedFd, lower: &Lower) -> rustix::io::Result<()> {
    match lower.mount() {
        Some(mount) => rustix::mount::fsconfig_set_fd(fs, "lowerdir+", mount),
        None => set_path(fs, "lowerdir+", lower.as_ref()),
    }
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
