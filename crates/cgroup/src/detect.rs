//! Which cgroup file systems are mounted, and with which controllers.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::CgroupError;
use crate::sysfs;

/// A resource controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Controller {
    /// CPU shares and quota.
    Cpu,
    /// CPU time; part of `cpu` on v2.
    Cpuacct,
    /// CPUs and memory nodes.
    Cpuset,
    /// Memory.
    Memory,
    /// Device nodes; a BPF program on v2.
    Devices,
    /// Freezing; part of every group on v2.
    Freezer,
    /// Block I/O, `io` on v2.
    Blkio,
    /// Number of tasks.
    Pids,
    /// Huge pages.
    Hugetlb,
    /// Packet classes.
    NetCls,
    /// Packet priorities.
    NetPrio,
    /// Performance events.
    PerfEvent,
    /// RDMA.
    Rdma,
    /// Miscellaneous counters.
    Misc,
}

impl Controller {
    const ALL: [(Controller, &'static str); 14] = [
        (Controller::Cpu, "cpu"),
        (Controller::Cpuacct, "cpuacct"),
        (Controller::Cpuset, "cpuset"),
        (Controller::Memory, "memory"),
        (Controller::Devices, "devices"),
        (Controller::Freezer, "freezer"),
        (Controller::Blkio, "blkio"),
        (Controller::Pids, "pids"),
        (Controller::Hugetlb, "hugetlb"),
        (Controller::NetCls, "net_cls"),
        (Controller::NetPrio, "net_prio"),
        (Controller::PerfEvent, "perf_event"),
        (Controller::Rdma, "rdma"),
        (Controller::Misc, "misc"),
    ];

    /// The kernel's name (v1's, `blkio` for v2's `io`).
    pub fn name(self) -> &'static str {
        // Every variant is in the table, a test says so.
        Self::ALL
            .iter()
            .find(|(controller, _)| *controller == self)
            .map_or("", |(_, name)| name)
    }

    fn from_v1(name: &str) -> Option<Controller> {
        let found = Self::ALL.iter().find(|(_, known)| *known == name);
        found.map(|(controller, _)| *controller)
    }

    fn from_v2(name: &str) -> Option<Controller> {
        match name {
            "io" => Some(Controller::Blkio),
            other => Self::from_v1(other),
        }
    }

    /// The controllers in the text of a `cgroup.controllers`.
    pub(crate) fn from_v2_list(text: &str) -> Vec<Controller> {
        text.split_whitespace().filter_map(Self::from_v2).collect()
    }

    /// The name in `cgroup.controllers`, `None` for what is no controller of v2.
    pub(crate) fn v2_name(self) -> Option<&'static str> {
        match self {
            Controller::Blkio => Some("io"),
            Controller::Cpuacct
            | Controller::Devices
            | Controller::Freezer
            | Controller::NetCls
            | Controller::NetPrio
            | Controller::PerfEvent => None,
            other => Some(other.name()),
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How this host has its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Controllers of version 1 only.
    V1,
    /// Controllers of version 1, and a cgroup2 mount beside them without controllers.
    Hybrid,
    /// cgroup2 only.
    V2,
}

/// A mounted hierarchy of version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct V1Mount {
    pub path: PathBuf,
    pub controllers: Vec<Controller>,
}

impl V1Mount {
    pub(crate) fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }
}

/// A mounted cgroup2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct V2Mount {
    pub path: PathBuf,
    pub controllers: Vec<Controller>,
}

/// The cgroup file systems of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub(crate) v1: Vec<V1Mount>,
    pub(crate) v2: Option<V2Mount>,
}

/// Without these no container can be isolated as its client expects.
const REQUIRED_V1: [Controller; 3] = [Controller::Devices, Controller::Memory, Controller::Cpu];
const REQUIRED_V2: [Controller; 3] = [Controller::Cpu, Controller::Memory, Controller::Pids];

const CAUSE_V1: &str = "likely mounted nowhere: mount them below /sys/fs/cgroup (cgroupfs-mount), \
     or the kernel was started with cgroup_disable=";
const CAUSE_V2: &str = "likely not delegated to this process: they must be in cgroup.controllers of \
     its root group (cgroup.subtree_control of the parent; inside a container: cgroup namespace or \
     a systemd Delegate=), still bound to a version 1 hierarchy, or disabled by cgroup_disable=";

