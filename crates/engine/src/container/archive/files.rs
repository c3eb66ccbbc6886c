//! The mounted files of one container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use gantry_launch::{FilesOf, FilesView, Remap, RootfsSpec};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};

use super::Access;
use super::paths::{base, last_error};
use crate::container::{Container, files};
use crate::model::{ContainerId, FixedView, NetworkMode};
use crate::orphan::ProcessName;
use crate::shard::Shared;
use crate::user::{self, Accounts};
use crate::{EngineError, launch_spec, mounts};

/// What every container sees of the daemon's own files.
const ETC_FILES: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// Where files are taken from.
pub(super) struct Source {
    of: Kind,
    fixed: Arc<FixedView>,
    remap: Option<Arc<Remap>>,
}

enum Kind {
    Running {
        namespace: OwnedFd,
        root: OwnedFd,
        access: Access,
    },
    Stopped {
        shared: Arc<Shared>,
        id: ContainerId,
        access: Access,
    },
}

/// The files of a container at its root and all its client mounted. Belongs to the thread of its job.
pub struct Files {
    view: FilesView,
    fixed: Arc<FixedView>,
    remap: Option<Arc<Remap>>,
    /// What is made belongs to the container's root.
    _acting: Option<gantry_launch::ActingAsRoot>,
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// Last part of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Kind and permissions as the kernel has them.
    pub mode: u32,
    /// Last modification, nanoseconds since 1970.
    pub mtime_unix_ns: i64,
    /// Where a symbolic link leads to in the container; empty for everything else.
    pub link_target: String,
}

fn source(container: &Container, of: Kind) -> Source {
    let shared = &container.shard.shared;
    Source {
        of,
        fixed: container.fixed.clone(),
        remap: shared.config.remap_of(&container.fixed.host).cloned(),
    }
}

/// The files of a container that runs; `None` if its first process has ended.
pub(super) async fn running(
    container: &Rc<Container>,
    access: Access,
) -> Result<Option<Source>, EngineError> {
    let process = container.process();
    let opened = files::on_worker(move || {
        open_process(process).map_err(|e| EngineError::io("open the container's mounts", e))
    });
    let running = |(namespace, root)| Kind::Running {
        namespace,
        root,
        access,
    };
    Ok(opened
        .await?
        .map(|opened| source(container, running(opened))))
}

fn open_process(process: ProcessName) -> std::io::Result<Option<(OwnedFd, OwnedFd)>> {
    let path = format!("/proc/{}/ns/mnt", process.pid);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => return Ok(None),
        other => other?,
    };
    // What is looked at afterwards holds for both.
    Ok(process.open_with_root()?.map(|(root, _)| (namespace, root)))
}

/// The files of a container that does not run. Its lock is held.
pub(super) fn stopped(container: &Container, access: Access) -> Source {
    let (shared, id) = (container.shard.shared.clone(), container.id.clone());
    source(container, Kind::Stopped { shared, id, access })
}

/// Where a container's client, and the daemon for it, mount something.
fn targets(fixed: &FixedView) -> Vec<String> {
    let host = &fixed.host;
    let own = host.mounts.iter().map(|point| point.target.as_str());
    let own = own.chain(host.tmpfs.keys().map(String::as_str));
    own.chain(ETC_FILES).map(str::to_owned).collect()
}

fn of_stopped(
    shared: &Shared,
    fixed: &FixedView,
    id: &ContainerId,
    access: Access,
) -> Result<FilesOf, EngineError> {
    files::make_dirs(fixed)?;
    if access == Access::ReadRoot {
        return Ok(FilesOf::Stopped {
            rootfs: rootfs(shared, fixed)?,
            mounts: Vec::new(),
            files: Vec::new(),
            writable: false,
        });
    }
    mounts::make_ready(shared, &fixed.host.mounts, id)?;
    // What is in memory is gone with the last run.
    let (mounts, _tmpfs) = mounts::of_launch(shared, &fixed.host.mounts)?;
    let joined = match &fixed.host.network_mode {
        NetworkMode::Container(key) => shared.index.resolve(key).ok().map(|(_, view)| view),
        _ => None,
    };
    Ok(FilesOf::Stopped {
        rootfs: rootfs(shared, fixed)?,
        mounts,
        files: launch_spec::etc_binds(fixed, joined.as_deref()),
        writable: access == Access::Write,
    })
}

