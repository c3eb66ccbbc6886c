//! One container's group: a directory in every hierarchy.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

use crate::bpf::DeviceProgram;
use crate::detect::{Controller, Hierarchy, Version};
use crate::device::DeviceRule;
use crate::error::CgroupError;
use crate::limits::Limits;
use crate::settings::{self, Setting};
use crate::sysfs;

/// The group's directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupDir {
    pub path: PathBuf,
    pub is_v2: bool,
    pub controllers: Vec<Controller>,
}

/// A group. Dropping it leaves the directories; [`Group::remove`] takes them away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub(crate) dirs: Vec<GroupDir>,
    pub(crate) version: Version,
    relative: String,
    /// Controllers of version 2 that the hierarchy has and this group was not given.
    withheld: Vec<Controller>,
}

/// What a process is put into the group with.
#[derive(Debug)]
pub struct AttachFds {
    /// `tasks` of every v1 hierarchy, writable: the child, which has one thread, writes `0`.
    pub procs: Vec<OwnedFd>,
    /// The cgroup2 directory for CLONE_INTO_CGROUP, on v2 and hybrid hosts.
    pub into: Option<OwnedFd>,
}

impl Group {
    /// Makes the group `parent/id` in every hierarchy. A parent is relative to the hierarchies'
    /// roots with or without a leading `/`. What was made is removed if a later step fails.
    pub fn create(hierarchy: &Hierarchy, parent: &str, id: &str) -> Result<Group, CgroupError> {
        let relative = relative_path(parent, id)?;
        let mut group = Group {
            dirs: Vec::new(),
            version: hierarchy.version(),
            relative: format!("/{}", relative.display()),
            withheld: Vec::new(),
        };
        match group.create_dirs(hierarchy, &relative) {
            Ok(()) => Ok(group),
            Err(error) => {
                // The first error is the one to report; what is left behind is empty.
                let _ = group.remove();
                Err(error)
            }
        }
    }

    /// Finds a group that exists, in the hierarchies where it does.
    pub fn open(hierarchy: &Hierarchy, parent: &str, id: &str) -> Result<Group, CgroupError> {
        let relative = relative_path(parent, id)?;
        let v1 = hierarchy.v1.iter().map(|mount| GroupDir {
            path: mount.path.join(&relative),
            is_v2: false,
            controllers: mount.controllers.clone(),
        });
        let mut dirs: Vec<GroupDir> = v1.filter(|dir| dir.path.is_dir()).collect();
        let mut withheld = Vec::new();
        if let Some(mount) = &hierarchy.v2 {
            let path = mount.path.join(&relative);
            if path.is_dir() {
                let controllers = v2_controllers(&path)?;
                withheld = without(&mount.controllers, &controllers);
                dirs.push(GroupDir {
                    path,
                    is_v2: true,
                    controllers,
                });
            }
        }
        if dirs.is_empty() {
            let error = io::Error::from(io::ErrorKind::NotFound);
            return Err(CgroupError::io("open", relative, error));
        }
        Ok(Group {
            dirs,
            version: hierarchy.version(),
            relative: format!("/{}", relative.display()),
            withheld,
        })
    }

    fn create_dirs(&mut self, hierarchy: &Hierarchy, relative: &Path) -> Result<(), CgroupError> {
        for mount in &hierarchy.v1 {
            self.dirs.push(GroupDir {
                path: mount.path.join(relative),
                is_v2: false,
                controllers: mount.controllers.clone(),
            });
            sysfs::make_dirs(&mount.path, relative)?;
            if mount.has(Controller::Cpuset) {
                inherit_cpuset(&mount.path, relative)?;
            }
        }
        let Some(mount) = &hierarchy.v2 else {
            return Ok(());
        };
        let path = mount.path.join(relative);
        self.dirs.push(GroupDir {
            path: path.clone(),
            is_v2: true,
            controllers: Vec::new(),
        });
        if let (Version::V2, Some(parent)) = (self.version, relative.parent()) {
            sysfs::make_dirs(&mount.path, parent)?;
            delegate(&mount.path, parent)?;
        }
        sysfs::make_dirs(&mount.path, relative)?;
        let controllers = v2_controllers(&path)?;
        self.withheld = without(&mount.controllers, &controllers);
        if let Some(dir) = self.dirs.last_mut() {
            dir.controllers = controllers;
        }
        Ok(())
    }

