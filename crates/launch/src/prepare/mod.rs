//! Everything that can fail or wait before the clone. Blocking: on a worker.

pub(crate) mod bind;
pub(crate) mod cgroup;
pub(crate) mod dev;
pub(crate) mod fds;
mod files_view;
pub(crate) mod mounts;
mod program;
mod root_view;
pub(crate) mod rootfs;
mod rootfs_old;
mod stdio;
mod target;
mod tmpfs;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use gantry_keeper_proto::plan::{
    Namespace, Plan, StdioFds, Step, UserNamespace as PlanUser, UserSource,
};
use gantry_keeper_proto::scm::MAX_MESSAGE_BYTES;
use gantry_keeper_proto::wire::lossy;
use rustix::fs::MemfdFlags;
use rustix::mount::MountAttrFlags;

use self::cgroup::PreparedGroup;
use self::mounts::Mounts;
use crate::error::LaunchError;
use crate::hooks::{self, PreparedHooks};
use crate::netns;
use crate::oci::External;
use crate::remap::Remap;
use crate::spec::{LaunchSpec, NamespaceMode, UserNamespace};
use crate::sys::{Kind, set_mount_attributes};

pub(crate) use cgroup::GroupGuard;
pub(crate) use dev::nosuid_nodev_noexec;
pub(crate) use fds::FdTable;
pub use files_view::{FilesOf, FilesView, LowerView};
pub(crate) use program::{candidates, filter_last, text};
pub use root_view::{RootEntry, RootView};
pub use rootfs::{OverlayMode, overlay_mode, probe_remapped};
pub(crate) use stdio::{DaemonEnds, Streams, make as make_streams};

/// Plans above this travel as a memfd.
const MAX_INLINE_PLAN_BYTES: usize = MAX_MESSAGE_BYTES / 2;

/// A container ready to be launched: [`crate::KeeperClient::launch`]. Dropped, it leaves no control group behind.
#[derive(Debug)]
pub struct Prepared {
    kind: LaunchKind,
    discarded: Vec<&'static str>,
}

/// By whom it is launched.
#[derive(Debug)]
pub(crate) enum LaunchKind {
    BuiltIn(Box<PreparedParts>),
    External(Box<External>),
}

#[derive(Debug)]
pub(crate) struct PreparedParts {
    pub(crate) plan: Plan,
    pub(crate) plan_bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) ends: DaemonEnds,
    pub(crate) group: GroupGuard,
    pub(crate) hooks: Option<PreparedHooks>,
}

impl Prepared {
    pub(crate) fn external(external: External, discarded: Vec<&'static str>) -> Prepared {
        Prepared {
            kind: LaunchKind::External(Box::new(external)),
            discarded,
        }
    }

    pub(crate) fn into_kind(self) -> LaunchKind {
        self.kind
    }

    /// Which container.
    pub fn id(&self) -> &str {
        match &self.kind {
            LaunchKind::BuiltIn(parts) => &parts.plan.id,
            LaunchKind::External(external) => &external.id,
        }
    }

    /// Limits that are not in force because this kernel has no place for them.
    pub fn discarded_limits(&self) -> &[&'static str] {
        &self.discarded
    }
}

