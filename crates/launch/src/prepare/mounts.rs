//! The container's mounts, in order: what every container has, then what its client asked for, shallow before deep.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};

use gantry_keeper_proto::plan::{FdIndex, MountOp, MountSource};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags};

use super::fds::FdTable;
use super::program::absolute;
use super::{bind, dev, rootfs, target, tmpfs};
use crate::error::LaunchError;
use crate::remap::{ActingAsRoot, Remap};
use crate::spec::{BindFile, BindMount, LaunchSpec, NamespaceMode, Shm};
use crate::sys::{IN_ROOT, Kind, ensure, make_private};

/// Targets under these are made by the kernel or not at all.
const KERNEL_TREES: &[&str] = &["/proc", "/sys"];
/// Where devices are.
pub(crate) const DEV: &str = "/dev";
/// Where control groups are.
const CGROUP: &str = "/sys/fs/cgroup";

/// Collects mounts, and knows which tree a target falls into so that it can be made there.
pub(crate) struct Mounts<'a> {
    ops: Vec<MountOp>,
    fds: &'a mut FdTable,
    /// Trees by target; the root first.
    trees: Vec<(String, OwnedFd)>,
    /// /sys/fs/cgroup is a tmpfs, in which a place to mount on can be made.
    cgroup_tmpfs: bool,
    remap: Option<&'a Remap>,
    /// See [`Mounts::take_asked`].
    asked: HashMap<String, String>,
    pub(crate) may_block: bool,
}

fn failed(step: &'static str, about: &str) -> impl Fn(std::io::Error) -> LaunchError {
    move |e| LaunchError::prepare(step, about, e)
}