    /// The path in every hierarchy, as /proc/PID/cgroup has it outside of a cgroup namespace.
    pub fn relative(&self) -> &str {
        &self.relative
    }

    /// The directory with a controller's files.
    pub fn path(&self, controller: Controller) -> Option<&Path> {
        let dir = self
            .dirs
            .iter()
            .find(|dir| dir.controllers.contains(&controller))?;
        Some(&dir.path)
    }

    /// The directory in every hierarchy of version 1, named ones without controllers included, in the order in which
    /// the host has them mounted.
    pub fn v1_paths(&self) -> impl Iterator<Item = &Path> {
        self.dirs
            .iter()
            .filter(|dir| !dir.is_v2)
            .map(|dir| dir.path.as_path())
    }

    /// The cgroup2 directory, on v2 and hybrid hosts.
    pub fn v2_path(&self) -> Option<&Path> {
        let dir = self.dirs.iter().find(|dir| dir.is_v2)?;
        Some(&dir.path)
    }

    /// Sets limits, at creation or on a live group. Returns the names of those this kernel has no
    /// controller or no file for; they are not in force and the client should be told. A controller that the kernel has and
    /// a group on the way does not hand down is an error.
    pub fn apply(&self, limits: &Limits) -> Result<Vec<&'static str>, CgroupError> {
        let settings = self.settings(limits)?;
        let mut discarded = Vec::new();
        for (at, setting) in settings.iter().enumerate() {
            let written = match self.write(setting) {
                Err(error) if is_period_below_quota(&error, setting) => {
                    // A live group's quota may not fit the new period: the new quota goes first.
                    settings[at + 1..]
                        .iter()
                        .find(|other| other.files == ["cpu.cfs_quota_us"])
                        .map_or(Ok(false), |quota| self.write(quota))?;
                    self.write(setting)?
                }
                other => other?,
            };
            if !written && !discarded.contains(&setting.name) {
                discarded.push(setting.name);
            }
        }
        if let Some(rules) = &limits.devices {
            self.apply_devices(rules)?;
        }
        Ok(discarded)
    }

    /// The names of the limits that [`Group::apply`] could not set on this kernel. Nothing is written.
    pub fn unsupported(&self, limits: &Limits) -> Result<Vec<&'static str>, CgroupError> {
        let there = |setting: &Setting| {
            self.path(setting.controller)
                .is_some_and(|dir| setting.places().any(|(file, _)| dir.join(file).exists()))
        };
        let settings = self.settings(limits)?;
        let mut missing: Vec<_> = settings
            .iter()
            .filter(|setting| !self.is_withheld(setting) && !there(setting))
            .map(|setting| setting.name)
            .collect();
        if self.version == Version::V2 {
            // Version 2 has no such thing.
            missing.extend(limits.memory_swappiness.map(|_| "memory swappiness"));
            missing.extend(limits.oom_kill_disable.then_some("oom kill disable"));
        }
        missing.dedup();
        Ok(missing)
    }

    fn settings(&self, limits: &Limits) -> Result<Vec<Setting>, CgroupError> {
        match self.version {
            Version::V2 => settings::v2(limits),
            Version::V1 | Version::Hybrid => {
                let mut all = settings::v1_memory(limits, self.v1_memory_limit(limits)?)?;
                all.extend(settings::v1(limits)?);
                Ok(all)
            }
        }
    }

    fn is_withheld(&self, setting: &Setting) -> bool {
        self.version == Version::V2 && self.withheld.contains(&setting.controller)
    }

    fn v1_memory_limit(&self, limits: &Limits) -> Result<u64, CgroupError> {
        let both = limits.memory_bytes.is_some() && limits.memory_swap_bytes.is_some();
        match self.path(Controller::Memory) {
            Some(dir) if both => sysfs::read_number(dir, "memory.limit_in_bytes"),
            _ => Ok(u64::MAX),
        }
    }

    /// Whether the kernel has a place for it.
    fn write(&self, setting: &Setting) -> Result<bool, CgroupError> {
        let Some(dir) = self.path(setting.controller) else {
            if self.is_withheld(setting) {
                return Err(CgroupError::Withheld {
                    setting: setting.name,
                    controller: setting.controller.name(),
                    path: self.relative.clone(),
                });
            }
            return Ok(false);
        };
        for (file, value) in setting.places() {
            if sysfs::write_if_there(dir, file, value)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn apply_devices(&self, rules: &[DeviceRule]) -> Result<(), CgroupError> {
        if self.version == Version::V2 {
            let Some(path) = self.v2_path() else {
                return Ok(());
            };
            return DeviceProgram::from_rules(rules)?.attach(open_dir(path)?.as_fd());
        }
        let Some(dir) = self.path(Controller::Devices) else {
            return Err(CgroupError::MissingControllers {
                names: Controller::Devices.name().to_owned(),
                cause: "without it a container could open every device of the host",
            });
        };
        let mut allow = sysfs::Writer::new(dir, "devices.allow");
        let mut deny = sysfs::Writer::new(dir, "devices.deny");
        for rule in rules {
            let file = if rule.allow { &mut allow } else { &mut deny };
            file.write(&rule.v1_line())?;
        }
        Ok(())
    }

    /// Opens what a launcher needs to put a process in.
    pub fn attach_fds(&self) -> Result<AttachFds, CgroupError> {
        let mut fds = AttachFds {
            procs: Vec::new(),
            into: None,
        };
        for dir in &self.dirs {
            if dir.is_v2 {
                fds.into = Some(open_dir(&dir.path)?);
                continue;
            }
            // A thread that moves itself need not stop the forks, exits and execs of the whole host, as a process has to
            // (`cgroup.procs`): that lock is what parallel starts would wait for.
            let path = dir.path.join("tasks");
            let fd = open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| CgroupError::io("open", path, error.into()))?;
            fds.procs.push(fd);
        }
        Ok(fds)
    }

    /// `cgroup.procs` in cgroup2 beside version 1, for a runtime that only knows one of them; `None` elsewhere.
    pub fn hybrid_procs(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let dir = self.v2_path().filter(|_| self.version == Version::Hybrid);
        let Some(path) = dir.map(|dir| dir.join("cgroup.procs")) else {
            return Ok(None);
        };
        open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map(Some)
            .map_err(|error| CgroupError::io("open", path, error.into()))
    }

    /// Puts a process into the group in every hierarchy.
    pub fn attach(&self, pid: i32) -> Result<(), CgroupError> {
        let pid = pid.to_string();
        self.dirs
            .iter()
            .try_for_each(|dir| sysfs::write(&dir.path, "cgroup.procs", &pid))
    }

    /// How often the kernel killed for memory in this group; `None` if it does not count.
    pub fn oom_kill_count(&self) -> Result<Option<u64>, CgroupError> {
        let file = match self.version {
            Version::V2 => "memory.events",
            Version::V1 | Version::Hybrid => "memory.oom_control",
        };
        let Some(dir) = self.path(Controller::Memory) else {
            return Ok(None);
        };
        let text = sysfs::read_if_there(dir, file)?;
        Ok(text.and_then(|text| sysfs::keyed(&text, "oom_kill")))
    }

    /// Memory in use; `None` without the controller.
    pub fn memory_usage_bytes(&self) -> Result<Option<u64>, CgroupError> {
        let file = match self.version {
            Version::V2 => "memory.current",
            Version::V1 | Version::Hybrid => "memory.usage_in_bytes",
        };
        self.path(Controller::Memory)
            .map(|dir| sysfs::read_number(dir, file))
            .transpose()
    }

    /// Tasks in the group; `None` without the controller.
    pub fn pids_current(&self) -> Result<Option<u64>, CgroupError> {
        self.path(Controller::Pids)
            .map(|dir| sysfs::read_number(dir, "pids.current"))
            .transpose()
    }
}