/// The layers of a container.
pub(crate) fn rootfs(shared: &Shared, fixed: &FixedView) -> Result<RootfsSpec, EngineError> {
    let snapshot = shared.images.snapshot();
    let image = snapshot
        .of_container(&fixed.image_id)
        .ok_or_else(|| EngineError::NoSuchImage(fixed.image_id.clone()))?;
    Ok(RootfsSpec {
        lowers: shared.lowers_of(image)?,
        upper: fixed.upper_path(),
        work: fixed.work_path(),
        volatile: fixed.host.auto_remove,
        remap: shared.config.remap_of(&fixed.host).cloned(),
    })
}

impl Files {
    /// Mounts them. Blocks.
    pub(super) fn open(source: Source) -> Result<Files, EngineError> {
        let Source { of, fixed, remap } = source;
        let of = match of {
            Kind::Running {
                namespace,
                root,
                access,
            } => FilesOf::Running {
                namespace,
                root,
                targets: match access {
                    Access::ReadRoot => Vec::new(),
                    _ => targets(&fixed),
                },
            },
            Kind::Stopped { shared, id, access } => of_stopped(&shared, &fixed, &id, access)?,
        };
        let view = FilesView::mount(of, std::path::Path::new("/"))?;
        let acting = remap.as_ref().map(|remap| remap.act_as_root()).transpose();
        let acting = acting.map_err(|e| EngineError::io("act as the container's root", e))?;
        Ok(Files {
            view,
            fixed,
            remap,
            _acting: acting,
        })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.view.root()
    }

    /// User and group in the archive, of those on disk.
    pub(super) fn owner_inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        let Some(remap) = &self.remap else {
            return (uid, gid);
        };
        let nobody = 65534;
        (
            remap.container_uid(uid).unwrap_or(nobody),
            remap.container_gid(gid).unwrap_or(nobody),
        )
    }

    /// The inverse; `None` for who is not in the container's user namespace.
    pub(super) fn owner_outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        match &self.remap {
            None => Some((uid, gid)),
            Some(remap) => remap.host_uid(uid).zip(remap.host_gid(gid)),
        }
    }

    /// User and group of the container's processes.
    pub(super) fn user(&self) -> Result<Option<(u32, u32)>, EngineError> {
        let user = &self.fixed.config.user;
        if user.is_empty() {
            return Ok(None);
        }
        let root = self.root().try_clone_to_owned();
        let root = root.map_err(|e| EngineError::io("duplicate the container's root", e))?;
        let who = user::resolve(user, &[], &Accounts::read_root(&root)?)?;
        Ok(Some((who.uid, who.gid)))
    }

    pub(super) fn open_path(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(self.root(), path, flags, Mode::empty(), resolve)
    }

    /// What lies at a path; a link itself.
    ///
    /// # Errors
    /// There is nothing (with the words of dockerd, which name the container as its client did), or the kernel's.
    pub fn stat(&self, path: &str, container: &str) -> Result<PathStat, EngineError> {
        let failed = |e| last_error("lstat", path, container, e);
        let fd = self.open_path(path, OFlags::NOFOLLOW).map_err(failed)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let link_target = if is_link {
            let target = self.view.follow(path);
            target.map_err(|e| EngineError::io(format!("evaluate {path}"), e))?
        } else {
            String::new()
        };
        Ok(PathStat {
            name: base(path).to_owned(),
            size: stat.st_size,
            mode: stat.st_mode,
            mtime_unix_ns: stat
                .st_mtime
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            link_target,
        })
    }

    /// Refuses a directory that cannot be written to, as dockerd.
    pub(super) fn check_writable(&self, dir: &OwnedFd) -> Result<(), EngineError> {
        let failed = |e: rustix::io::Errno| EngineError::io("look at a mount", e.into());
        let mount_of = |fd: BorrowedFd<'_>| {
            let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
            stat.map(|s| s.stx_mnt_id).map_err(failed)
        };
        let of_root = mount_of(dir.as_fd())? == mount_of(self.root())?;
        if of_root && self.fixed.host.readonly_rootfs {
            let text = "container rootfs is marked read-only";
            return Err(EngineError::InvalidParameter(text.to_owned()));
        }
        let flags = rustix::fs::fstatvfs(dir).map_err(failed)?.f_flag;
        if !of_root && flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            let text = "mounted volume is marked read-only";
            return Err(EngineError::InvalidParameter(text.to_owned()));
        }
        Ok(())
    }
}
