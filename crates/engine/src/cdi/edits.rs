//! From what specifications say to what a container gets.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use gantry_launch::{
    BindMount, DeviceNode, Hook, HookKind, Hooks, Propagation, Readonly, TmpfsMount,
};

use super::spec;
use crate::command::clean_path;

/// Permission bits of a node for which no others are given.
const DEFAULT_MODE: u32 = 0o666;
/// Where the kernel's resource control is mounted on a machine that has it.
const RESCTRL: &str = "/sys/fs/resctrl/schemata";

/// A node and how it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) node: DeviceNode,
    /// `rwm`, or some of it.
    pub(crate) access: String,
}

/// What devices add to a container.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    /// `NAME=value`; later ones win.
    pub(crate) env: Vec<String>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) mounts: Vec<BindMount>,
    pub(crate) tmpfs: Vec<TmpfsMount>,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    pub(crate) hooks: Hooks,
}

impl Edits {
    /// Adds what one part of a specification says.
    pub(super) fn add(&mut self, edits: &spec::ContainerEdits) -> Result<(), String> {
        // Without resource control in the kernel the class has no effect, as under dockerd's runtime.
        if edits.intel_rdt.is_some() && fs::exists(RESCTRL).unwrap_or(false) {
            return Err("intelRdt is not supported".to_owned());
        }
        self.env.extend(edits.env.iter().cloned());
        for node in &edits.device_nodes {
            let node = device_node(node)?;
            self.nodes.retain(|other| other.node.path != node.node.path);
            self.nodes.push(node);
        }
        for mount in &edits.mounts {
            self.add_mount(mount)?;
        }
        for gid in &edits.additional_gids {
            if *gid != 0 && !self.groups.contains(gid) {
                self.groups.push(*gid);
            }
        }
        for hook in &edits.hooks {
            // Its name was checked with the specification.
            let kind = HookKind::from_name(&hook.hook_name)
                .ok_or_else(|| format!("unknown hook name {:?}", hook.hook_name))?;
            self.hooks.entry(kind).or_default().push(Hook {
                path: hook.path.clone(),
                args: hook.args.clone(),
                env: hook.env.clone(),
                timeout: hook.timeout,
            });
        }
        Ok(())
    }

    /// A later mount takes the place of an earlier one at the same target.
    fn add_mount(&mut self, mount: &spec::Mount) -> Result<(), String> {
        let target = absolute(&mount.container_path);
        self.mounts.retain(|other| other.target != target);
        self.tmpfs.retain(|other| other.target != target);
        let is_bind = mount.options.iter().any(|o| o == "bind" || o == "rbind");
        match mount.kind.as_str() {
            _ if is_bind => self.mounts.push(bind(mount, target)?),
            "tmpfs" => self.tmpfs.push(TmpfsMount {
                target,
                // The launcher's own defaults are stricter than those of a plain mount.
                options: format!("suid,dev,exec,{}", mount.options.join(",")),
            }),
            kind => {
                let (host, inside) = (&mount.host_path, &mount.container_path);
                let why = match kind {
                    "" | "bind" => "no such device".to_owned(),
                    kind => format!("file system type {kind} is not supported"),
                };
                return Err(format!(
                    "error mounting {host:?} to rootfs at {inside:?}: mount src={host}, dst={inside}: {why}"
                ));
            }
        }
        Ok(())
    }

