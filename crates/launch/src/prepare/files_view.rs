//! A container's files for who is not in it: its root file system with what its client mounted, and nothing of the
//! kernel's (/proc, /sys, /dev). It is put together in a mount namespace in which nothing runs and that nobody else sees.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::rootfs_old::apart;
use super::{bind, rootfs, target};
use crate::error::LaunchError;
use crate::lower::Lower;
use crate::remap::Remap;
use crate::spec::{BindFile, BindMount, RootfsSpec};
use crate::sys::{IN_ROOT, Kind, ensure, make_private};

type Step = (&'static str, io::Error);

/// A tree to be mounted, and where.
type Placed = (String, OwnedFd, Kind);

/// What a view is made of.
#[derive(Debug)]
pub enum FilesOf {
    /// A container that runs: what its processes have at `targets`.
    Running {
        /// Its mount namespace.
        namespace: OwnedFd,
        /// The root directory of its first process.
        root: OwnedFd,
        /// Where its client mounted something.
        targets: Vec<String>,
    },
    /// A container that does not: its layers, and its mounts anew.
    Stopped {
        /// Its root file system.
        rootfs: RootfsSpec,
        /// The client's mounts.
        mounts: Vec<BindMount>,
        /// Files of the daemon that it sees; those that are not there are left out.
        files: Vec<BindFile>,
        /// Whether something is to be written.
        writable: bool,
    },
}

/// A mounted view. Dropped, it is gone.
#[derive(Debug)]
pub struct FilesView {
    root: OwnedFd,
    /// Keeps the mounts below the root.
    _namespace: OwnedFd,
}

/// What lies below a container's own changes, read-only. Dropped, it is gone.
#[derive(Debug)]
pub struct LowerView {
    root: OwnedFd,
}

impl LowerView {
    /// Mounts the layers of a root file system without the upper one, with their owners on disk. Blocks.
    ///
    /// # Errors
    /// The kernel's, with the step that failed.
    pub fn mount(of: &RootfsSpec) -> Result<LowerView, LaunchError> {
        let root = rootfs::union(&of.lowers, None, &of.upper.display().to_string())?;
        Ok(LowerView { root })
    }

    /// Its root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl FilesView {
    /// Mounts it; `at` is any directory of the host. Blocks.
    ///
    /// # Errors
    /// The kernel's, with the step that failed.
    pub fn mount(of: FilesOf, at: &Path) -> Result<FilesView, LaunchError> {
        let about = || at.display().to_string();
        let failed = |(step, e): Step| LaunchError::prepare(step, about(), e);
        match of {
            FilesOf::Running {
                namespace,
                root,
                targets,
            } => apart(|| {
                let own = own_namespace()?;
                let (root, placed) = copy(&own, &namespace, &root, &targets)?;
                assemble(root, own, placed, at, None)
            })
            .map_err(failed),
            FilesOf::Stopped {
                rootfs,
                mounts,
                files,
                writable,
            } => {
                let remap = rootfs.remap.clone();
                let placed = placed(&mounts, &files, remap.as_deref())?;
                let root = stopped_root(&rootfs, &placed, writable, &about())?;
                let remap = remap.as_deref();
                apart(|| assemble(root, own_namespace()?, placed, at, remap)).map_err(failed)
            }
        }
    }

    /// Where an absolute path leads through symbolic links, as far as they lead somewhere.
    ///
    /// # Errors
    /// The kernel's; links that lead in a circle.
    pub fn follow(&self, path: &str) -> io::Result<String> {
        target::resolve(path, |part| {
            Some((self.root.as_fd(), part.trim_start_matches('/').to_owned()))
        })
    }

    /// Its root directory, for paths that are resolved with `RESOLVE_IN_ROOT`.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Read-only where that shows everything: then nothing has to be written out when the view ends.
fn stopped_root(
    spec: &RootfsSpec,
    placed: &[Placed],
    writable: bool,
    about: &str,
) -> Result<OwnedFd, LaunchError> {
    if !writable && !spec.lowers.is_empty() && spec.upper.is_dir() {
        let upper = Lower::from(spec.upper.clone());
        let lowers = spec.lowers.iter().cloned();
        let layers: Vec<Lower> = std::iter::once(upper).chain(lowers).collect();
        let root = rootfs::union(&layers, spec.remap.as_deref(), about)?;
        let has = |(target, _, _): &Placed| find(root.as_fd(), target).is_ok();
        if placed.iter().all(has) {
            return Ok(root);
        }
    }
    rootfs::mount(spec)
}

/// The trees of a stopped container's mounts, shallow before deep.
fn placed(
    mounts: &[BindMount],
    files: &[BindFile],
    remap: Option<&Remap>,
) -> Result<Vec<Placed>, LaunchError> {
    let mut placed = Vec::new();
    for file in files.iter().filter(|f| f.source.exists()) {
        let about = || file.source.display().to_string();
        let failed = |e: io::Error| LaunchError::prepare("bind", about(), e);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(rustix::fs::CWD, &file.source, flags)
            .map_err(|e| failed(e.into()))?;
        if let Some(remap) = remap {
            remap.apply(tree.as_fd()).map_err(failed)?;
        }
        make_private(tree.as_fd(), 0, false).map_err(failed)?;
        placed.push((file.target.clone(), tree, Kind::File));
    }
    for mount in mounts {
        let (tree, kind) = bind::mount(mount, remap)?;
        // Nothing that is done in the view reaches the host's mounts.
        make_private(tree.as_fd(), 0, true)
            .map_err(|e| LaunchError::prepare("bind", mount.source.display().to_string(), e))?;
        placed.push((mount.target.clone(), tree, kind));
    }
    placed.sort_by_key(|(target, _, _)| depth(target));
    Ok(placed)
}

fn depth(target: &str) -> usize {
    target.split('/').filter(|part| !part.is_empty()).count()
}

/// Gives the calling thread, which is ours alone, a mount namespace of its own.
fn own_namespace() -> Result<OwnedFd, Step> {
    // SAFETY: the thread is ours alone and ends after its view is made: nobody else sees its directories or mounts
    // change. The file table stays shared.
    if unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) } < 0 {
        return Err(("unshare mounts for a view in", io::Error::last_os_error()));
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open("/proc/thread-self/ns/mnt", flags, Mode::empty())
        .map_err(|e| ("open the mount namespace of a view in", e.into()))
}

fn enter(namespace: &OwnedFd) -> Result<(), Step> {
    // SAFETY: a system call without pointers, on a thread that is ours alone and shares no directories with others.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) } < 0 {
        return Err(("enter the mounts for a view in", io::Error::last_os_error()));
    }
    Ok(())
}

