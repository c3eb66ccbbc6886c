//! tmpfs mounts as clients ask for them.

use std::os::fd::OwnedFd;

use rustix::mount::MountAttrFlags;

use super::dev;
use crate::error::LaunchError;
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
    let mut values = vec![("mode", "1777")];
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

/// Mounts it, detached.
pub(crate) fn mount(spec: &TmpfsMount) -> Result<OwnedFd, LaunchError> {
    let (options, attributes) = parse(&spec.options)?;
    dev::new_fs("tmpfs", "tmpfs", &options, attributes)
        .map_err(|e| LaunchError::prepare("mount tmpfs", &spec.target, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_dockers() {
        let (values, attributes) = parse("").expect("valid");
        assert_eq!(values, [("mode", "1777")]);
        assert_eq!(attributes, dev::nosuid_nodev_noexec());
        let (values, attributes) = parse("rw,size=64m,mode=700,exec,ro").expect("valid");
        assert_eq!(values, [("size", "64m"), ("mode", "700")]);
        assert!(attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY));
        assert!(!attributes.contains(MountAttrFlags::MOUNT_ATTR_NOEXEC));
        assert!(parse("size=").is_err());
        assert!(parse("what=1").is_err());
    }
}
