//! From a launch specification to `config.json`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use gantry_keeper_proto::plan::{CapabilityMasks, Rlimit};
use gantry_keeper_proto::wire::lossy;
use gantry_seccomp::capability_name;
use serde_json::Value;

use super::resources::{devices, resources};
use super::spec::{
    Capabilities, Config, ConsoleSize, IdMapping, Linux, Mount, Namespace, Process, ProcessLimit,
    Root, User, VERSION,
};
use super::{ROOTFS, mounts};
use crate::error::LaunchError;
use crate::remap::IdRange;
use crate::spec::{LaunchSpec, NamespaceMode, Propagation};

/// Capabilities there can be.
const CAPABILITY_BITS: u32 = 64;

const RLIMITS: [(u32, &str); 16] = [
    (libc::RLIMIT_AS, "RLIMIT_AS"),
    (libc::RLIMIT_CORE, "RLIMIT_CORE"),
    (libc::RLIMIT_CPU, "RLIMIT_CPU"),
    (libc::RLIMIT_DATA, "RLIMIT_DATA"),
    (libc::RLIMIT_FSIZE, "RLIMIT_FSIZE"),
    (libc::RLIMIT_LOCKS, "RLIMIT_LOCKS"),
    (libc::RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK"),
    (libc::RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE"),
    (libc::RLIMIT_NICE, "RLIMIT_NICE"),
    (libc::RLIMIT_NOFILE, "RLIMIT_NOFILE"),
    (libc::RLIMIT_NPROC, "RLIMIT_NPROC"),
    (libc::RLIMIT_RSS, "RLIMIT_RSS"),
    (libc::RLIMIT_RTPRIO, "RLIMIT_RTPRIO"),
    (libc::RLIMIT_RTTIME, "RLIMIT_RTTIME"),
    (libc::RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING"),
    (libc::RLIMIT_STACK, "RLIMIT_STACK"),
];

/// What every process has, the first one and execs.
pub(crate) struct ProcessParts<'a> {
    pub(crate) argv: &'a [CString],
    pub(crate) env: &'a [CString],
    pub(crate) cwd: &'a str,
    pub(crate) user: (u32, u32),
    pub(crate) groups: &'a [u32],
    pub(crate) tty: bool,
    pub(crate) console_size: Option<(u16, u16)>,
    pub(crate) capabilities: &'a CapabilityMasks,
    pub(crate) no_new_privs: bool,
    pub(crate) rlimits: &'a [Rlimit],
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) apparmor_profile: Option<&'a CStr>,
}

pub(crate) fn process(parts: &ProcessParts<'_>) -> Result<Process, LaunchError> {
    let caps = parts.capabilities;
    Ok(Process {
        terminal: parts.tty,
        console_size: parts
            .console_size
            .filter(|_| parts.tty)
            .map(|(height, width)| ConsoleSize { height, width }),
        user: User {
            uid: parts.user.0,
            gid: parts.user.1,
            additional_gids: parts.groups.to_vec(),
        },
        args: strings("argument", parts.argv)?,
        env: strings("environment variable", parts.env)?,
        cwd: if parts.cwd.is_empty() {
            "/".to_owned()
        } else {
            parts.cwd.to_owned()
        },
        capabilities: Capabilities {
            bounding: names(caps.bounding),
            effective: names(caps.effective),
            permitted: names(caps.permitted),
            inheritable: names(caps.inheritable),
            ambient: names(caps.ambient),
        },
        rlimits: parts.rlimits.iter().map(rlimit).collect(),
        no_new_privileges: parts.no_new_privs,
        oom_score_adj: parts.oom_score_adj,
        apparmor_profile: parts.apparmor_profile.map(lossy),
    })
}

/// JSON has no other bytes than those of UTF-8.
fn strings(what: &'static str, all: &[CString]) -> Result<Vec<String>, LaunchError> {
    let one = |s: &CString| {
        s.to_str()
            .map(str::to_owned)
            .map_err(|_| LaunchError::Invalid {
                what,
                value: s.to_string_lossy().into_owned(),
            })
    };
    all.iter().map(one).collect()
}

fn names(mask: u64) -> Vec<&'static str> {
    (0..CAPABILITY_BITS)
        .filter(|bit| mask & (1 << bit) != 0)
        .filter_map(capability_name)
        .collect()
}

