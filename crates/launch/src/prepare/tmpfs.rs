//! tmpfs mounts as clients ask for them.

use std::borrow::Cow;
use std::os::fd::OwnedFd;

use rustix::mount::MountAttrFlags;

use super::dev;
use crate::error::LaunchError;
use crate::remap::Remap;
use crate::spec::TmpfsMount;

/// Options with a value that are passed to the kernel as they are.
const VALUES: &[&str] = &[
    "size",
    "mode",
    "uid",
    "gid",
    "nr_inodes",
    "nr_blocks",
    "mpol",
    "huge",
];
/// Propagation: nothing in a container's private namespace has any to give.
const IGNORED: &[&str] = &[
    "rw", "private", "rprivate", "slave", "rslave", "shared", "rshared", "async", "relatime",
    "defaults",
];

/// Parameters of the file system by name, and flags of the mount.
type Parsed<'a> = (Vec<(&'a str, &'a str)>, MountAttrFlags);

/// Options for the file system and the mount, later ones win.
fn parse(options: &str) -> Result<Parsed<'_>, LaunchError> {
    let mut values = Vec::new();
    let mut attributes = dev::nosuid_nodev_noexec();
    for option in options.split(',').map(str::trim).filter(|o| !o.is_empty()) {
        match option {
            "ro" => attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
            "exec" => attributes -= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "suid" => attributes -= MountAttrFlags::MOUNT_ATTR_NOSUID,
            "dev" => attributes -= MountAttrFlags::MOUNT_ATTR_NODEV,
            "noexec" => attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "nosuid" => attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
            "nodev" => attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
            "noatime" => attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME,
            "strictatime" => attributes |= MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            "nodiratime" => attributes |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            other if IGNORED.contains(&other) => {}
            other => match other.split_once('=') {
                Some((key, value)) if VALUES.contains(&key) && !value.is_empty() => {
                    values.retain(|(known, _)| *known != key);
                    values.push((key, value));
                }
                _ => {
                    return Err(LaunchError::Invalid {
                        what: "tmpfs option",
                        value: other.to_owned(),
                    });
                }
            },
        }
    }
    Ok((values, attributes))
}

/// Mounts it, detached. Without a mode of its own it has that of the directory it covers. Its owners are given as the
/// container's ids.
pub(crate) fn mount(
    spec: &TmpfsMount,
    covered: Option<u32>,
    remap: Option<&Remap>,
) -> Result<OwnedFd, LaunchError> {
    let (mut options, attributes) = parse(&spec.options)?;
    let mode = covered.map_or_else(|| "1777".to_owned(), |mode| format!("{mode:o}"));
    if !options.iter().any(|(key, _)| *key == "mode") {
        options.push(("mode", &mode));
    }
    let on_host = |(key, value)| Ok((key, on_host(key, value, remap)?));
    let options: Vec<(&str, Cow<'_, str>)> = options
        .into_iter()
        .map(on_host)
        .collect::<Result<_, LaunchError>>()?;
    let options: Vec<(&str, &str)> = options.iter().map(|(k, v)| (*k, v.as_ref())).collect();
    dev::new_fs("tmpfs", "tmpfs", &options, attributes)
        .map_err(|e| LaunchError::mount_tmpfs(&spec.target, &flags(attributes), &spec.options, e))
}

/// The flags as mount(2) has them, for error texts.
fn flags(attributes: MountAttrFlags) -> String {
    let all = [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, "MS_RDONLY"),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, "MS_NOSUID"),
        (MountAttrFlags::MOUNT_ATTR_NODEV, "MS_NODEV"),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, "MS_NOEXEC"),
        (MountAttrFlags::MOUNT_ATTR_NODIRATIME, "MS_NODIRATIME"),
    ];
    let set = all.iter().filter(|(flag, _)| attributes.contains(*flag));
    set.map(|(_, name)| *name).collect::<Vec<_>>().join("|")
}

/// The value of an option with an id of the host in place of the container's.
fn on_host<'v>(
    key: &str,
    value: &'v str,
    remap: Option<&Remap>,
) -> Result<Cow<'v, str>, LaunchError> {
    let Some(remap) = remap.filter(|_| matches!(key, "uid" | "gid")) else {
        return Ok(value.into());
    };
    let found = value.parse().ok().and_then(|id| match key {
        "uid" => remap.host_uid(id),
        _ => remap.host_gid(id),
    });
    let id = found.ok_or_else(|| LaunchError::Invalid {
        what: "tmpfs option",
        value: format!("{key}={value}"),
    })?;
    Ok(id.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_dockers() {
        let (values, attributes) = parse("").expect("valid");
        assert!(values.is_empty());
        assert_eq!(attributes, dev::nosuid_nodev_noexec());
        let (values, attributes) = parse("rw,size=64m,mode=700,exec,ro").expect("valid");
        assert_eq!(values, [("size", "64m"), ("mode", "700")]);
        assert!(attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY));
        assert!(!attributes.contains(MountAttrFlags::MOUNT_ATTR_NOEXEC));
        assert!(parse("size=").is_err());
        assert!(parse("what=1").is_err());
    }
}
