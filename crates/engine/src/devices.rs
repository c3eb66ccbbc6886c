//! From what a client asks of devices to nodes and rules. Texts are those of dockerd and its OCI runtime.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use gantry_cgroup::{Access, DeviceKind, DeviceRule, DeviceWeight, Limits, Throttle};
use gantry_launch::DeviceNode;

use crate::EngineError;
use crate::cdi::{self, Edits};
use crate::gpu;
use crate::model::{DeviceMapping, DeviceRate, DeviceRequest, HostSpec};

/// Nodes that all devices of one container may have together.
pub const MAX_DEVICE_NODES: usize = 4096;
/// Rules that Docker puts before the client's own, which it counts in its errors.
const RULES_BEFORE: usize = 16;

/// The client's devices, found on the host.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    pub(crate) nodes: Vec<DeviceNode>,
    rules: Vec<DeviceRule>,
    /// What else the devices of drivers bring.
    pub(crate) edits: Edits,
}

/// Looks the devices of a container up, those of drivers in these directories. Blocking.
pub(crate) fn resolve(host: &HostSpec, cdi_dirs: &[PathBuf]) -> Result<Devices, EngineError> {
    let mut found = Devices::default();
    for mapping in &host.devices {
        let same = mapping.host_path == mapping.container_path;
        // A privileged container has it already.
        if host.privileged && same && Path::new(&mapping.host_path).exists() {
            continue;
        }
        add(mapping, &mut found)?;
    }
    if !host.privileged {
        for rule in &host.device_cgroup_rules {
            found.rules.push(parse_rule(rule)?);
        }
    }
    for request in &host.device_requests {
        if request.driver == cdi::DRIVER && !cdi_dirs.is_empty() {
            cdi::inject(request, cdi_dirs, &mut found.edits)?;
        } else if !gpu::inject(request, cdi_dirs, &mut found.edits)? {
            return Err(no_driver(request));
        }
    }
    found.take_driver_nodes()?;
    Ok(found)
}

impl Devices {
    /// Nodes of drivers take the place of others at their paths.
    fn take_driver_nodes(&mut self) -> Result<(), EngineError> {
        for cdi::Node { node, access } in std::mem::take(&mut self.edits.nodes) {
            self.nodes.retain(|other| other.path != node.path);
            check_count(&self.nodes)?;
            self.rules.extend(rule(node.block, node.device, &access));
            self.nodes.push(node);
        }
        Ok(())
    }

    /// The rules of the container's group.
    pub(crate) fn rules(&self, privileged: bool) -> Vec<DeviceRule> {
        if privileged {
            return DeviceRule::privileged();
        }
        let mut all = DeviceRule::defaults();
        all.extend(self.rules.iter().cloned());
        all
    }
}

fn is_device(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() || meta.file_type().is_block_device()
}

fn add(mapping: &DeviceMapping, found: &mut Devices) -> Result<(), EngineError> {
    let failed = |reason: &str| {
        EngineError::System(format!(
            "error gathering device information while adding custom device {:?}: {reason}",
            mapping.host_path
        ))
    };
    let meta = fs::metadata(&mapping.host_path).map_err(|e| failed(&reason(&e)))?;
    if is_device(&meta) {
        return add_one(mapping, mapping.container_path.clone(), &meta, found);
    }
    let before = found.nodes.len();
    if meta.is_dir() {
        let root = fs::canonicalize(&mapping.host_path).map_err(|e| failed(&reason(&e)))?;
        walk(&root, &mapping.container_path, mapping, found)?;
    }
    if found.nodes.len() == before {
        return Err(failed("not a device node"));
    }
    Ok(())
}

/// Everything below a directory that is a device; what can't be looked at is left out, as by dockerd.
fn walk(
    dir: &Path,
    target: &str,
    mapping: &DeviceMapping,
    found: &mut Devices,
) -> Result<(), EngineError> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (Ok(meta), Ok(name)) = (entry.metadata(), entry.file_name().into_string()) else {
            continue;
        };
        let target = format!("{}/{name}", target.trim_end_matches('/'));
        if meta.is_dir() {
            walk(&entry.path(), &target, mapping, found)?;
        } else if is_device(&meta) {
            add_one(mapping, target, &meta, found)?;
        }
    }
    Ok(())
}

