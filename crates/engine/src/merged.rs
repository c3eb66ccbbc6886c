//! Looks up a file in layers as the overlay of them will show it, before the overlay is mounted: whiteouts and opaque
//! directories hide what is below, symbolic links are followed across layers and never leave the root.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::EngineError;

/// Symbolic links followed on the way to a file, as the kernel.
pub const MAX_LINK_HOPS: usize = 40;
/// Components walked on the way to a file, those of links too.
pub const MAX_STEPS: usize = 512;
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// One merged directory: its parts, top first.
type Parts = Vec<Rc<OwnedFd>>;

enum Found {
    Dir(Parts),
    Link(Vec<u8>),
    /// An `O_PATH` descriptor.
    Other(OwnedFd),
    Nothing,
}

/// The merged root of some layers.
pub(crate) struct Merged {
    roots: Parts,
}

fn failed(e: Errno) -> EngineError {
    EngineError::io("look into the layers of the container".to_owned(), e.into())
}

impl Merged {
    /// Opens the layers, top first; one that is not there is empty. Blocks.
    pub(crate) fn open(layers: &[impl AsRef<Path>]) -> Result<Self, EngineError> {
        let mut roots = Parts::with_capacity(layers.len());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for layer in layers {
            let layer = layer.as_ref();
            match rustix::fs::open(layer, flags, Mode::empty()) {
                Ok(root) => roots.push(Rc::new(root)),
                Err(Errno::NOENT) => {}
                Err(e) => {
                    return Err(EngineError::io(
                        format!("open {}", layer.display()),
                        e.into(),
                    ));
                }
            }
        }
        Ok(Self { roots })
    }

    /// The file at `path` (an `O_PATH` descriptor, of any kind but a directory or a link), if there is one. Blocks.
    pub(crate) fn find(&self, path: &str) -> Result<Option<OwnedFd>, EngineError> {
        let mut pending = components(path.as_bytes());
        let mut walked: Vec<Vec<u8>> = Vec::new();
        let mut parts = self.roots.clone();
        let (mut hops, mut steps) = (0, 0);
        while let Some(name) = pending.pop() {
            steps += 1;
            if steps > MAX_STEPS {
                return Ok(None);
            }
            if name == b".." {
                walked.pop();
                parts = self.directory(&walked)?;
                continue;
            }
            match step(&parts, &name)? {
                Found::Dir(below) => {
                    parts = below;
                    walked.push(name);
                }
                Found::Link(target) => {
                    hops += 1;
                    if hops > MAX_LINK_HOPS {
                        return Ok(None);
                    }
                    if target.starts_with(b"/") {
                        walked.clear();
                        parts = self.roots.clone();
                    }
                    pending.extend(components(&target));
                }
                Found::Other(file) => return Ok(pending.is_empty().then_some(file)),
                Found::Nothing => return Ok(None),
            }
        }
        Ok(None)
    }

    /// A directory that was walked before.
    fn directory(&self, walked: &[Vec<u8>]) -> Result<Parts, EngineError> {
        let mut parts = self.roots.clone();
        for name in walked {
            match step(&parts, name)? {
                Found::Dir(below) => parts = below,
                _ => return Ok(Parts::new()),
            }
        }
        Ok(parts)
    }
}

/// Last first, as a stack.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .rev()
        .collect()
}

/// One name in a merged directory.
fn step(parts: &Parts, name: &[u8]) -> Result<Found, EngineError> {
    let Ok(name) = CString::new(name) else {
        return Ok(Found::Nothing);
    };
    let mut below = Parts::new();
    for part in parts {
        let stat = match rustix::fs::statat(&**part, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NAMETOOLONG) => continue,
            Err(e) => return Err(failed(e)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = rustix::fs::openat(&**part, &name, flags, Mode::empty());
                let dir = dir.map_err(failed)?;
                let opaque = is_opaque(&dir);
                below.push(Rc::new(dir));
                if opaque {
                    break;
                }
            }
            // What is no directory hides what is below, and is hidden by a directory above.
            _ if !below.is_empty() => break,
            FileType::CharacterDevice if stat.st_rdev == 0 => break,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&**part, &name, Vec::new()).map_err(failed)?;
                return Ok(Found::Link(target.into_bytes()));
            }
            _ => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&**part, &name, flags, Mode::empty());
                return file.map(Found::Other).map_err(failed);
            }
        }
    }
    if below.is_empty() {
        Ok(Found::Nothing)
    } else {
        Ok(Found::Dir(below))
    }
}

fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0; 1];
    // No such attribute, or a file system without any: not opaque.
    matches!(rustix::fs::fgetxattr(dir, OPAQUE_XATTR, &mut value), Ok(1)) && value == *b"y"
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use super::*;

    fn write(layer: &Path, path: &str, text: &str) {
        let path = layer.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn whiteout(layer: &Path, path: &str) {
        let path = layer.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mode = Mode::empty();
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, mode, 0).unwrap();
    }

    fn read(layers: &[PathBuf], path: &str) -> Option<String> {
        let file = Merged::open(layers).unwrap().find(path).unwrap()?;
        let mut text = String::new();
        std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        Some(text)
    }

    /// Needs root, for whiteouts.
    #[test]
    fn a_file_is_what_the_overlay_would_show() {
        let dir = tempfile::tempdir().unwrap();
        let layer = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (top, mid, low) = (layer("top"), layer("mid"), layer("low"));
        let layers = [
            dir.path().join("absent"),
            top.clone(),
            mid.clone(),
            low.clone(),
        ];
        write(&low, "etc/passwd", "low");
        assert_eq!(read(&layers, "etc/passwd").unwrap(), "low");
        // A link in one layer, its target in another, through a link to a directory in a third.
        symlink("/conf/users", mid.join("passwd-link")).unwrap();
        symlink("real/../real", top.join("conf")).unwrap();
        write(&low, "real/users", "real");
        assert_eq!(read(&layers, "passwd-link").unwrap(), "real");
        // A directory that was removed, and made anew without the file.
        whiteout(&mid, "etc");
        assert_eq!(read(&layers, "etc/passwd"), None);
        std::fs::create_dir(top.join("etc")).unwrap();
        assert_eq!(read(&layers, "etc/passwd"), None);
        std::fs::remove_file(mid.join("etc")).unwrap();
        assert_eq!(read(&layers, "etc/passwd").unwrap(), "low");
        let etc = std::fs::File::open(top.join("etc")).unwrap();
        rustix::fs::fsetxattr(&etc, OPAQUE_XATTR, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        assert_eq!(read(&layers, "etc/passwd"), None);
        whiteout(&top, "real/users");
        assert_eq!(read(&layers, "passwd-link"), None);
    }

    #[test]
    fn nothing_outside_of_the_root_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        write(&root, "inside", "inside");
        write(dir.path(), "outside", "outside");
        symlink("../../../../outside", root.join("up")).unwrap();
        symlink(dir.path().join("outside"), root.join("absolute")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/proc/self/root/etc/passwd", root.join("proc")).unwrap();
        symlink("../../inside", root.join("stays")).unwrap();
        let layers = [root];
        for path in [
            "up",
            "absolute",
            "loop",
            "proc",
            "../outside",
            "inside/x",
            "",
        ] {
            assert_eq!(read(&layers, path), None, "{path}");
        }
        assert_eq!(read(&layers, "stays").unwrap(), "inside");
    }
}
