//! Mounts: what every container has is made by the runtime; what the client wants is a detached tree, as for the
//! built-in launcher, which is attached below the bundle where only the runtime sees it, and bound from there.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_keeper_proto::plan::{FdIndex, MountSource};
use gantry_keeper_proto::wire::lossy;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::mount::MountAttrFlags;

use super::spec::Mount;
use crate::error::LaunchError;
use crate::prepare::dev;
use crate::prepare::fds::FdTable;
use crate::prepare::mounts::{DEV, Mounts, own};
use crate::prepare::{bind, text};
use crate::spec::{LaunchSpec, Propagation, Readonly, Shm};
use crate::sys::Kind;

/// Below the bundle: where trees are attached, by number.
const TREES: &str = "mnt";

/// A tree of the client.
#[derive(Debug)]
pub(crate) struct ClientMount {
    tree: FdIndex,
    source: String,
    target: String,
    kind: Kind,
    options: Vec<String>,
}

impl ClientMount {
    pub(crate) fn into_mount(self) -> Mount {
        mount(&self.target, "bind", &self.source, self.options)
    }

    /// Makes the place it is attached at, and says which that is.
    pub(crate) fn place(&self) -> Result<(FdIndex, CString), LaunchError> {
        let made = match self.kind {
            Kind::Directory => std::fs::create_dir_all(&self.source),
            Kind::File => std::fs::File::create(&self.source).map(drop),
        };
        made.map_err(|e| LaunchError::prepare("make", &self.source, e))?;
        Ok((
            self.tree,
            text("path of a mount", self.source.clone().into())?,
        ))
    }
}

fn mount(target: &str, kind: &str, source: &str, options: Vec<String>) -> Mount {
    Mount {
        destination: target.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options,
    }
}

