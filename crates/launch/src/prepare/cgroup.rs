//! The control group of a start: made and limited before the clone.

use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_cgroup::{CgroupError, Controller, Group, Version};
use gantry_keeper_proto::plan::FdIndex;
use gantry_rt::workers;
use rustix::fs::{Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use super::fds::FdTable;
use crate::error::LaunchError;
use crate::spec::CgroupSpec;

/// Removes the group unless it is taken.
#[derive(Debug, Default)]
pub(crate) struct GroupGuard(Option<Group>);

impl GroupGuard {
    pub(crate) fn get(&self) -> Option<&Group> {
        self.0.as_ref()
    }

    pub(crate) fn take(&mut self) -> Option<Group> {
        self.0.take()
    }

    /// Removes it now, unless it was taken: the next start makes a group of the same name.
    pub(crate) async fn put_away(&mut self) {
        let Some(group) = self.0.take() else { return };
        if let Err(e) = workers::run(move || remove(&group)).await {
            tracing::warn!(error = %e, "the control group of a failed launch is left behind");
        }
    }
}

impl Drop for GroupGuard {
    fn drop(&mut self) {
        let Some(group) = self.0.take() else { return };
        if gantry_rt::try_current_shard().is_none() {
            return remove(&group);
        }
        gantry_rt::spawn("launch.cgroup", async move {
            if let Err(e) = workers::run(move || remove(&group)).await {
                tracing::warn!(error = %e, "the control group of a failed launch is left behind");
            }
        });
    }
}

fn remove(group: &Group) {
    // When the keeper died in the midst of the launch there may be a process, and nobody who knows of it. One that is
    // not in the group yet gives up when it finds no group.
    if let Err(e) = group.kill_all().and_then(|()| group.remove()) {
        tracing::warn!(error = %e, "the control group of a failed launch is left behind");
    }
}

/// The group and how it goes into the plan.
#[derive(Debug)]
pub(crate) struct PreparedGroup {
    pub(crate) guard: GroupGuard,
    pub(crate) dir: Option<FdIndex>,
    pub(crate) procs: Vec<FdIndex>,
    pub(crate) oom_counter: Option<FdIndex>,
    /// Detached mounts of what is shown inside, by hierarchy name; one without a name on v2.
    pub(crate) trees: Vec<(String, OwnedFd)>,
    /// A process put in would stop at once (its parent group is frozen).
    pub(crate) frozen: bool,
    /// Limits this kernel does not know.
    pub(crate) discarded: Vec<&'static str>,
}

pub(crate) fn prepare(
    spec: &CgroupSpec,
    id: &str,
    own_namespace: bool,
    fds: &mut FdTable,
) -> Result<PreparedGroup, LaunchError> {
    let group = Group::create(&spec.hierarchy, &spec.parent, id)?;
    let guard = GroupGuard(Some(group.clone()));
    let discarded = group.apply(&spec.limits)?;
    let attach = group.attach_fds()?;
    let dir = attach.into.map(|fd| fds.add(fd)).transpose()?;
    let procs = attach
        .procs
        .into_iter()
        .map(|fd| fds.add(fd))
        .collect::<Result<_, _>>()?;
    let v2 = spec.hierarchy.version() == Version::V2;
    let oom_counter = oom_counter(&group, v2)?.map(|fd| fds.add(fd)).transpose()?;
    let frozen = match group.is_frozen() {
        // Without a freezer nothing is frozen.
        Err(CgroupError::MissingControllers { .. }) => false,
        other => other?,
    };
    let trees = if v2 {
        v2_tree(spec, &group, own_namespace)?
    } else {
        v1_trees(&group)?
    };
    Ok(PreparedGroup {
        guard,
        dir,
        procs,
        oom_counter,
        frozen,
        trees,
        discarded,
    })
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, LaunchError> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| LaunchError::prepare("open", path.display().to_string(), e))
}

/// A detached mount of a directory.
fn tree_of(path: &Path) -> Result<OwnedFd, LaunchError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(rustix::fs::CWD, path, flags)
        .map_err(|e| LaunchError::prepare("bind the cgroup", path.display().to_string(), e))
}

/// The keeper reads it at the exit, so that the truth survives the group and the daemon.
fn oom_counter(group: &Group, v2: bool) -> Result<Option<OwnedFd>, LaunchError> {
    let Some(dir) = group.path(Controller::Memory) else {
        return Ok(None);
    };
    let file = if v2 {
        "memory.events"
    } else {
        "memory.oom_control"
    };
    open(&dir.join(file), OFlags::RDONLY).map(Some)
}

/// In the host's cgroup namespace the whole hierarchy is shown.
fn v2_tree(
    spec: &CgroupSpec,
    group: &Group,
    own_namespace: bool,
) -> Result<Vec<(String, OwnedFd)>, LaunchError> {
    let shown = match own_namespace {
        true => group.v2_path(),
        false => spec.hierarchy.v2_root(),
    };
    let tree = shown.map(tree_of).transpose()?;
    Ok(tree.into_iter().map(|fd| (String::new(), fd)).collect())
}

fn v1_trees(group: &Group) -> Result<Vec<(String, OwnedFd)>, LaunchError> {
    let mut trees = Vec::new();
    for path in group.v1_paths() {
        let Some(name) = hierarchy_name(path, group.relative()) else {
            continue;
        };
        trees.push((name, tree_of(path)?));
    }
    Ok(trees)
}

/// The name of the mount point a group lies under: `cpu,cpuacct` of `/sys/fs/cgroup/cpu,cpuacct/docker/ID`.
fn hierarchy_name(path: &Path, relative: &str) -> Option<String> {
    let depth = Path::new(relative.trim_start_matches('/'))
        .components()
        .count();
    let mount = path.ancestors().nth(depth)?;
    Some(mount.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_have_the_name_of_their_mount() {
        let path = Path::new("/sys/fs/cgroup/cpu,cpuacct/docker/abc");
        assert_eq!(
            hierarchy_name(path, "/docker/abc").as_deref(),
            Some("cpu,cpuacct")
        );
        assert_eq!(hierarchy_name(Path::new("/"), "/a"), None);
    }
}