fn add_one(
    mapping: &DeviceMapping,
    path: String,
    meta: &Metadata,
    found: &mut Devices,
) -> Result<(), EngineError> {
    check_count(&found.nodes)?;
    if mapping.access.is_empty() {
        let at = RULES_BEFORE + found.nodes.len();
        return Err(runtime_error(&format!(
            "device access at {at} field cannot be empty"
        )));
    }
    let block = meta.file_type().is_block_device();
    let device = meta.rdev();
    let known: String = mapping
        .access
        .chars()
        .filter(|c| "rwm".contains(*c))
        .collect();
    found.rules.extend(rule(block, device, &known));
    found.nodes.push(DeviceNode {
        path,
        block,
        device,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
    });
    Ok(())
}

fn check_count(nodes: &[DeviceNode]) -> Result<(), EngineError> {
    if nodes.len() < MAX_DEVICE_NODES {
        return Ok(());
    }
    Err(EngineError::InvalidParameter(format!(
        "more than {MAX_DEVICE_NODES} devices"
    )))
}

/// The rule that lets a device be used.
fn rule(block: bool, device: u64, access: &str) -> Option<DeviceRule> {
    Access::parse(access).map(|access| DeviceRule {
        allow: true,
        kind: if block {
            DeviceKind::Block
        } else {
            DeviceKind::Char
        },
        major: Some(rustix::fs::major(device)),
        minor: Some(rustix::fs::minor(device)),
        access,
    })
}

fn runtime_error(reason: &str) -> EngineError {
    EngineError::System(format!(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: {reason}"
    ))
}

