//! The lowest layer of every container: mount points that an image may lack, so that making them does not show up as a
//! change of the container. It lies *below* the image, so whatever the image says wins.

use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

const DIRECTORIES: &[&str] = &["dev", "dev/pts", "dev/shm", "etc", "proc", "sys"];
const FILES: &[&str] = &[
    ".dockerenv",
    "dev/console",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
];

/// Makes the layer at `dir` (again, if it is there). Add it last to [`crate::RootfsSpec::lowers`].
pub fn make_init_layer(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    mode(dir, 0o755)?;
    for name in DIRECTORIES {
        match std::fs::create_dir(dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => mode(&dir.join(name), 0o755)?,
        }
    }
    for name in FILES {
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join(name))?;
        mode(&dir.join(name), 0o755)?;
    }
    match symlink("/proc/mounts", dir.join("etc/mtab")) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

fn mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}
