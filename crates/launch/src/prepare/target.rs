//! Where a path of the client leads in the container: symbolic links are followed through all that is mounted so far.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Symbolic links followed on the way to one path, as the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Follows the symbolic links of an absolute path. `tree_of` gives the tree that a path without links falls into and the
/// rest of it there, or `None` where nothing can be seen. What does not exist is kept as it is.
pub(super) fn resolve<'t>(
    path: &str,
    tree_of: impl Fn(&str) -> Option<(BorrowedFd<'t>, String)>,
) -> io::Result<String> {
    let mut found = String::new();
    let mut left = parts(path);
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            found.truncate(found.rfind('/').unwrap_or(0));
            continue;
        }
        let parent = found.len();
        found.push('/');
        found.push_str(&part);
        let link = match tree_of(&found) {
            Some((tree, rest)) => link_at(tree, &rest)?,
            None => None,
        };
        let Some(link) = link else { continue };
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        found.truncate(if link.starts_with('/') { 0 } else { parent });
        left.extend(parts(&link));
    }
    if found.is_empty() {
        found.push('/');
    }
    Ok(found)
}

/// The first one last.
fn parts(path: &str) -> Vec<String> {
    let named = path.split('/').filter(|p| !p.is_empty() && *p != ".");
    named.rev().map(str::to_owned).collect()
}

/// What the symbolic link at this path says, if it is one.
fn link_at(tree: BorrowedFd<'_>, rest: &str) -> io::Result<Option<String>> {
    if rest.is_empty() {
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let fd = match rustix::fs::openat2(tree, rest, flags, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mode = rustix::fs::fstat(&fd)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::Symlink {
        return Ok(None);
    }
    let link = rustix::fs::readlinkat(&fd, "", Vec::new())?;
    let link = link.into_string();
    link.map(Some)
        .map_err(|_| io::ErrorKind::InvalidFilename.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_lead_from_tree_to_tree_and_never_out() {
        let (root, run) = (tempfile::tempdir(), tempfile::tempdir());
        let (root, run) = (root.expect("root"), run.expect("run"));
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("var")).expect("mkdir");
        symlink("../run", at("var/run")).expect("link");
        symlink("/proc", at("data")).expect("link");
        symlink("/../../../a/./b", at("out")).expect("link");
        symlink("loop", at("loop")).expect("link");
        symlink("/elsewhere", run.path().join("away")).expect("link");
        let open = |dir: &tempfile::TempDir| {
            rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).expect("open")
        };
        let (root, run) = (open(&root), open(&run));
        let tree_of = |path: &str| match path.strip_prefix("/run") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                Some((run.as_fd(), rest.trim_start_matches('/').to_owned()))
            }
            _ => Some((root.as_fd(), path.trim_start_matches('/').to_owned())),
        };
        for (path, leads_to) in [
            ("/", "/"),
            ("/x//y/", "/x/y"),
            ("/var/run/docker.sock", "/run/docker.sock"),
            ("/var/run/away/x", "/elsewhere/x"),
            ("/data/sys", "/proc/sys"),
            ("/out/../c", "/a/c"),
        ] {
            assert_eq!(resolve(path, tree_of).expect("path"), leads_to, "{path}");
        }
        assert!(resolve("/loop/x", tree_of).is_err());
    }
}
