//! The driver `local`: names, options, directories. Everything that touches files blocks.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::Volumes;
use crate::EngineError;
use crate::model::Volume;

/// The directory of a volume that containers see.
pub(crate) const DATA_DIR: &str = "_data";
/// A file beside it until the record is durable: what is there with it and without a record was never announced.
const NEW_MARKER: &str = ".new";
/// Begin of the names of unfinished copies beside it.
pub(crate) const COPY_PREFIX: &str = ".copy-";

/// Checks a name, with the words of dockerd.
pub(super) fn check_name(name: &str) -> Result<(), EngineError> {
    if name.len() == 1 {
        return Err(EngineError::InvalidParameter(
            "volume name is too short, names should be at least two alphanumeric characters"
                .to_owned(),
        ));
    }
    let mut bytes = name.bytes();
    let valid = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if valid {
        return Ok(());
    }
    Err(EngineError::InvalidParameter(format!(
        "\"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// What a volume's options make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Options<'a> {
    /// A directory of its own.
    None,
    /// A directory of the host.
    Bind { device: &'a str, readonly: bool },
    /// A file system in memory.
    Tmpfs { options: &'a str },
}

/// Checks the options; what they need besides is looked at when it is mounted.
pub(super) fn check_options(options: Option<&BTreeMap<String, String>>) -> Result<(), EngineError> {
    parse_options(options).map(drop)
}

fn parse_options(options: Option<&BTreeMap<String, String>>) -> Result<Options<'_>, EngineError> {
    let invalid = |text: String| Err(EngineError::InvalidParameter(text));
    let Some(options) = options.filter(|o| !o.is_empty()) else {
        return Ok(Options::None);
    };
    const KNOWN: &[&str] = &["type", "o", "device", "size"];
    if let Some(unknown) = options.keys().find(|k| !KNOWN.contains(&k.as_str())) {
        return invalid(format!("invalid option: \"{unknown}\""));
    }
    let get = |key: &str| options.get(key).map_or("", String::as_str);
    if let Some(size) = options.get("size") {
        if !size.starts_with(|c: char| c.is_ascii_digit()) {
            return invalid(format!("invalid size: '{size}'"));
        }
        return invalid("quota size requested but no quota support".to_owned());
    }
    let (kind, device, o) = (get("type"), get("device"), get("o"));
    if device.is_empty() {
        return invalid("missing required option: \"device\"".to_owned());
    }
    let words: Vec<&str> = o.split(',').collect();
    if words.contains(&"bind") || words.contains(&"rbind") {
        return Ok(Options::Bind {
            device,
            readonly: words.contains(&"ro"),
        });
    }
    match kind {
        "" => invalid("missing required option: \"type\"".to_owned()),
        "tmpfs" => Ok(Options::Tmpfs { options: o }),
        other => Err(EngineError::NotImplemented(format!(
            "volumes of type {other} are not implemented yet"
        ))),
    }
}

/// Makes the directory of all volumes.
pub(super) fn make_top(top: &Path) -> Result<(), EngineError> {
    let made = DirBuilder::new().recursive(true).mode(0o701).create(top);
    made.map_err(|e| EngineError::io(format!("make directory {}", top.display()), e))
}

/// Makes the directory of one, for containers whose root is this user and group of the host; what is there stays.
pub(super) fn make_directory(dir: &Path, owner: Option<(u32, u32)>) -> Result<(), EngineError> {
    let failed = |e: io::Error| {
        let reason = match e.raw_os_error() {
            Some(libc::ENAMETOOLONG) => "file name too long".to_owned(),
            _ => e.to_string(),
        };
        let dir = dir.display();
        EngineError::System(format!(
            "error while creating volume root path '{dir}': mkdir {dir}: {reason}"
        ))
    };
    let data = dir.join(DATA_DIR);
    if data.is_dir() {
        return Ok(());
    }
    let top = DirBuilder::new().recursive(true).mode(0o701).create(dir);
    top.map_err(failed)?;
    fs::write(dir.join(NEW_MARKER), "").map_err(failed)?;
    DirBuilder::new()
        .mode(0o755)
        .create(&data)
        .map_err(failed)?;
    // Whatever the daemon's umask.
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    match owner {
        Some((uid, gid)) => std::os::unix::fs::chown(&data, Some(uid), Some(gid)).map_err(failed),
        None => Ok(()),
    }
}

/// The record is durable.
pub(super) fn settle(dir: &Path) -> Result<(), EngineError> {
    match fs::remove_file(dir.join(NEW_MARKER)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(EngineError::io(format!("settle {}", dir.display()), e))
        }
        _ => Ok(()),
    }
}

/// Deletes a directory that no record will name, if it was made for one.
pub(super) fn discard(dir: &Path) -> Result<(), EngineError> {
    if dir.join(NEW_MARKER).exists() {
        return crate::container::files::delete_tree(dir);
    }
    Ok(())
}

/// Moves a directory out of the way, or back.
pub(super) fn set_aside(dir: &Path, to: &Path) -> Result<(), EngineError> {
    match fs::rename(dir, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(EngineError::io(format!("unlink {}", dir.display()), e))
        }
        _ => Ok(()),
    }
}

/// Removes what a kill left: volumes that were never announced, empty directories without a record, and unfinished
/// copies. Other content stays.
pub(super) fn sweep(top: &Path, known: &dyn Fn(&str) -> bool) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let dir = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let copies = fs::read_dir(&dir).into_iter().flatten().flatten();
        for copy in copies.filter(|c| c.file_name().to_string_lossy().starts_with(COPY_PREFIX)) {
            if let Err(e) = fs::remove_dir_all(copy.path()) {
                tracing::warn!(path = %copy.path().display(), error = %e, "an unfinished copy is left");
            }
        }
        let settled = if known(&name) {
            settle(&dir)
        } else {
            discard(&dir)
        };
        if let Err(e) = settled {
            tracing::warn!(error = %e, "a new volume's directory is left as it is");
        }
        if known(&name) || !dir.exists() {
            continue;
        }
        let removed = match fs::remove_dir(dir.join(DATA_DIR)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => fs::remove_dir(&dir),
        };
        if let Err(e) = removed {
            tracing::warn!(path = %dir.display(), error = %e, "a directory of no volume is left alone");
        }
    }
}