impl<'a> Mounts<'a> {
    pub(crate) fn new(
        root: &OwnedFd,
        remap: Option<&'a Remap>,
        fds: &'a mut FdTable,
    ) -> Result<Mounts<'a>, LaunchError> {
        let mut mounts = Mounts {
            ops: Vec::new(),
            fds,
            trees: Vec::new(),
            cgroup_tmpfs: false,
            remap,
            asked: HashMap::new(),
            may_block: false,
        };
        mounts.remember("/", root)?;
        Ok(mounts)
    }

    pub(crate) fn finish(self) -> Vec<MountOp> {
        self.ops
    }

    /// What the client called targets that its own links led elsewhere, by where they led.
    pub(crate) fn take_asked(&mut self) -> HashMap<String, String> {
        std::mem::take(&mut self.asked)
    }

    pub(crate) fn fds(&mut self) -> &mut FdTable {
        self.fds
    }

    /// From here on targets below this one fall into the tree.
    pub(crate) fn remember(&mut self, target: &str, tree: &OwnedFd) -> Result<(), LaunchError> {
        let copy = rustix::io::fcntl_dupfd_cloexec(tree, 3)
            .map_err(|e| failed("duplicate", target)(e.into()))?;
        self.trees
            .push((target.trim_end_matches('/').to_owned(), copy));
        Ok(())
    }

    /// Until the result is dropped, what is made belongs to the container's root.
    fn act(&self) -> Result<Option<ActingAsRoot>, LaunchError> {
        let acting = self.remap.map(Remap::act_as_root).transpose();
        acting.map_err(failed("act as", "the container's root"))
    }

    /// Makes the target in the tree it falls into.
    pub(crate) fn ensure(&self, target: &str, kind: Kind) -> Result<(), LaunchError> {
        if self.is_the_kernels(target) {
            return Ok(());
        }
        let Some((tree, rest)) = self.tree_of(target) else {
            return Ok(());
        };
        let _acting = self.act()?;
        ensure(tree.as_fd(), rest, kind).map_err(failed("make the mount point", target))
    }

    /// Whether nobody can make, or see from here, what is there.
    fn is_the_kernels(&self, target: &str) -> bool {
        let in_kernel_tree = KERNEL_TREES
            .iter()
            .any(|tree| below(target, tree).is_some_and(|rest| !rest.is_empty()));
        in_kernel_tree && !(self.cgroup_tmpfs && below(target, CGROUP).is_some())
    }

    /// Where a path of the client leads, through links in what is mounted so far.
    fn resolve(&mut self, path: &str) -> Result<String, LaunchError> {
        let tree_of = |path: &str| {
            if self.is_the_kernels(path) {
                return None;
            }
            let (tree, rest) = self.tree_of(path)?;
            Some((tree.as_fd(), rest.to_owned()))
        };
        let found = target::resolve(path, tree_of).map_err(failed("find", path))?;
        if found != path {
            self.asked.insert(found.clone(), path.to_owned());
        }
        Ok(found)
    }

    /// The innermost tree a path falls into, and the rest of the path.
    fn tree_of<'p>(&self, target: &'p str) -> Option<(&OwnedFd, &'p str)> {
        let inner = self
            .trees
            .iter()
            .filter_map(|(at, fd)| Some((fd, below(target, at)?)));
        // Of several at one place the last one is on top.
        inner.rev().min_by_key(|(_, rest)| rest.len())
    }

    /// What is at a target now, if that can be seen from here.
    fn kind_at(&self, target: &str) -> Option<Kind> {
        bind::kind_of(&self.look(target)?).ok()
    }

    fn look(&self, target: &str) -> Option<OwnedFd> {
        let (tree, rest) = self.tree_of(target)?;
        let path = if rest.is_empty() { "." } else { rest };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(tree, path, flags, Mode::empty(), IN_ROOT).ok()
    }

    /// The permissions of what is at a target now, if that can be seen from here.
    fn mode_at(&self, target: &str) -> Option<u32> {
        Some(rustix::fs::fstat(self.look(target)?).ok()?.st_mode & 0o7777)
    }

    fn op(
        &mut self,
        source: MountSource,
        target: &str,
        attributes: MountAttrFlags,
    ) -> Result<(), LaunchError> {
        let no_symlinks = matches!(source, MountSource::Proc | MountSource::Sysfs);
        let target = absolute("mount target", target)?;
        self.ops.push(MountOp {
            source,
            target,
            attributes: attributes.bits().into(),
            no_symlinks,
        });
        Ok(())
    }

    /// A new file system of the child's namespaces.
    fn kernel(
        &mut self,
        source: MountSource,
        target: &str,
        attributes: MountAttrFlags,
    ) -> Result<(), LaunchError> {
        self.ensure(target, Kind::Directory)?;
        self.op(source, target, attributes)
    }

    /// A detached tree.
    pub(crate) fn tree(
        &mut self,
        tree: OwnedFd,
        target: &str,
        kind: Kind,
    ) -> Result<(), LaunchError> {
        self.ensure(target, kind)?;
        if kind == Kind::Directory {
            self.remember(target, &tree)?;
        }
        let fd = self.fds.add(tree)?;
        self.op(MountSource::Tree(fd), target, MountAttrFlags::empty())
    }

    /// A detached tree at a path that was resolved. What has become of the path since then, by somebody else who has
    /// the volume, is not followed.
    fn tree_at(&mut self, tree: OwnedFd, target: &str, kind: Kind) -> Result<(), LaunchError> {
        self.tree(tree, target, kind)?;
        let followed = self.is_the_kernels(target);
        if let Some(op) = self.ops.last_mut() {
            op.no_symlinks = !followed;
        }
        Ok(())
    }

    /// What every container has.
    pub(crate) fn standard(
        &mut self,
        spec: &LaunchSpec,
        devpts: OwnedFd,
    ) -> Result<(), LaunchError> {
        let noexec = dev::nosuid_nodev_noexec();
        self.proc(spec)?;
        self.dev(spec, devpts)?;
        let sys = if spec.privileged {
            noexec
        } else {
            noexec | MountAttrFlags::MOUNT_ATTR_RDONLY
        };
        if !claimed(spec, "/sys") {
            self.kernel(MountSource::Sysfs, "/sys", sys)?;
        }
        self.below_dev(spec)
    }

    fn proc(&mut self, spec: &LaunchSpec) -> Result<(), LaunchError> {
        if spec.pid.is_new() || matches!(spec.pid, NamespaceMode::Host) {
            return self.kernel(MountSource::Proc, "/proc", dev::nosuid_nodev_noexec());
        }
        let missing =
            || failed("find", "/proc of the joined container")(ErrorKind::NotFound.into());
        let tree = spec.joined_proc.as_ref().ok_or_else(missing)?;
        let tree = rustix::io::fcntl_dupfd_cloexec(tree, 3)
            .map_err(|e| failed("duplicate", "/proc")(e.into()))?;
        self.ensure("/proc", Kind::Directory)?;
        let fd = self.fds.add(tree)?;
        let target = absolute("mount target", "/proc")?;
        self.ops.push(MountOp {
            source: MountSource::Tree(fd),
            target,
            attributes: 0,
            no_symlinks: true,
        });
        Ok(())
    }

    /// /dev with its terminals. A client's own /dev takes the place of all of it but the container's terminal.
    fn dev(&mut self, spec: &LaunchSpec, devpts: OwnedFd) -> Result<(), LaunchError> {
        if let Some(dev) = own(spec, DEV) {
            self.mount(dev)?;
            if spec.tty && self.kind_at("/dev/pts") == Some(Kind::Directory) {
                self.tree(devpts, "/dev/pts", Kind::Directory)?;
            }
            return Ok(());
        }
        let with_shm = !matches!(spec.shm, Shm::Absent);
        let dev_tree = {
            let _acting = self.act()?;
            dev::dev(spec.tty, spec.privileged, with_shm).map_err(failed("make", DEV))?
        };
        self.tree(dev_tree, DEV, Kind::Directory)?;
        self.tree(devpts, "/dev/pts", Kind::Directory)
    }

    /// What else is in /dev, as far as the client has nothing there.
    fn below_dev(&mut self, spec: &LaunchSpec) -> Result<(), LaunchError> {
        let theirs = own(spec, DEV).is_some();
        if !theirs && !claimed(spec, "/dev/mqueue") {
            let noexec = dev::nosuid_nodev_noexec();
            self.kernel(MountSource::Mqueue, "/dev/mqueue", noexec)?;
        }
        if !theirs && !claimed(spec, "/dev/shm") {
            self.shm(spec)?;
        }
        if spec.tty && (!theirs || self.kind_at("/dev/console") == Some(Kind::File)) {
            let terminal = MountSource::Inside(CString::from(c"/dev/pts/0"));
            self.op(terminal, "/dev/console", MountAttrFlags::empty())?;
        }
        Ok(())
    }

    /// What is at /dev/shm.
    pub(crate) fn shm(&mut self, spec: &LaunchSpec) -> Result<(), LaunchError> {
        let acting = self.act()?;
        let tree = match &spec.shm {
            Shm::Absent => return Ok(()),
            Shm::Own => dev::shm(spec.shm_size_bytes),
            Shm::Host => dev::host_shm(),
            Shm::Of(tree) => rustix::io::fcntl_dupfd_cloexec(tree, 3).map_err(Into::into),
        };
        let tree = tree.map_err(failed("make", "/dev/shm"))?;
        drop(acting);
        self.tree(tree, "/dev/shm", Kind::Directory)
    }

    /// Device nodes, in whatever tree they fall into.
    pub(crate) fn devices(&mut self, spec: &LaunchSpec) -> Result<(), LaunchError> {
        let theirs = own(spec, DEV).is_some();
        let _acting = self.act()?;
        for node in &spec.devices {
            // Nothing is made in a directory of the host.
            if theirs && below(&node.path, DEV).is_some() {
                continue;
            }
            let Some((tree, rest)) = self.tree_of(&node.path).filter(|(_, r)| !r.is_empty()) else {
                continue;
            };
            dev::device(tree.as_fd(), rest, node).map_err(failed("make the device", &node.path))?;
        }
        Ok(())
    }

    /// A bind mount of the client.
    pub(crate) fn mount(&mut self, mount: &BindMount) -> Result<(), LaunchError> {
        self.may_block |= match mount.layers.as_slice() {
            [] => rootfs::may_block(&mount.source),
            layers => layers.iter().map(AsRef::as_ref).any(rootfs::may_block),
        };
        let target = self.resolve(&mount.target)?;
        bind::check_target(&mount.source.display(), &mount.target, &target)?;
        let (tree, kind) = bind::mount(mount, self.remap)?;
        self.ensure(&target, kind)?;
        if self.kind_at(&target).is_some_and(|there| there != kind) {
            return Err(bind::kinds_differ(mount));
        }
        self.tree_at(tree, &target, kind)
    }

    /// What the client asked for.
    pub(crate) fn wanted(&mut self, spec: &LaunchSpec) -> Result<(), LaunchError> {
        enum Wanted<'s> {
            Bind(&'s BindFile),
            Mount(&'s BindMount),
            Tmpfs(&'s crate::spec::TmpfsMount),
        }
        let binds = spec
            .binds
            .iter()
            .filter(|b| !claimed(spec, &b.target))
            .map(|b| (b.target.as_str(), Wanted::Bind(b)));
        let tmpfs = spec
            .tmpfs
            .iter()
            .map(|t| (t.target.as_str(), Wanted::Tmpfs(t)));
        let mounts = spec
            .mounts
            .iter()
            // It is there already: the terminal is on top of it.
            .filter(|m| m.target != DEV)
            .map(|m| (m.target.as_str(), Wanted::Mount(m)));
        // Directories made there for every container are no wish for their permissions.
        let in_our_dev = |t: &str| below(t, DEV).is_some() && own(spec, DEV).is_none();
        let mut all: Vec<_> = binds.chain(tmpfs).chain(mounts).collect();
        // Stable: of equals the later one is on top, the client's above those of every container.
        all.sort_by_key(|(target, _)| target.split('/').filter(|p| !p.is_empty()).count());
        for (target, wanted) in all {
            match wanted {
                Wanted::Bind(bind) => self.bind(bind)?,
                Wanted::Mount(mount) => self.mount(mount)?,
                Wanted::Tmpfs(t) => {
                    let target = self.resolve(target)?;
                    bind::check_target(&"tmpfs", &t.target, &target)?;
                    let covered = self.mode_at(&target).filter(|_| !in_our_dev(&target));
                    let tree = {
                        let _acting = self.act()?;
                        tmpfs::mount(t, covered, self.remap)?
                    };
                    self.tree_at(tree, &target, Kind::Directory)?;
                }
            }
        }
        Ok(())
    }

    fn bind(&mut self, bind: &BindFile) -> Result<(), LaunchError> {
        let about = bind.source.display().to_string();
        self.may_block |= rootfs::may_block(&bind.source);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(rustix::fs::CWD, &bind.source, flags)
            .map_err(|e| LaunchError::prepare("bind", about.clone(), e))?;
        if let Some(remap) = self.remap {
            // The daemon's own files, made for the container.
            remap
                .apply(tree.as_fd())
                .map_err(failed("map the owners of", &about))?;
        }
        let attributes = match bind.readonly {
            true => u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
            false => 0,
        };
        make_private(tree.as_fd(), attributes, true)
            .map_err(failed("set the attributes of", &about))?;
        let kind = bind::kind_of(&tree).map_err(failed("stat", &about))?;
        let target = self.resolve(&bind.target)?;
        self.tree_at(tree, &target, kind)
    }

    /// An empty read-only directory to mask others with.
    pub(crate) fn mask_dir(&mut self) -> Result<FdIndex, LaunchError> {
        let _acting = self.act()?;
        let tree = dev::new_fs(
            "tmpfs",
            "tmpfs",
            &[("size", "4k"), ("nr_inodes", "1"), ("ro", "")],
            MountAttrFlags::MOUNT_ATTR_RDONLY,
        )
        .map_err(failed("make", "the mask"))?;
        self.fds.add(tree)
    }

    /// /sys/fs/cgroup: cgroup2 as it is, or a tmpfs with every hierarchy of version 1.
    pub(crate) fn cgroup(
        &mut self,
        trees: Vec<(String, OwnedFd)>,
        spec: &LaunchSpec,
    ) -> Result<(), LaunchError> {
        let top = CGROUP;
        // What would be below a client's own /sys could not be seen.
        if claimed(spec, top) || claimed(spec, "/sys") {
            return Ok(());
        }
        let mut attributes = dev::nosuid_nodev_noexec();
        if !(spec.privileged || spec.writable_cgroups) {
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        for (name, tree) in &trees {
            make_private(tree.as_fd(), attributes.bits().into(), false)
                .map_err(failed("restrict the cgroup", name))?;
        }
        if trees.first().is_some_and(|(name, _)| name.is_empty()) {
            for (_, tree) in trees {
                self.tree(tree, top, Kind::Directory)?;
            }
            return Ok(());
        }
        let acting = self.act()?;
        let base = hierarchies(&trees).map_err(failed("make", top))?;
        drop(acting);
        // Writable, as under dockerd: only the hierarchies in it are not.
        self.tree(base, top, Kind::Directory)?;
        self.cgroup_tmpfs = true;
        for (name, tree) in trees {
            let fd = self.fds.add(tree)?;
            self.op(
                MountSource::Tree(fd),
                &format!("{top}/{name}"),
                MountAttrFlags::empty(),
            )?;
        }
        Ok(())
    }
}

/// Whether the client has something of its own there, which takes the place of what every container has.
fn claimed(spec: &LaunchSpec, target: &str) -> bool {
    own(spec, target).is_some() || spec.tmpfs.iter().any(|t| t.target == target)
}

/// What the client mounts there.
pub(crate) fn own<'s>(spec: &'s LaunchSpec, target: &str) -> Option<&'s BindMount> {
    spec.mounts.iter().find(|m| m.target == target)
}