/// Mounts, pipes, control group and plan of one start.
pub fn prepare(spec: &LaunchSpec) -> Result<Prepared, LaunchError> {
    let mut fds = FdTable::default();
    let mut group = cgroup::prepare(&spec.cgroup, &spec.id, spec.cgroup_namespace, &mut fds)?;
    let root = rootfs::mount(&spec.rootfs)?;
    let remap = spec.user.as_ref().map(|user| &*user.remap);
    let checked = remap.map(|remap| remap.check(spec.uid, spec.gid, &spec.groups));
    checked.transpose().map_err(LaunchError::Unmapped)?;
    let devpts = devpts(remap).map_err(|e| LaunchError::prepare("make", "/dev/pts", e))?;
    let (stdio, ends) = stdio::make(Streams::of(spec), || copy_of(&devpts), &mut fds)?;
    let lowers = spec.rootfs.lowers.iter().map(AsRef::as_ref);
    let rootfs_blocks = lowers.chain([&*spec.rootfs.upper]).any(rootfs::may_block);
    let mut mounts = Mounts::new(&root, remap, &mut fds)?;
    mounts.standard(spec, devpts)?;
    mounts.cgroup(std::mem::take(&mut group.trees), spec)?;
    mounts.devices(spec)?;
    mounts.wanted(spec)?;
    mounts.ensure(working_directory(spec), Kind::Directory)?;
    let mask_dir = if spec.masked_paths.is_empty() {
        None
    } else {
        Some(mounts.mask_dir()?)
    };
    if spec.readonly_rootfs {
        let readonly = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
        set_mount_attributes(root.as_fd(), readonly, false)
            .map_err(|e| LaunchError::prepare("make read-only", "the root file system", e))?;
    }
    let mut namespace = |mode: &NamespaceMode| {
        Ok::<_, LaunchError>(match mode {
            NamespaceMode::New => Namespace::New,
            NamespaceMode::Host => Namespace::Host,
            NamespaceMode::Join(fd) => Namespace::Join(mounts.fds().add_copy(fd)?),
        })
    };
    // What is there already belongs to the host's user namespace.
    let may_be_ready = spec.network.is_new() && spec.user.is_none();
    let ready = may_be_ready.then(netns::take).flatten();
    let network = match ready {
        Some(made) => namespace(&NamespaceMode::Join(made))?,
        None => namespace(&spec.network)?,
    };
    let (pid, ipc) = (namespace(&spec.pid)?, namespace(&spec.ipc)?);
    let user = spec.user.as_ref();
    let user = user.map(|user| user_namespace(user, mounts.fds()));
    let user = user.transpose()?;
    let rootfs = mounts.fds().add(root)?;
    let (hook_plan, hooks) = hooks::prepare(spec, mounts.fds())?.unzip();
    // Where others can see the child it must not share the keeper's memory.
    let may_block = mounts.may_block
        || rootfs_blocks
        || group.frozen
        || !spec.pid.is_new()
        || user.is_some()
        || hooks.is_some();
    let mounts = mounts.finish();
    let plan = Plan {
        may_block,
        rootfs,
        mounts,
        mask_dir,
        network,
        pid,
        ipc,
        user,
        hooks: hook_plan,
        ..describe(spec, &group, stdio)?
    };
    let plan_bytes = inline_or_memfd(plan.encode(), &mut fds)?;
    let parts = PreparedParts {
        plan,
        plan_bytes,
        fds: fds.into_vec(),
        ends,
        group: group.guard,
        hooks,
    };
    Ok(Prepared {
        kind: LaunchKind::BuiltIn(Box::new(parts)),
        discarded: group.discarded,
    })
}

fn devpts(remap: Option<&Remap>) -> std::io::Result<OwnedFd> {
    let _acting = remap.map(Remap::act_as_root).transpose()?;
    dev::devpts(remap)
}

fn user_namespace(spec: &UserNamespace, fds: &mut FdTable) -> Result<PlanUser, LaunchError> {
    let source = match &spec.join {
        Some((namespace, _)) => UserSource::Join(fds.add_copy(namespace)?),
        None => UserSource::New {
            uid_map: spec.remap.uid_map(),
            gid_map: spec.remap.gid_map(),
        },
    };
    let views = mounts::kernel_views(fds)?;
    Ok(PlanUser { source, views })
}

fn copy_of(fd: &OwnedFd) -> Result<OwnedFd, LaunchError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
        .map_err(|e| LaunchError::prepare("duplicate", "a descriptor", e))
}

fn working_directory(spec: &LaunchSpec) -> &str {
    if spec.cwd.is_empty() { "/" } else { &spec.cwd }
}