    /// Leaves out what the client mounts something over.
    pub(crate) fn give_way(&mut self, targets: &[&str]) {
        let hidden = |target: &str| {
            let below = |at: &&str| {
                let rest = target.strip_prefix(at.trim_end_matches('/'));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            targets.iter().any(below)
        };
        self.mounts.retain(|mount| !hidden(&mount.target));
        self.tmpfs.retain(|mount| !hidden(&mount.target));
    }

    /// Puts the variables in place of others of their name, or behind all.
    pub(crate) fn apply_env(&self, env: &mut Vec<String>) {
        let name = |one: &str| one.split('=').next().unwrap_or_default().to_owned();
        for one in &self.env {
            match env.iter_mut().find(|old| name(old) == name(one)) {
                Some(old) => old.clone_from(one),
                None => env.push(one.clone()),
            }
        }
    }
}

fn absolute(path: &str) -> String {
    clean_path(&format!("/{path}"))
}

/// A node with its numbers, from the specification or from the host.
fn device_node(wanted: &spec::DeviceNode) -> Result<Node, String> {
    let given = wanted.major.unwrap_or(0) != 0 && matches!(wanted.kind.as_str(), "b" | "c" | "u");
    let (block, device) = match given {
        true => (wanted.kind == "b", numbers(wanted.major, wanted.minor)?),
        false => on_host(wanted)?,
    };
    Ok(Node {
        node: DeviceNode {
            path: absolute(&wanted.path),
            block,
            device,
            mode: wanted.file_mode.unwrap_or(DEFAULT_MODE) & 0o7777,
            uid: wanted.uid.unwrap_or(0),
            gid: wanted.gid.unwrap_or(0),
        },
        access: match wanted.permissions.as_str() {
            "" => "rwm".to_owned(),
            given => given.to_owned(),
        },
    })
}

fn numbers(major: Option<i64>, minor: Option<i64>) -> Result<u64, String> {
    let one = |n: Option<i64>| u32::try_from(n.unwrap_or(0)).map_err(|_| "invalid device number");
    Ok(rustix::fs::makedev(one(major)?, one(minor)?))
}

fn on_host(wanted: &spec::DeviceNode) -> Result<(bool, u64), String> {
    let path = match wanted.host_path.as_str() {
        "" => &wanted.path,
        given => given,
    };
    if wanted.kind == "p" {
        return Err(format!(
            "CDI device {:?}: pipes are not supported",
            wanted.path
        ));
    }
    let failed = |why: &str| format!("failed to stat CDI host device {path:?}: {why}");
    let meta = fs::symlink_metadata(path).map_err(|e| failed(&words(&e)))?;
    let found = match meta.file_type() {
        kind if kind.is_block_device() => "b",
        kind if kind.is_char_device() => "c",
        kind if kind.is_fifo() => "p",
        _ => return Err(failed("not a device node")),
    };
    if !wanted.kind.is_empty() && wanted.kind != found {
        return Err(format!(
            "CDI device ({:?}, {path:?}), host type mismatch ({}, {found})",
            wanted.path, wanted.kind
        ));
    }
    if found == "p" {
        return Err(format!(
            "CDI device {:?}: pipes are not supported",
            wanted.path
        ));
    }
    let device = match wanted.major.unwrap_or(0) {
        0 => meta.rdev(),
        _ => numbers(wanted.major, wanted.minor)?,
    };
    Ok((found == "b", device))
}

fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::ENOTDIR) => "not a directory".to_owned(),
        _ => error.to_string(),
    }
}