/// Copies of the root mount of a running container and of what is mounted at the targets.
fn copy(
    own: &OwnedFd,
    namespace: &OwnedFd,
    root: &OwnedFd,
    targets: &[String],
) -> Result<(OwnedFd, Vec<Placed>), Step> {
    let failed = |e: Errno| ("copy a mount for a view in", io::Error::from(e));
    enter(namespace)?;
    let one = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let top = rustix::mount::open_tree(root, "", one).map_err(failed)?;
    let mut placed = Vec::new();
    for target in targets {
        // What its processes have unmounted or covered is not there for us either.
        let Ok(there) = find(root.as_fd(), target) else {
            continue;
        };
        if !is_mount(&there).map_err(failed)? {
            continue;
        }
        let all = one | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(&there, "", all).map_err(failed)?;
        let kind = bind::kind_of(&tree).map_err(|e| ("stat a mount of a view in", e))?;
        placed.push((target.clone(), tree, kind));
    }
    enter(own)?;
    placed.sort_by_key(|(target, _, _)| depth(target));
    Ok((top, placed))
}

fn find(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), IN_ROOT)
}

/// Whether it is the root of a mount (5.8; before, nobody can tell).
fn is_mount(fd: &OwnedFd) -> rustix::io::Result<bool> {
    let bit = rustix::fs::StatxAttributes::MOUNT_ROOT;
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    Ok(!stat.stx_attributes_mask.contains(bit) || stat.stx_attributes.contains(bit))
}