fn rlimit(limit: &Rlimit) -> ProcessLimit {
    let known = RLIMITS.iter().find(|(n, _)| *n == limit.resource);
    ProcessLimit {
        kind: known.map_or_else(
            || limit.resource.to_string(),
            |(_, name)| (*name).to_owned(),
        ),
        soft: limit.soft,
        hard: limit.hard,
    }
}

/// All of `config.json`. It names what goes into `kept`, which has to be open as long as the runtime starts.
pub(crate) fn config(
    spec: &LaunchSpec,
    cgroups_path: &str,
    client: Vec<Mount>,
    seccomp: Option<Value>,
    kept: &mut Vec<OwnedFd>,
) -> Result<Config, LaunchError> {
    let process = process(&ProcessParts {
        argv: &spec.argv,
        env: &spec.env,
        cwd: &spec.cwd,
        user: (spec.uid, spec.gid),
        groups: &spec.groups,
        tty: spec.tty,
        console_size: spec.console_size,
        capabilities: &spec.capabilities,
        no_new_privs: spec.no_new_privs,
        rlimits: &spec.rlimits,
        oom_score_adj: spec.oom_score_adj,
        apparmor_profile: spec.apparmor_profile.as_deref(),
    })?;
    let devices = devices(spec).map_err(|e| LaunchError::prepare("list", "/dev", e))?;
    let propagation = rootfs_propagation(spec);
    let standard = mounts::standard(spec).into_iter();
    let mounts: Vec<Mount> = standard.chain(client).collect();
    let mut sysctl: std::collections::BTreeMap<_, _> = spec.sysctls.iter().cloned().collect();
    if !spec.host_uts && !spec.domainname.is_empty() {
        // Runtimes of 1.0 know no domain name.
        sysctl
            .entry("kernel.domainname".to_owned())
            .or_insert_with(|| spec.domainname.clone());
    }
    let remap = spec.user.as_ref().map(|user| &user.remap);
    Ok(Config {
        oci_version: VERSION,
        process,
        root: Root {
            path: ROOTFS.to_owned(),
            readonly: spec.readonly_rootfs,
        },
        hostname: match spec.host_uts {
            true => String::new(),
            false => spec.hostname.clone(),
        },
        mounts,
        hooks: spec.hooks.hooks.clone(),
        annotations: spec.annotations.clone(),
        linux: Linux {
            namespaces: namespaces(spec, kept)?,
            uid_mappings: mappings(remap.map(|remap| remap.ranges().0)),
            gid_mappings: mappings(remap.map(|remap| remap.ranges().1)),
            devices,
            cgroups_path: cgroups_path.to_owned(),
            resources: resources(&spec.cgroup.limits),
            rootfs_propagation: propagation.to_owned(),
            seccomp,
            sysctl,
            masked_paths: spec.masked_paths.clone(),
            readonly_paths: spec.readonly_paths.clone(),
        },
    })
}

/// `config.json` of a container of the built-in launcher, for its hooks to read: what it gets, with the root file system
/// where they find it. It has no filter and no paths of namespaces, which nobody could follow later.
pub(crate) fn document(spec: &LaunchSpec, root: &Path) -> Result<Vec<u8>, LaunchError> {
    let cgroup = format!("{}/{}", spec.cgroup.parent.trim_end_matches('/'), spec.id);
    let client = mounts::described(spec);
    let mut config = config(spec, &cgroup, client, None, &mut Vec::new())?;
    config.root.path = root.display().to_string();
    for namespace in &mut config.linux.namespaces {
        namespace.path = None;
    }
    serde_json::to_vec(&config).map_err(|e| LaunchError::prepare("write", "config.json", e))
}

