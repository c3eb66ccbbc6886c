//! What lies under exec-root of a container of an external runtime: its bundle, and a note of which runtime it is, so
//! that a later daemon drives it by the same one whatever its configuration says then.

use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::error::LaunchError;

/// Below exec-root: bundles by container id.
const BUNDLES: &str = "oci";
/// Below exec-root: what runtimes keep themselves, by name.
const STATES: &str = "oci-state";
/// Below a bundle: directories of execs.
const EXECS: &str = "execs";
/// How often a removal is tried that something new gets in the way of.
const REMOVALS: u32 = 3;
const NOTE: &str = "runtime.json";
const CONSOLE: &str = "console.sock";
/// Longest note that is believed.
const MAX_NOTE_BYTES: u64 = 1 << 20;
/// Directories of a search path without any.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An external runtime: a program that is driven by the OCI command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// What clients call it.
    pub name: String,
    /// The program; without a slash it is looked up by PATH.
    pub path: String,
    /// Arguments that come before all others.
    pub args: Vec<String>,
}

impl Runtime {
    /// The search path for the runtime and whatever it executes.
    pub(crate) fn search_path() -> String {
        std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned())
    }

    /// The program's path; `None` if there is none of that name.
    pub(crate) fn program(&self) -> Option<PathBuf> {
        if self.path.contains('/') {
            return Some(self.path.clone().into());
        }
        let path = Self::search_path();
        let mut candidates = path.split(':').filter(|dir| dir.starts_with('/'));
        candidates.find_map(|dir| {
            let program = Path::new(dir).join(&self.path);
            program.is_file().then_some(program)
        })
    }
}

/// One container's bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    runtime: Runtime,
    id: String,
    dir: PathBuf,
    state_root: PathBuf,
}

fn failed(path: &Path) -> impl Fn(io::Error) -> LaunchError + '_ {
    move |e| LaunchError::prepare("make the bundle", path.display().to_string(), e)
}

/// What is in a directory; nothing is in one that is not there.
pub(crate) fn names_in(dir: &Path) -> io::Result<Vec<String>> {
    let listed = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut names = Vec::new();
    for entry in listed {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

fn make_dir(path: &Path) -> Result<(), LaunchError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(failed(path))
}

impl Bundle {
    /// The bundle of a container that is going to be started by this runtime. Nothing is made yet.
    pub fn new(exec_root: &Path, id: &str, runtime: Runtime) -> Bundle {
        Bundle {
            id: id.to_owned(),
            dir: exec_root.join(BUNDLES).join(id),
            state_root: exec_root.join(STATES).join(&runtime.name),
            runtime,
        }
    }

    /// The bundle that a container has; `None` if it has none.
    ///
    /// # Errors
    /// The kernel's, or a note that is not readable.
    pub fn open(exec_root: &Path, id: &str) -> io::Result<Option<Bundle>> {
        let path = exec_root.join(BUNDLES).join(id).join(NOTE);
        let mut note = Vec::new();
        match std::fs::File::open(&path) {
            Ok(file) => file.take(MAX_NOTE_BYTES).read_to_end(&mut note)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let runtime = serde_json::from_slice(&note).map_err(io::Error::from)?;
        Ok(Some(Bundle::new(exec_root, id, runtime)))
    }

    /// Makes what bundles and runtimes of these names lie in.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_roots<'n>(
        exec_root: &Path,
        runtimes: impl Iterator<Item = &'n str>,
    ) -> io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(exec_root.join(BUNDLES))?;
        let states = exec_root.join(STATES);
        builder.create(&states)?;
        runtimes
            .into_iter()
            .try_for_each(|name| builder.create(states.join(name)))
    }

    /// Ids of all containers that have a bundle.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ids(exec_root: &Path) -> io::Result<Vec<String>> {
        names_in(&exec_root.join(BUNDLES))
    }

    /// Which runtime.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Which container.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the runtime may know the container.
    pub fn has_state(&self) -> bool {
        self.state_root.join(&self.id).exists()
    }

    /// Its directory, the root file system below it is only there for the runtime.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn state_root(&self) -> &Path {
        &self.state_root
    }

    /// Makes the directory anew, with the note first: from here on whatever is there can be put away. In a user
    /// namespace, the runtime's process must come through it as a member of this group of the host.
    pub(crate) fn make(&self, passers: Option<u32>) -> Result<(), LaunchError> {
        self.remove().map_err(failed(&self.dir))?;
        make_dir(&self.state_root)?;
        make_dir(&self.dir.join(EXECS))?;
        if let Some(gid) = passers {
            self.let_through(gid).map_err(failed(&self.dir))?;
        }
        let note = serde_json::to_vec(&self.runtime).map_err(io::Error::from);
        self.write(NOTE, &note.map_err(failed(&self.dir))?)
    }

    fn let_through(&self, gid: u32) -> io::Result<()> {
        std::os::unix::fs::chown(&self.dir, None, Some(gid))?;
        std::fs::set_permissions(&self.dir, Permissions::from_mode(0o710))?;
        // Nothing can be listed in those above.
        for dir in self.dir.ancestors().skip(1).take(2) {
            let mode = std::fs::metadata(dir)?.permissions().mode() & 0o7777;
            if mode & 0o001 == 0 {
                std::fs::set_permissions(dir, Permissions::from_mode(mode | 0o111))?;
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), LaunchError> {
        write(&self.dir.join(name), bytes)
    }

    /// Removes the directory; having none is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self) -> io::Result<()> {
        let mut attempts = 1;
        loop {
            match std::fs::remove_dir_all(&self.dir) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                // An exec of a container that ends makes its own directory there.
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && attempts < REMOVALS => {
                    attempts += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The directory for an exec, made. Not with the bundle, if that is gone: the container has ended.
    pub(crate) fn make_exec_dir(&self, exec: &str) -> Result<PathBuf, LaunchError> {
        let dir = self.dir.join(EXECS).join(exec);
        std::fs::create_dir(&dir).map_err(failed(&dir))?;
        Ok(dir)
    }
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), LaunchError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(bytes));
    written.map_err(failed(path))
}

pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, LaunchError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(path)(e.into()))
}