/// What needs no kernel.
fn describe(
    spec: &LaunchSpec,
    group: &PreparedGroup,
    stdio: StdioFds,
) -> Result<Plan, LaunchError> {
    let paths = |what: &'static str, all: &[String]| -> Result<Vec<_>, LaunchError> {
        all.iter().map(|p| program::absolute(what, p)).collect()
    };
    if spec.argv.is_empty() {
        return Err(LaunchError::Invalid {
            what: "command",
            value: String::new(),
        });
    }
    let sysctl = |(name, value): &(String, String)| {
        Ok((program::sysctl_path(name)?, value.clone().into_bytes()))
    };
    let (search_path, candidates) = program::candidates(&spec.argv, &spec.env)?;
    let cwd = working_directory(spec);
    Ok(Plan {
        id: spec.id.clone(),
        may_block: false,
        log_nonblocking: spec.log_nonblocking,
        rootfs: 0,
        cgroup_dir: group.dir,
        cgroup_procs: group.procs.clone(),
        cgroup_namespace: spec.cgroup_namespace,
        oom_counter: group.oom_counter,
        network: Namespace::New,
        pid: Namespace::New,
        ipc: Namespace::New,
        host_uts: spec.host_uts,
        stdio,
        hostname: program::text("host name", spec.hostname.clone().into_bytes())?,
        domainname: program::text("domain name", spec.domainname.clone().into_bytes())?,
        mounts: Vec::new(),
        sysctls: spec
            .sysctls
            .iter()
            .map(sysctl)
            .collect::<Result<_, LaunchError>>()?,
        masked_paths: paths("masked path", &spec.masked_paths)?,
        mask_dir: None,
        readonly_paths: paths("read-only path", &spec.readonly_paths)?,
        rlimits: spec.rlimits.clone(),
        oom_score_adj: spec.oom_score_adj,
        uid: spec.uid,
        gid: spec.gid,
        groups: spec.groups.clone(),
        capabilities: spec.capabilities,
        no_new_privs: spec.no_new_privs,
        seccomp: spec
            .seccomp
            .as_ref()
            .map(|s| s.to_vec())
            .unwrap_or_default(),
        cwd_parents: program::parents(cwd)?,
        cwd: program::absolute("working directory", cwd)?,
        search_path,
        candidates,
        argv: spec.argv.clone(),
        env: spec.env.clone(),
        join: None,
        user: None,
        apparmor_profile: spec.apparmor_profile.clone(),
        hooks: None,
        filter_last: matches!(spec.pid, NamespaceMode::Join(_))
            && program::filter_last(spec.seccomp.as_deref().unwrap_or_default(), spec.tty),
    })
}

/// Long plans (a big environment) do not fit into a message.
pub(crate) fn inline_or_memfd(bytes: Vec<u8>, fds: &mut FdTable) -> Result<Vec<u8>, LaunchError> {
    if bytes.len() <= MAX_INLINE_PLAN_BYTES {
        return Ok(bytes);
    }
    let memfd = rustix::fs::memfd_create("gantry-plan", MemfdFlags::CLOEXEC)
        .map_err(|e| LaunchError::prepare("make", "a memfd", e))?;
    let mut file = File::from(memfd);
    file.write_all(&bytes)
        .map_err(|e| LaunchError::prepare("write", "the launch plan", e))?;
    fds.add(file.into())?;
    Ok(Vec::new())
}

/// What a failed step was about.
pub(crate) fn subject_of(plan: &Plan, step: Step, detail: u32) -> Option<String> {
    let at = detail as usize;
    match step {
        Step::Mount | Step::MountTarget => plan.mounts.get(at).map(|m| lossy(&m.target)),
        Step::Sysctl => plan.sysctls.get(at).map(|(path, value)| {
            let path = lossy(path);
            let value = String::from_utf8_lossy(value);
            format!("{} = {value:?}: write {path}", program::sysctl_name(&path))
        }),
        Step::Mask => plan.masked_paths.get(at).map(|p| lossy(p)),
        Step::ReadOnly => plan.readonly_paths.get(at).map(|p| lossy(p)),
        Step::Rlimit => plan.rlimits.get(at).map(|r| r.resource.to_string()),
        Step::Cwd | Step::CwdOutside => Some(lossy(&plan.cwd)),
        _ => None,
    }
}