impl Hierarchy {
    /// Looks at this process's mounts and checks that what every container needs is there.
    pub fn detect() -> Result<Hierarchy, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let mountinfo =
            fs::read_to_string(path).map_err(|error| CgroupError::io("read", path, error))?;
        let hierarchy = Hierarchy::from_mountinfo(&mountinfo, Path::new("/"))?;
        hierarchy.check_required()?;
        Ok(hierarchy)
    }

    /// Reads the text of a mountinfo whose paths are below `prefix` (`/`, or a test's tree).
    pub fn from_mountinfo(mountinfo: &str, prefix: &Path) -> Result<Hierarchy, CgroupError> {
        let mut v1: Vec<V1Mount> = Vec::new();
        let mut v2 = None;
        for mount in mountinfo.lines().filter_map(parse_mount) {
            let path = below(prefix, &mount.point);
            match mount.kind {
                MountKind::V1(controllers) => {
                    // The same hierarchy may be mounted twice; the first one is the host's usual place.
                    if !v1
                        .iter()
                        .any(|known| known.controllers == controllers && !controllers.is_empty())
                    {
                        v1.push(V1Mount { path, controllers });
                    }
                }
                MountKind::V2 if v2.is_none() => v2 = Some(path),
                MountKind::V2 => {}
            }
        }
        let v2 = v2.map(v2_mount).transpose()?;
        if v1.is_empty() && v2.is_none() {
            return Err(CgroupError::NotMounted);
        }
        Ok(Hierarchy { v1, v2 })
    }

    /// Fails with the names of the controllers that every container needs and this host lacks.
    pub fn check_required(&self) -> Result<(), CgroupError> {
        let (required, cause) = match self.version() {
            Version::V2 => (REQUIRED_V2, CAUSE_V2),
            Version::V1 | Version::Hybrid => (REQUIRED_V1, CAUSE_V1),
        };
        let missing: Vec<&str> = required
            .into_iter()
            .filter(|controller| !self.has(*controller))
            .map(Controller::name)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(CgroupError::MissingControllers {
            names: missing.join(", "),
            cause,
        })
    }

    /// v1, hybrid or v2.
    pub fn version(&self) -> Version {
        // A bare `name=systemd` hierarchy does not make a host v1 if cgroup2 has the controllers.
        let v1_has_controllers = self.v1.iter().any(|mount| !mount.controllers.is_empty());
        match (&self.v2, v1_has_controllers) {
            (None, _) => Version::V1,
            (Some(_), true) => Version::Hybrid,
            (Some(_), false) => Version::V2,
        }
    }

    /// The driver's name in `/info`: files, no systemd.
    pub fn driver(&self) -> &'static str {
        "cgroupfs"
    }

    /// Whether a controller can be used. Devices and freezer need none on v2.
    pub fn has(&self, controller: Controller) -> bool {
        match self.version() {
            Version::V1 | Version::Hybrid => self.v1.iter().any(|mount| mount.has(controller)),
            Version::V2 => match controller {
                Controller::Devices | Controller::Freezer => true,
                Controller::Cpuacct => self.has(Controller::Cpu),
                other => self
                    .v2
                    .as_ref()
                    .is_some_and(|mount| mount.controllers.contains(&other)),
            },
        }
    }

    /// Where cgroup2 is mounted, on v2 and hybrid hosts.
    pub fn v2_root(&self) -> Option<&Path> {
        self.v2.as_ref().map(|mount| mount.path.as_path())
    }

    /// Whether a file is in the root group of a controller. Docker takes that for the kernel's ability.
    pub fn root_has_file(&self, controller: Controller, file: &str) -> bool {
        self.v1_path(controller)
            .is_some_and(|root| root.join(file).exists())
    }

    /// Whether memory plus swap can be limited.
    pub fn has_swap_limit(&self) -> bool {
        match self.version() {
            Version::V2 => self.has(Controller::Memory) && Path::new("/proc/swaps").exists(),
            Version::V1 | Version::Hybrid => self
                .v1_path(Controller::Memory)
                .is_some_and(|path| path.join("memory.memsw.limit_in_bytes").exists()),
        }
    }

    /// Controllers a container could use and this host lacks, by name: for warnings at start-up.
    pub fn missing(&self) -> Vec<Controller> {
        [
            Controller::Cpu,
            Controller::Cpuset,
            Controller::Memory,
            Controller::Devices,
            Controller::Freezer,
            Controller::Blkio,
            Controller::Pids,
        ]
        .into_iter()
        .filter(|controller| !self.has(*controller))
        .collect()
    }

    pub(crate) fn v1_path(&self, controller: Controller) -> Option<&Path> {
        let mount = self.v1.iter().find(|mount| mount.has(controller))?;
        Some(&mount.path)
    }
}

fn v2_mount(path: PathBuf) -> Result<V2Mount, CgroupError> {
    let controllers = Controller::from_v2_list(&sysfs::read(&path, "cgroup.controllers")?);
    Ok(V2Mount { path, controllers })
}

fn below(prefix: &Path, point: &str) -> PathBuf {
    prefix.join(point.trim_start_matches('/'))
}

struct Mount {
    point: String,
    kind: MountKind,
}

enum MountKind {
    /// With its controllers, none for a named hierarchy.
    V1(Vec<Controller>),
    V2,
}

/// One line: `id parent dev root point options [tags] - type source superoptions`.
fn parse_mount(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let point = unescape(mount.split(' ').nth(4)?);
    let mut fields = file_system.split(' ');
    let kind = match fields.next()? {
        "cgroup2" => MountKind::V2,
        "cgroup" => {
            let options = fields.nth(1)?;
            MountKind::V1(options.split(',').filter_map(Controller::from_v1).collect())
        }
        _ => return None,
    };
    Some(Mount { point, kind })
}

/// Mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 4);
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
#[path = "detect_tests.rs"]
mod tests;