/// Where a volume's content is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The directory.
    pub(crate) path: PathBuf,
    /// A directory of the driver's own, which can be replaced.
    pub(crate) own: bool,
    /// Nothing written there outlives the container.
    pub(crate) volatile: bool,
    /// The volume itself is read-only.
    pub(crate) readonly: bool,
}

/// Where it is, on the host.
pub(crate) fn place(volumes: &Volumes, volume: &Volume) -> Place {
    let data = volumes.dir(&volume.name).join(DATA_DIR);
    match parse_options(volume.options.as_ref()) {
        Ok(Options::Bind { device, readonly }) => Place {
            path: device.into(),
            own: false,
            volatile: false,
            readonly,
        },
        Ok(Options::Tmpfs { .. }) => Place {
            path: data,
            own: false,
            volatile: true,
            readonly: false,
        },
        _ => Place {
            path: data,
            own: true,
            volatile: false,
            readonly: false,
        },
    }
}

/// Whether it is in the host's mount table while it is used, so that its containers share one file system.
pub(crate) fn is_mounted_volume(volume: &Volume) -> bool {
    matches!(
        parse_options(volume.options.as_ref()),
        Ok(Options::Tmpfs { .. })
    )
}

/// Flags of mounts by their words; the rest is for the file system.
fn mount_flags(options: &str) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut rest = Vec::new();
    for word in options.split(',').filter(|w| !w.is_empty()) {
        match word {
            "ro" => flags |= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "noatime" => flags |= MountFlags::NOATIME,
            "rw" | "suid" | "dev" | "exec" | "relatime" | "defaults" => {}
            other => rest.push(other),
        }
    }
    (flags, rest.join(","))
}