fn options(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

const PLAIN: [&str; 3] = ["nosuid", "noexec", "nodev"];

/// What every container has, as dockerd describes it. Where the client has its own /dev nothing is mounted below it.
pub(crate) fn standard(spec: &LaunchSpec) -> Vec<Mount> {
    let mut sealed = options(&PLAIN);
    if !spec.privileged {
        sealed.push("ro".to_owned());
    }
    let mut all = vec![mount("/proc", "proc", "proc", options(&PLAIN))];
    let theirs = own(spec, DEV).is_some();
    if !theirs {
        let dev = options(&["nosuid", "strictatime", "mode=755", "size=65536k"]);
        all.push(mount(DEV, "tmpfs", "tmpfs", dev));
        let pts = options(&[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ]);
        all.push(mount("/dev/pts", "devpts", "devpts", pts));
    }
    all.push(mount("/sys", "sysfs", "sysfs", sealed.clone()));
    if spec.writable_cgroups {
        sealed.retain(|option| option != "ro");
    }
    all.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", sealed));
    if !theirs && own(spec, "/dev/mqueue").is_none() {
        all.push(mount("/dev/mqueue", "mqueue", "mqueue", options(&PLAIN)));
    }
    if !theirs && own(spec, "/dev/shm").is_none() && matches!(spec.shm, Shm::Own) {
        let mut shm = options(&PLAIN);
        shm.push("mode=1777".to_owned());
        shm.push(format!("size={}", spec.shm_size_bytes));
        all.push(mount("/dev/shm", "tmpfs", "shm", shm));
    }
    all
}

/// What the client mounts, from where and to where, without mounting it.
pub(crate) fn described(spec: &LaunchSpec) -> Vec<Mount> {
    let words = |recursive: bool, readonly: bool| {
        let kind = if recursive { "rbind" } else { "bind" };
        options(&[kind, if readonly { "ro" } else { "rw" }])
    };
    let files = spec.binds.iter().map(|file| {
        let source = file.source.display().to_string();
        mount(&file.target, "bind", &source, words(true, file.readonly))
    });
    let binds = spec.mounts.iter().map(|bind| {
        let source = bind.source.display().to_string();
        let words = words(!bind.non_recursive, bind.readonly != Readonly::No);
        mount(&bind.target, "bind", &source, words)
    });
    let tmpfs = spec.tmpfs.iter().map(|tmpfs| {
        let options = tmpfs.options.split(',').filter(|option| !option.is_empty());
        let options = options.map(str::to_owned).collect();
        mount(&tmpfs.target, "tmpfs", "tmpfs", options)
    });
    files.chain(binds).chain(tmpfs).collect()
}

/// The client's trees, with their mount points made in the root file system.
pub(crate) fn client(
    spec: &LaunchSpec,
    root: &OwnedFd,
    bundle: &Path,
    fds: &mut FdTable,
) -> Result<Vec<ClientMount>, LaunchError> {
    let failed = |e: std::io::Error| LaunchError::prepare("make", "a scratch /dev", e);
    // Mount points below /dev are the runtime's, which makes it: nothing is left of them in the container's layer.
    let scratch = dev::new_fs("tmpfs", "tmpfs", &[], MountAttrFlags::empty()).map_err(failed)?;
    let remap = spec.user.as_ref().map(|user| &*user.remap);
    let mut mounts = Mounts::new(root, remap, fds)?;
    match own(spec, DEV) {
        Some(dev) => mounts.mount(dev)?,
        None => mounts.remember(DEV, &scratch)?,
    }
    let shm_is_theirs = own(spec, "/dev/shm").is_some() || own(spec, DEV).is_some();
    if !shm_is_theirs && !matches!(spec.shm, Shm::Own) {
        mounts.shm(spec)?;
    }
    mounts.wanted(spec)?;
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    mounts.ensure(cwd, Kind::Directory)?;
    let mut all = Vec::new();
    let asked = mounts.take_asked();
    for (number, op) in mounts.finish().into_iter().enumerate() {
        let MountSource::Tree(tree) = op.source else {
            continue;
        };
        let target = lossy(&op.target);
        let asked = asked.get(&target).unwrap_or(&target);
        let fd = fds.get(tree).ok_or_else(|| LaunchError::Invalid {
            what: "mount",
            value: target.clone(),
        })?;
        let kind = bind::kind_of(fd).map_err(|e| LaunchError::prepare("stat", &target, e))?;
        let source = bundle.join(TREES).join(number.to_string());
        all.push(ClientMount {
            tree,
            source: source.display().to_string(),
            options: bind_options(fd, propagation(spec, asked))
                .map_err(|e| LaunchError::prepare("look at", &target, e))?,
            target,
            kind,
        });
    }
    Ok(all)
}

/// The tree's attributes, said again: crun sets what the options say, and nothing else.
fn bind_options(tree: &OwnedFd, propagation: &str) -> std::io::Result<Vec<String>> {
    let flags = rustix::fs::fstatvfs(tree)?.f_flag;
    let named = [
        (StatVfsMountFlags::RDONLY, "ro"),
        (StatVfsMountFlags::NOSUID, "nosuid"),
        (StatVfsMountFlags::NODEV, "nodev"),
        (StatVfsMountFlags::NOEXEC, "noexec"),
        (StatVfsMountFlags::NOATIME, "noatime"),
        (StatVfsMountFlags::NODIRATIME, "nodiratime"),
    ];
    let set = named.iter().filter(|(flag, _)| flags.contains(*flag));
    let words = ["rbind", propagation].into_iter();
    Ok(words
        .chain(set.map(|(_, name)| *name))
        .map(str::to_owned)
        .collect())
}

/// The trees carry theirs already; a runtime would make them private otherwise.
fn propagation(spec: &LaunchSpec, target: &str) -> &'static str {
    let mount = spec.mounts.iter().rev().find(|m| m.target == target);
    match mount.map(|m| (m.propagation, m.propagation_top_only)) {
        Some((Propagation::Shared, false)) => "rshared",
        Some((Propagation::Shared, true)) => "shared",
        Some((Propagation::Slave, false)) => "rslave",
        Some((Propagation::Slave, true)) => "slave",
        _ => "rprivate",
    }
}

/// Mount points of cgroup2 beside those of version 1: runtimes that refuse the mixture see version 1 alone.
pub(crate) fn hidden_hierarchies(mountinfo: &str) -> Vec<CString> {
    let of = |kind: &str| -> Vec<&str> {
        let lines = mountinfo.lines().filter_map(|line| line.split_once(" - "));
        lines
            .filter(|(_, fs)| fs.split(' ').next() == Some(kind))
            .filter_map(|(mount, _)| mount.split(' ').nth(4))
            .collect()
    };
    if of("cgroup").is_empty() {
        return Vec::new();
    }
    let points = of("cgroup2").into_iter();
    points.filter_map(|p| CString::new(p).ok()).collect()
}

/// This process's mount namespace.
pub(crate) fn mount_namespace() -> Result<OwnedFd, LaunchError> {
    let path = "/proc/thread-self/ns/mnt";
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| LaunchError::prepare("open", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mixture_is_hidden() {
        let v1 = "1 0 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let v2 = "2 0 0:2 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert!(hidden_hierarchies(v1).is_empty());
        assert!(hidden_hierarchies(v2).is_empty());
        assert_eq!(
            hidden_hierarchies(&format!("{v1}{v2}")),
            [CString::from(c"/sys/fs/cgroup/unified")]
        );
    }
}