fn bind(mount: &spec::Mount, target: String) -> Result<BindMount, String> {
    let mut bind = BindMount {
        source: mount.host_path.clone().into(),
        target,
        non_recursive: !mount.options.iter().any(|o| o == "rbind"),
        ..BindMount::default()
    };
    for option in &mount.options {
        let attribute = match option.as_str() {
            "nosuid" => libc::MOUNT_ATTR_NOSUID,
            "nodev" => libc::MOUNT_ATTR_NODEV,
            "noexec" => libc::MOUNT_ATTR_NOEXEC,
            "noatime" => libc::MOUNT_ATTR_NOATIME,
            "nodiratime" => libc::MOUNT_ATTR_NODIRATIME,
            _ => 0,
        };
        bind.attributes |= attribute;
        match option.as_str() {
            "ro" => bind.readonly = Readonly::TopOnly,
            "rw" => bind.readonly = Readonly::No,
            "rro" => bind.readonly = Readonly::ForceRecursive,
            "private" | "rprivate" => bind.propagation = Propagation::Private,
            "slave" | "rslave" => bind.propagation = Propagation::Slave,
            "shared" | "rshared" => bind.propagation = Propagation::Shared,
            "bind" | "rbind" | "suid" | "dev" | "exec" | "defaults" | "relatime" | "norelatime"
            | "async" | "atime" => {}
            _ if attribute != 0 => {}
            other => {
                return Err(format!(
                    "invalid mount {:?} at {:?}: bind mounts cannot have any filesystem-specific options applied ({other})",
                    mount.host_path, mount.container_path
                ));
            }
        }
        if matches!(option.as_str(), "private" | "slave" | "shared") {
            bind.propagation_top_only = true;
        }
    }
    Ok(bind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(json: &str) -> Result<Edits, String> {
        let mut edits = Edits::default();
        edits.add(&serde_json::from_str(json).unwrap())?;
        Ok(edits)
    }

    #[test]
    fn nodes() {
        let found = edits(
            r#"{"deviceNodes":[{"path":"/dev/a","hostPath":"/dev/null","fileMode":384,"uid":7},
                {"path":"dev/b","type":"c","major":1,"minor":5,"permissions":"r"}, {"path":"/dev/full"},
                {"path":"/dev/a","hostPath":"/dev/zero"}]}"#,
        )
        .unwrap();
        let at = |at: usize| &found.nodes[at];
        assert_eq!(found.nodes.len(), 3);
        assert_eq!(
            (at(0).node.path.as_str(), at(0).access.as_str()),
            ("/dev/b", "r")
        );
        assert_eq!(at(0).node.device, rustix::fs::makedev(1, 5));
        assert_eq!(
            (at(1).node.device, at(1).node.mode),
            (rustix::fs::makedev(1, 7), 0o666)
        );
        assert_eq!(
            (at(2).node.path.as_str(), at(2).node.device),
            ("/dev/a", rustix::fs::makedev(1, 5))
        );
        for (json, text) in [
            (
                r#"{"path":"/dev/nope"}"#,
                "failed to stat CDI host device \"/dev/nope\": no such file or directory",
            ),
            (
                r#"{"path":"/x","hostPath":"/etc/passwd"}"#,
                "failed to stat CDI host device \"/etc/passwd\": not a device node",
            ),
            (
                r#"{"path":"/dev/null","type":"b"}"#,
                "CDI device (\"/dev/null\", \"/dev/null\"), host type mismatch (b, c)",
            ),
            (
                r#"{"path":"/x","type":"c","major":-1}"#,
                "invalid device number",
            ),
        ] {
            let error = edits(&format!(r#"{{"deviceNodes":[{json}]}}"#)).unwrap_err();
            assert_eq!(error, text);
        }
    }

    #[test]
    fn mounts_and_hooks() {
        let mut found = edits(
            r#"{"mounts":[{"hostPath":"/etc","containerPath":"/a/x","options":["ro","nosuid","rbind"]},
                {"hostPath":"/usr","containerPath":"b","options":["bind","rslave"]},
                {"hostPath":"tmpfs","containerPath":"/t","type":"tmpfs","options":["size=1m"]}]}"#,
        )
        .unwrap();
        let first = &found.mounts[0];
        assert_eq!(
            (first.readonly, first.non_recursive),
            (Readonly::TopOnly, false)
        );
        assert_eq!(first.attributes, libc::MOUNT_ATTR_NOSUID);
        assert_eq!(
            (
                found.mounts[1].target.as_str(),
                found.mounts[1].non_recursive
            ),
            ("/b", true)
        );
        assert_eq!(found.tmpfs[0].options, "suid,dev,exec,size=1m");
        found.give_way(&["/a", "/tt"]);
        assert_eq!((found.mounts.len(), found.tmpfs.len()), (1, 1));
        for (json, part) in [
            (
                r#"{"hostPath":"/etc","containerPath":"/x"}"#,
                "no such device",
            ),
            (
                r#"{"hostPath":"/etc","containerPath":"/x","type":"nfs"}"#,
                "type nfs is not supported",
            ),
            (
                r#"{"hostPath":"/etc","containerPath":"/x","options":["bind","zz"]}"#,
                "filesystem-specific",
            ),
        ] {
            let error = edits(&format!(r#"{{"mounts":[{json}]}}"#)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let hooks = r#"{"hooks":[{"hookName":"createContainer","path":"/a","args":["a","b"],"timeout":3},
            {"hookName":"poststop","path":"/c"},{"hookName":"createContainer","path":"/d","env":["A=b"]}]}"#;
        let hooks = edits(hooks).unwrap().hooks;
        let paths = |kind| -> Vec<&str> { hooks[&kind].iter().map(|h| h.path.as_str()).collect() };
        assert_eq!(paths(HookKind::CreateContainer), ["/a", "/d"]);
        assert_eq!(paths(HookKind::Poststop), ["/c"]);
        assert_eq!(hooks[&HookKind::CreateContainer][0].timeout, Some(3));
    }

    #[test]
    fn variables_replace_those_of_their_name() {
        let found = edits(r#"{"env":["A=2","N=1"],"additionalGids":[0,5,5]}"#).unwrap();
        let mut env = vec!["A=1".to_owned(), "AB=1".to_owned()];
        found.apply_env(&mut env);
        assert_eq!(env, ["A=2", "AB=1", "N=1"]);
        assert_eq!(found.groups, [5]);
    }
}