/// A socket in `dir` at which a runtime hands a terminal over, and its name there: the whole path may be longer than an
/// address of a socket.
pub(crate) fn listen_for_console(dir: &OwnedFd) -> Result<(OwnedFd, &'static str), LaunchError> {
    let failed = |e: rustix::io::Errno| LaunchError::prepare("listen for", "a terminal", e);
    let path = format!("/proc/self/fd/{}/{CONSOLE}", dir.as_raw_fd());
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed)?;
    rustix::net::bind(&socket, &address).map_err(failed)?;
    rustix::net::listen(&socket, 1).map_err(failed)?;
    Ok((socket, CONSOLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(path: &str) -> Runtime {
        Runtime {
            name: "r".into(),
            path: path.into(),
            args: vec!["--debug".into()],
        }
    }

    #[test]
    fn a_bundle_is_found_again_and_put_away() {
        let root = tempfile::tempdir().expect("directory");
        assert_eq!(Bundle::open(root.path(), "c").expect("open"), None);
        assert_eq!(Bundle::ids(root.path()).expect("list"), [""; 0]);
        let bundle = Bundle::new(root.path(), "c", runtime("/bin/r"));
        bundle.make(None).expect("make");
        assert_eq!(
            Bundle::open(root.path(), "c").expect("open"),
            Some(bundle.clone())
        );
        assert_eq!(Bundle::ids(root.path()).expect("list"), ["c"]);
        bundle.remove().expect("remove");
        bundle.remove().expect("again");
        assert_eq!(Bundle::open(root.path(), "c").expect("open"), None);
    }

    #[test]
    fn a_damaged_note_is_an_error() {
        let root = tempfile::tempdir().expect("directory");
        let bundle = Bundle::new(root.path(), "c", runtime("/bin/r"));
        bundle.make(None).expect("make");
        bundle.write(NOTE, b"{").expect("write");
        assert!(Bundle::open(root.path(), "c").is_err());
    }

    #[test]
    fn programs() {
        assert_eq!(runtime("/x/y").program(), Some("/x/y".into()));
        assert!(runtime("sh").program().is_some_and(|p| p.ends_with("sh")));
        assert_eq!(runtime("no-such-runtime").program(), None);
    }

    #[test]
    fn a_console_may_lie_deep() {
        let root = tempfile::tempdir().expect("directory");
        let deep = root.path().join("d".repeat(200));
        make_dir(&deep).expect("directory");
        let (_socket, name) = listen_for_console(&open_dir(&deep).expect("open")).expect("listen");
        assert!(deep.join(name).exists());
    }
}