/// The words of dockerd for a volume that cannot be mounted.
pub(crate) fn cannot_mount(
    data: &Path,
    device: &str,
    flags: u32,
    error: &io::Error,
) -> EngineError {
    let data = data.display();
    let text = error.to_string();
    let reason = match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory",
        Some(libc::EINVAL) => "invalid argument",
        Some(libc::EPERM) => "operation not permitted",
        _ => &text,
    };
    EngineError::System(format!(
        "error while mounting volume '{data}': failed to mount local volume: mount {device}:{data}, flags: {flags:#x}: {reason}"
    ))
}

/// Puts a volume that is a file system of its own in place, if it is not there.
pub(super) fn mount(volumes: &Volumes, volume: &Volume) -> Result<(), EngineError> {
    let Ok(Options::Tmpfs { options }) = parse_options(volume.options.as_ref()) else {
        return Ok(());
    };
    let data = volumes.dir(&volume.name).join(DATA_DIR);
    let failed = |flags: MountFlags, e: io::Error| cannot_mount(&data, "tmpfs", flags.bits(), &e);
    if is_mount_point(&data).map_err(|e| failed(MountFlags::empty(), e))? {
        return Ok(());
    }
    let (flags, rest) = mount_flags(options);
    let rest = std::ffi::CString::new(rest)
        .map_err(|_| failed(flags, io::ErrorKind::InvalidInput.into()))?;
    rustix::mount::mount("tmpfs", &data, "tmpfs", flags, rest.as_c_str())
        .map_err(|e| failed(flags, e.into()))
}

/// Takes it away again, if it is there.
pub(super) fn unmount(volumes: &Volumes, volume: &Volume) {
    if !is_mounted_volume(volume) {
        return;
    }
    let data = volumes.dir(&volume.name).join(DATA_DIR);
    if !is_mount_point(&data).unwrap_or(false) {
        return;
    }
    if let Err(e) = rustix::mount::unmount(&data, UnmountFlags::DETACH) {
        tracing::warn!(path = %data.display(), error = %e, "a volume stays mounted");
    }
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let own = rustix::fs::stat(path)?;
    let parent = rustix::fs::stat(path.join(".."))?;
    Ok(own.st_dev != parent.st_dev)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["ab", "a.b_c-d", "0f", &"a".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "/a", "a/b", ".a", "-a", "a b", "..", "aé"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn options() {
        let parse = |pairs: &[(&str, &str)]| {
            let map = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            check_options(Some(&map.collect())).map_err(|e| e.to_string())
        };
        assert_eq!(parse(&[]), Ok(()));
        assert_eq!(parse(&[("type", "tmpfs"), ("device", "tmpfs")]), Ok(()));
        assert_eq!(
            parse(&[("o", "bind"), ("device", "/x"), ("type", "none")]),
            Ok(())
        );
        for (pairs, text) in [
            (&[("foo", "1")][..], "invalid option: \"foo\""),
            (&[("type", "tmpfs")], "missing required option: \"device\""),
            (&[("size", "abc")], "invalid size: 'abc'"),
            (
                &[("size", "10m")],
                "quota size requested but no quota support",
            ),
            (&[("device", "a")], "missing required option: \"type\""),
        ] {
            assert_eq!(parse(pairs), Err(text.to_owned()));
        }
        assert!(parse(&[("type", "nfs"), ("device", ":/x")]).is_err());
    }

    #[test]
    fn directories_without_a_record_go_only_when_they_are_empty() {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["known", "empty", "full", "new"] {
            make_directory(&dir.path().join(name), None).expect("made");
        }
        for name in ["empty", "full"] {
            settle(&dir.path().join(name)).expect("settled");
        }
        for name in ["known", "full", "new"] {
            fs::write(dir.path().join(name).join("_data/f"), "x").expect("write");
        }
        fs::create_dir(dir.path().join("known/.copy-1")).expect("mkdir");
        sweep(dir.path(), &|name| name == "known");
        assert!(dir.path().join("known/_data/f").exists());
        assert!(!dir.path().join("known/.new").exists());
        assert!(!dir.path().join("new").exists());
        discard(&dir.path().join("full")).expect("not made for a record");
        assert!(!dir.path().join("known/.copy-1").exists());
        assert!(!dir.path().join("empty").exists());
        assert!(dir.path().join("full/_data/f").exists());
    }
}