fn namespaces(spec: &LaunchSpec, kept: &mut Vec<OwnedFd>) -> Result<Vec<Namespace>, LaunchError> {
    let mut all = vec![Namespace {
        kind: "mount",
        path: None,
    }];
    for (kind, mode) in [
        ("network", &spec.network),
        ("pid", &spec.pid),
        ("ipc", &spec.ipc),
    ] {
        let path = match mode {
            NamespaceMode::New => None,
            NamespaceMode::Host => continue,
            NamespaceMode::Join(fd) => Some(path_of(fd, kept)?),
        };
        all.push(Namespace { kind, path });
    }
    if let Some(user) = &spec.user {
        // Not by a descriptor: runc takes what lies beside this file for the namespace's maps.
        let path = user
            .join
            .as_ref()
            .map(|(_, pid)| format!("/proc/{pid}/ns/user"));
        all.push(Namespace { kind: "user", path });
    }
    let others = [("uts", !spec.host_uts), ("cgroup", spec.cgroup_namespace)];
    let new = others.into_iter().filter(|(_, new)| *new);
    all.extend(new.map(|(kind, _)| Namespace { kind, path: None }));
    Ok(all)
}

fn mappings(ranges: Option<&[IdRange]>) -> Vec<IdMapping> {
    let mapping = |range: &IdRange| IdMapping {
        inside: range.inside,
        outside: range.outside,
        size: range.count,
    };
    ranges.unwrap_or_default().iter().map(mapping).collect()
}

/// A path to what this process holds open, for another one.
fn path_of(fd: &OwnedFd, kept: &mut Vec<OwnedFd>) -> Result<String, LaunchError> {
    let copy = rustix::io::fcntl_dupfd_cloexec(fd, 3)
        .map_err(|e| LaunchError::prepare("duplicate", "a namespace", e))?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), copy.as_raw_fd());
    kept.push(copy);
    Ok(path)
}

/// Mounts that share with the host need a root that lets them (as dockerd decides it).
fn rootfs_propagation(spec: &LaunchSpec) -> &'static str {
    let has = |wanted| spec.mounts.iter().any(|m| m.propagation == wanted);
    match (has(Propagation::Shared), has(Propagation::Slave)) {
        (true, _) => "shared",
        (false, true) => "rslave",
        (false, false) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_in_the_specifications_words() {
        let parts = ProcessParts {
            argv: &[c"sh".into()],
            env: &[c"A=b".into()],
            cwd: "",
            user: (1, 2),
            groups: &[3],
            tty: true,
            console_size: Some((24, 80)),
            capabilities: &CapabilityMasks {
                bounding: 1 | 1 << 21,
                ..CapabilityMasks::default()
            },
            no_new_privs: true,
            rlimits: &[Rlimit {
                resource: libc::RLIMIT_NOFILE,
                soft: 1,
                hard: u64::MAX,
            }],
            oom_score_adj: Some(-5),
            apparmor_profile: Some(c"p"),
        };
        let json = serde_json::to_value(process(&parts).expect("process")).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!({
                "terminal": true,
                "consoleSize": {"height": 24, "width": 80},
                "user": {"uid": 1, "gid": 2, "additionalGids": [3]},
                "args": ["sh"], "env": ["A=b"], "cwd": "/",
                "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_ADMIN"], "effective": [], "permitted": [],
                    "inheritable": [], "ambient": []},
                "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": u64::MAX}],
                "noNewPrivileges": true, "oomScoreAdj": -5, "apparmorProfile": "p",
            })
        );
        let wrong = CString::new(vec![0xff]).expect("no NUL");
        assert!(strings("argument", &[wrong]).is_err());
    }
}
