//! Ids of a user namespace, and what the daemon does with them: it shows files of the host with other owners
//! (idmapped mounts) and makes files that belong to the container's root.

use std::io::{self, Read};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySets;

/// Ranges of one map (the kernel's limit).
pub const MAX_RANGES: usize = 340;
/// First argument of the keeper's program that makes it hold a user namespace.
const HOLD_USER_NAMESPACE: &str = "user-namespace";

/// Ids that follow each other, in the container and on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the container.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The ids of remapped containers.
#[derive(Debug)]
pub struct Remap {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
    /// A user namespace with these maps in which nothing runs: idmapped mounts name their map by one.
    namespace: OwnedFd,
    root: (u32, u32),
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|r| {
        let offset = id.checked_sub(r.inside).filter(|n| *n < r.count)?;
        r.outside.checked_add(offset)
    })
}

fn inside(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|r| {
        let offset = id.checked_sub(r.outside).filter(|n| *n < r.count)?;
        r.inside.checked_add(offset)
    })
}

/// As the kernel reads it from uid_map.
fn map_text(ranges: &[IdRange]) -> Vec<u8> {
    let line = |r: &IdRange| format!("{} {} {}\n", r.inside, r.outside, r.count);
    ranges.iter().map(line).collect::<String>().into_bytes()
}

impl Remap {
    /// Maps of users and groups. Starts a process that ends at once; at the daemon's start only.
    ///
    /// # Errors
    /// Maps without a root or with too many ranges, or the kernel's: it may forbid user namespaces.
    pub fn new(keeper_exe: &Path, uids: Vec<IdRange>, gids: Vec<IdRange>) -> io::Result<Remap> {
        let root = outside(&uids, 0).zip(outside(&gids, 0));
        let root = root.ok_or_else(|| invalid("the maps have no id 0"))?;
        if uids.len() > MAX_RANGES || gids.len() > MAX_RANGES {
            return Err(invalid("too many ranges"));
        }
        let namespace = namespace(keeper_exe, &map_text(&uids), &map_text(&gids))?;
        Ok(Remap {
            uids,
            gids,
            namespace,
            root,
        })
    }

    /// The host's id of a user in the container.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        outside(&self.uids, uid)
    }

    /// The host's id of a group in the container.
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        outside(&self.gids, gid)
    }

    /// The container's id of a user of the host.
    pub fn container_uid(&self, uid: u32) -> Option<u32> {
        inside(&self.uids, uid)
    }

    /// The container's id of a group of the host.
    pub fn container_gid(&self, gid: u32) -> Option<u32> {
        inside(&self.gids, gid)
    }

    /// User and group that the container's root is on the host.
    pub fn root(&self) -> (u32, u32) {
        self.root
    }

    /// Whether the user namespace has these ids.
    ///
    /// # Errors
    /// It has not, in the words of the OCI runtime behind dockerd.
    pub(crate) fn check(&self, uid: u32, gid: u32, groups: &[u32]) -> Result<(), String> {
        if self.host_uid(uid).is_none() {
            return Err(format!(
                "unable to setup user: cannot setuid to unmapped uid {uid} in user namespace"
            ));
        }
        if self.host_gid(gid).is_none() {
            return Err(format!(
                "unable to setup user: cannot setgid to unmapped gid {gid} in user namespace"
            ));
        }
        if groups.iter().any(|g| self.host_gid(*g).is_none()) {
            return Err("unable to setup user: setgroups: invalid argument".to_owned());
        }
        Ok(())
    }

    /// Ranges of users and of groups.
    pub(crate) fn ranges(&self) -> (&[IdRange], &[IdRange]) {
        (&self.uids, &self.gids)
    }

    pub(crate) fn uid_map(&self) -> Vec<u8> {
        map_text(&self.uids)
    }

    pub(crate) fn gid_map(&self) -> Vec<u8> {
        map_text(&self.gids)
    }

    /// Makes owners of a detached mount appear as the container's: an id `n` on disk is the container's `n`.
    pub(crate) fn apply(&self, mount: BorrowedFd<'_>) -> io::Result<()> {
        crate::sys::set_id_map(mount, &self.namespace)
    }

    /// Until the result is dropped, what the calling thread makes belongs to the container's root.
    ///
    /// # Errors
    /// The kernel's.
    pub fn act_as_root(&self) -> io::Result<ActingAsRoot> {
        ActingAsRoot::new(self.root)
    }
}