fn relative_path(parent: &str, id: &str) -> Result<PathBuf, CgroupError> {
    let invalid = || CgroupError::InvalidPath(format!("{parent}/{id}"));
    // Cleaned as an absolute path, as Docker does: nothing is above the root.
    let mut clean = PathBuf::new();
    for part in Path::new(parent).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    let parent = clean.as_path();
    let name = Path::new(id);
    let one_name = matches!(name.components().next(), Some(Component::Normal(only)) if only == id);
    if !one_name || id.contains('\0') || parent.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(invalid());
    }
    Ok(parent.components().chain(name.components()).collect())
}

fn is_period_below_quota(error: &CgroupError, setting: &Setting) -> bool {
    setting.files == ["cpu.cfs_period_us"]
        && matches!(error, CgroupError::Io { source, .. } | CgroupError::Write { source, .. } if source.raw_os_error() == Some(libc::EINVAL))
}

fn open_dir(path: &Path) -> Result<OwnedFd, CgroupError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|error| CgroupError::io("open", path, error.into()))
}

fn v2_controllers(path: &Path) -> Result<Vec<Controller>, CgroupError> {
    let text = sysfs::read(path, "cgroup.controllers")?;
    Ok(Controller::from_v2_list(&text))
}

fn without(all: &[Controller], given: &[Controller]) -> Vec<Controller> {
    let missing = all.iter().filter(|one| !given.contains(one));
    missing.copied().collect()
}