/// A directory for every hierarchy, and links for those with several controllers.
fn hierarchies(trees: &[(String, OwnedFd)]) -> std::io::Result<OwnedFd> {
    let attributes = dev::nosuid_nodev_noexec();
    let base = dev::new_fs("tmpfs", "tmpfs", &[("mode", "755")], attributes)?;
    for (name, _) in trees {
        // A name of one component in a file system that was just made: nothing can be in the way.
        rustix::fs::mkdirat(&base, name.as_str(), Mode::from_raw_mode(0o755))?;
        for alias in name.split(',').filter(|_| name.contains(',')) {
            rustix::fs::symlinkat(name.as_str(), &base, alias)?;
        }
    }
    Ok(base)
}

/// Detached copies of the host's whole proc and sysfs.
pub(crate) fn kernel_views(fds: &mut FdTable) -> Result<[FdIndex; 2], LaunchError> {
    let mut view = |path: &'static str| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(rustix::fs::CWD, path, flags)
            .map_err(|e| failed("copy", path)(e.into()))?;
        make_private(tree.as_fd(), 0, false).map_err(failed("copy", path))?;
        fds.add(tree)
    };
    Ok([view("/proc")?, view("/sys")?])
}

/// The rest of `path` behind the directory `tree`, if it lies in it.
fn below<'p>(path: &'p str, tree: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(tree)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn targets_fall_into_trees() {
        assert_eq!(below("/dev/shm", "/dev"), Some("shm"));
        assert_eq!(below("/dev", "/dev"), Some(""));
        assert_eq!(below("/device", "/dev"), None);
        assert_eq!(below("/etc/hosts", ""), Some("etc/hosts"));
    }
}