/// See [`Remap::act_as_root`]. Belongs to a thread.
pub struct ActingAsRoot {
    capabilities: CapabilitySets,
    before: (u32, u32),
    _thread: PhantomData<*const ()>,
}

/// The ids of the calling thread that count for files.
fn set_file_ids((uid, gid): (u32, u32)) -> (u32, u32) {
    // SAFETY: plain system calls without pointers. They concern the calling thread alone (libc's wrappers do not reach
    // for the others as with setuid). They answer the id before and cannot fail for the host's root.
    unsafe {
        let gid = libc::syscall(libc::SYS_setfsgid, gid);
        let uid = libc::syscall(libc::SYS_setfsuid, uid);
        (uid as u32, gid as u32)
    }
}

impl ActingAsRoot {
    fn new(root: (u32, u32)) -> io::Result<ActingAsRoot> {
        let capabilities = rustix::thread::capabilities(None)?;
        let acting = ActingAsRoot {
            capabilities,
            before: set_file_ids(root),
            _thread: PhantomData,
        };
        // The change took those for files away.
        rustix::thread::set_capabilities(None, capabilities)?;
        Ok(acting)
    }
}

impl Drop for ActingAsRoot {
    fn drop(&mut self) {
        set_file_ids(self.before);
        if let Err(e) = rustix::thread::set_capabilities(None, self.capabilities) {
            tracing::error!(error = %e, "a worker can't take its capabilities back");
        }
    }
}

/// A process in a user namespace, which waits until its standard input ends.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        if let Err(e) = self.0.wait() {
            tracing::warn!(error = %e, "the holder of a user namespace is left behind");
        }
    }
}

fn namespace(keeper_exe: &Path, uid_map: &[u8], gid_map: &[u8]) -> io::Result<OwnedFd> {
    let mut command = Command::new(keeper_exe);
    command.arg(HOLD_USER_NAMESPACE).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = Holder(command.spawn()?);
    let mut answer = String::new();
    if let Some(stdout) = holder.0.stdout.take() {
        // One line, or the end.
        let mut line = stdout.take(256);
        let mut byte = [0u8; 1];
        while line.read(&mut byte)? == 1 && byte[0] != b'\n' {
            answer.push(char::from(byte[0]));
        }
    }
    if answer != "ready" {
        return Err(io::Error::other(format!(
            "cannot make a user namespace: {answer}"
        )));
    }
    let proc = format!("/proc/{}", holder.0.id());
    std::fs::write(format!("{proc}/uid_map"), uid_map)?;
    std::fs::write(format!("{proc}/gid_map"), gid_map)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(format!("{proc}/ns/user"), flags, Mode::empty())?;
    debug_assert!(file.as_raw_fd() > 2);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_their_range() {
        let ranges = [
            IdRange {
                inside: 0,
                outside: 100_000,
                count: 10,
            },
            IdRange {
                inside: 10,
                outside: 7,
                count: 2,
            },
        ];
        let found = |id| outside(&ranges, id);
        assert_eq!((found(0), found(9)), (Some(100_000), Some(100_009)));
        assert_eq!((found(10), found(11), found(12)), (Some(7), Some(8), None));
        let back = |id| inside(&ranges, id);
        assert_eq!((back(100_009), back(8), back(9)), (Some(9), Some(11), None));
        assert_eq!(map_text(&ranges), b"0 100000 10\n10 7 2\n");
    }

    #[test]
    fn files_belong_to_another_and_then_to_us_again() {
        use std::os::unix::fs::MetadataExt;
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let owner = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").expect("write");
            let meta = path.metadata().expect("stat");
            (meta.uid(), meta.gid())
        };
        let before = rustix::thread::capabilities(None).expect("capabilities");
        {
            let _acting = ActingAsRoot::new((100_000, 100_001)).expect("act");
            assert_eq!(owner("theirs"), (100_000, 100_001));
            assert_eq!(rustix::thread::capabilities(None).expect("same"), before);
        }
        assert_eq!(owner("ours"), (0, 0));
        assert_eq!(rustix::thread::capabilities(None).expect("same"), before);
    }
}