/// Mounts everything in the namespace of the calling thread and takes all else out of it.
fn assemble(
    root: OwnedFd,
    namespace: OwnedFd,
    placed: Vec<Placed>,
    at: &Path,
    remap: Option<&Remap>,
) -> Result<FilesView, Step> {
    let step = |what: &'static str| move |e: Errno| (what, io::Error::from(e));
    let private =
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(step("make the mounts private for"))?;
    make_private(root.as_fd(), 0, false).map_err(|e| ("make a view private in", e))?;
    let from_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&root, "", rustix::fs::CWD, at, from_fd)
        .map_err(step("mount a view in"))?;
    rustix::process::fchdir(&root).map_err(step("enter a view in"))?;
    rustix::process::pivot_root(".", ".").map_err(step("make a view the root in"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .map_err(step("leave the host's mounts of"))?;
    for (target, tree, kind) in placed {
        {
            let acting = remap.map(Remap::act_as_root).transpose();
            let _acting = acting.map_err(|e| ("act as root for a view in", e))?;
            ensure(root.as_fd(), &target, kind).map_err(|e| ("make a mount point of", e))?;
        }
        let there = find(root.as_fd(), &target).map_err(step("find a mount point of"))?;
        let fds = from_fd | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&tree, "", &there, "", fds)
            .map_err(step("mount into a view in"))?;
    }
    Ok(FilesView {
        root,
        _namespace: namespace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root, as everything that mounts.
    #[test]
    fn a_view_has_layers_and_mounts_and_is_seen_by_nobody() {
        // SAFETY: a plain system call.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: not root");
            return;
        }
        let dir = tempfile::tempdir_in("/dev/shm").expect("directory");
        let make = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).expect("mkdir");
            path
        };
        let (lower, empty, source) = (make("lower"), make("empty"), make("source"));
        std::fs::write(lower.join("low"), "low").expect("write");
        std::fs::write(source.join("inside"), "inside").expect("write");
        let of = |writable| FilesOf::Stopped {
            rootfs: RootfsSpec {
                lowers: vec![lower.clone().into(), empty.clone().into()],
                upper: dir.path().join("upper"),
                work: dir.path().join("work"),
                volatile: false,
                remap: None,
            },
            mounts: vec![BindMount {
                source: source.clone(),
                target: "/vol/deep".to_owned(),
                ..BindMount::default()
            }],
            files: Vec::new(),
            writable,
        };
        let before = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        for writable in [true, false] {
            let view = FilesView::mount(of(writable), dir.path()).expect("view");
            let inside = |name: &str| format!("/proc/self/fd/{}/{name}", view.root.as_raw_fd());
            let read = |name: &str| std::fs::read_to_string(inside(name)).expect(name);
            assert_eq!(read("low"), "low");
            assert_eq!(read("vol/deep/inside"), "inside");
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let out = rustix::fs::openat2(view.root(), "../..", flags, Mode::empty(), IN_ROOT);
            let out = rustix::fs::fstat(out.expect("root")).expect("stat");
            let top = rustix::fs::fstat(&view.root).expect("stat");
            assert_eq!((out.st_dev, out.st_ino), (top.st_dev, top.st_ino));
            let wrote = std::fs::write(inside("new"), "new");
            assert_eq!(wrote.is_ok(), writable, "a view to read is read-only");
            std::fs::write(inside("vol/deep/new"), "new").expect("the volume");
        }
        assert!(dir.path().join("upper/new").exists());
        assert!(source.join("new").exists());
        let after = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let ours = dir.path().to_string_lossy().into_owned();
        assert!(!after.contains(&ours), "attached: {after}");
        assert!(!before.contains(&ours));
    }
}