/// A new v1 cpuset group is empty, and a process cannot enter an empty one: every level on the
/// way gets what its parent has.
fn inherit_cpuset(root: &Path, relative: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut path = root.to_owned();
        let mut above: Option<String> = None;
        for part in relative {
            let parent = path.clone();
            path.push(part);
            let mut value = sysfs::read(&path, file)?;
            if value.trim().is_empty() {
                value = match above {
                    Some(value) => value,
                    None => sysfs::read(&parent, file)?,
                };
                sysfs::write(&path, file, value.trim())?;
            }
            above = Some(value);
        }
    }
    Ok(())
}

/// Turns on every controller for children, from the root down to `relative`.
///
/// One that cannot be turned on (a group on the way has processes of its own, say) is missing in the group's own list
/// afterwards, and a limit that needs it fails in [`Group::apply`].
fn delegate(root: &Path, relative: &Path) -> Result<(), CgroupError> {
    let mut path = root.to_owned();
    let below = relative.iter().map(Some);
    for part in std::iter::once(None).chain(below) {
        if let Some(part) = part {
            path.push(part);
        }
        let available = sysfs::read(&path, "cgroup.controllers")?;
        let enabled = sysfs::read(&path, "cgroup.subtree_control")?;
        let wanted: Vec<String> = v2_controllers(&path)?
            .into_iter()
            .filter_map(Controller::v2_name)
            .filter(|name| available.split_whitespace().any(|known| known == *name))
            .filter(|name| !enabled.split_whitespace().any(|known| known == *name))
            .map(|name| format!("+{name}"))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        if sysfs::write(&path, "cgroup.subtree_control", &wanted.join(" ")).is_err() {
            // All or nothing: one by one, so that a single refusal does not take the others along.
            for one in &wanted {
                let _ = sysfs::write(&path, "cgroup.subtree_control", one);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