/// Go's words for the most usual errno.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::ENOTDIR) => "not a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// Reads `c 1:3 rwm`; numbers may be `*`.
fn parse_rule(text: &str) -> Result<DeviceRule, EngineError> {
    let invalid = || EngineError::System(format!("invalid device cgroup rule format: '{text}'"));
    let number = |n: &str| match n {
        "*" => Ok(None),
        n if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => {
            n.parse().map(Some).map_err(|_| invalid())
        }
        _ => Err(invalid()),
    };
    let mut parts = text.split(' ');
    let (Some(kind), Some(numbers), Some(access), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(invalid());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    let (major, minor) = (number(major)?, number(minor)?);
    let access = Access::parse(access)
        .filter(|_| access.len() <= 3)
        .ok_or_else(invalid)?;
    let kind = match kind {
        // The kernel's version 1 looks at nothing else then, and the OCI runtimes follow it.
        "a" => return Ok(DeviceRule::everything(true)),
        "c" => DeviceKind::Char,
        "b" => DeviceKind::Block,
        _ => return Err(invalid()),
    };
    Ok(DeviceRule {
        allow: true,
        kind,
        major,
        minor,
        access,
    })
}

fn no_driver(request: &DeviceRequest) -> EngineError {
    let sets: Vec<String> = request
        .capabilities
        .iter()
        .map(|set| format!("[{}]", set.join(" ")))
        .collect();
    EngineError::System(format!(
        "could not select device driver {:?} with capabilities: [{}]",
        request.driver,
        sets.join(" ")
    ))
}

/// Major and minor number of the device at a path. As for dockerd, another file's numbers are for the kernel to refuse.
fn numbers(path: &str) -> Result<(u32, u32), EngineError> {
    let meta = fs::metadata(path)
        .map_err(|e| EngineError::System(format!("stat {path}: {}", reason(&e))))?;
    Ok((
        rustix::fs::major(meta.rdev()),
        rustix::fs::minor(meta.rdev()),
    ))
}

/// Fills the limits of single block devices in. Blocking.
pub(crate) fn block_limits(host: &HostSpec, limits: &mut Limits) -> Result<(), EngineError> {
    let throttles = |list: &[DeviceRate]| -> Result<Vec<Throttle>, EngineError> {
        let one = |d: &DeviceRate| {
            let (major, minor) = numbers(&d.path)?;
            Ok(Throttle {
                major,
                minor,
                rate: d.rate,
            })
        };
        list.iter().map(one).collect()
    };
    let own = &host.limits;
    for device in &own.blkio_weight_devices {
        let (major, minor) = numbers(&device.path)?;
        limits.blkio_weight_devices.push(DeviceWeight {
            major,
            minor,
            weight: u16::try_from(device.rate).unwrap_or(u16::MAX),
        });
    }
    limits.read_bytes_per_s = throttles(&own.blkio_read_bytes)?;
    limits.write_bytes_per_s = throttles(&own.blkio_write_bytes)?;
    limits.read_ops_per_s = throttles(&own.blkio_read_ops)?;
    limits.write_ops_per_s = throttles(&own.blkio_write_ops)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_docker_reads_them() {
        let rule = parse_rule("c 7:* rw").unwrap();
        assert_eq!((rule.major, rule.minor), (Some(7), None));
        assert_eq!(rule.access.to_string(), "rw");
        assert_eq!(
            parse_rule("a *:* rw").unwrap(),
            DeviceRule::everything(true)
        );
        for bad in [
            "",
            "a",
            "c 1:3",
            "c 1:3 x",
            "c 1:3 rwmr",
            "d 1:3 r",
            "c 1 r",
            "c -1:3 r",
            "c 1:3 r ",
            "c 1:3 ",
            "c :3 r",
        ] {
            let text = parse_rule(bad).unwrap_err().to_string();
            assert_eq!(text, format!("invalid device cgroup rule format: '{bad}'"));
        }
    }

    #[test]
    fn requests_are_refused_by_name() {
        let dirs = [PathBuf::from("/nonexistent/cdi")];
        let text = |request: &DeviceRequest, dirs: &[PathBuf]| {
            let mut host = HostSpec::default();
            host.device_requests.push(request.clone());
            resolve(&host, dirs).unwrap_err().to_string()
        };
        let mut request = DeviceRequest {
            capabilities: vec![vec!["gpu".into(), "compute".into()], vec!["x".into()]],
            ..DeviceRequest::default()
        };
        assert_eq!(
            text(&request, &dirs),
            "could not select device driver \"\" with capabilities: [[gpu compute] [x]]"
        );
        request.driver = "cdi".into();
        request.ids = vec!["a/b=c".into(), "x".into()];
        assert_eq!(
            text(&request, &dirs),
            "CDI device injection failed: unresolvable CDI devices a/b=c, x"
        );
        assert!(text(&request, &[]).starts_with("could not select device driver \"cdi\""));
        request.has_options = true;
        assert_eq!(
            text(&request, &dirs),
            "unexpected options in CDI device request"
        );
        request.count = -1;
        assert_eq!(
            text(&request, &dirs),
            "unexpected count in CDI device request"
        );
    }

    #[test]
    fn nodes_of_drivers_take_the_place_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let spec = r#"{"cdiVersion":"0.5.0","kind":"v.com/c","devices":[{"name":"d","containerEdits":
            {"deviceNodes":[{"path":"/dev/x","hostPath":"/dev/zero","permissions":"r"}],"env":["A=1"]}}]}"#;
        std::fs::write(dir.path().join("a.json"), spec).unwrap();
        let mut host = HostSpec::default();
        host.devices.push(DeviceMapping {
            host_path: "/dev/null".into(),
            container_path: "/dev/x".into(),
            access: "rw".into(),
        });
        host.device_requests.push(DeviceRequest {
            driver: "cdi".into(),
            ids: vec!["v.com/c=d".into()],
            ..DeviceRequest::default()
        });
        let found = resolve(&host, &[dir.path().to_owned()]).unwrap();
        assert_eq!(found.nodes.len(), 1);
        assert_eq!(found.nodes[0].device, rustix::fs::makedev(1, 5));
        assert_eq!(found.edits.env, ["A=1"]);
        assert_eq!(found.rules(false).last().unwrap().minor, Some(5));
    }

    #[test]
    fn devices_are_found_with_their_rules() {
        let mut host = HostSpec::default();
        host.devices.push(DeviceMapping {
            host_path: "/dev/null".into(),
            container_path: "/dev/x".into(),
            access: "r".into(),
        });
        let found = resolve(&host, &[]).unwrap();
        assert_eq!(found.nodes[0].path, "/dev/x");
        let rules = found.rules(false);
        assert_eq!(rules.last().unwrap().access.to_string(), "r");
        assert_eq!(found.rules(true), DeviceRule::privileged());
        host.devices[0].host_path = "/etc/passwd".into();
        assert!(
            resolve(&host, &[])
                .unwrap_err()
                .to_string()
                .ends_with("\"/etc/passwd\": not a device node")
        );
        host.devices[0].host_path = "/nope".into();
        assert!(
            resolve(&host, &[])
                .unwrap_err()
                .to_string()
                .ends_with("\"/nope\": no such file or directory")
        );
    }
}
