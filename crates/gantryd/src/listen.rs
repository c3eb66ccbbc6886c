//! Listening sockets: unix, tcp, and those that systemd hands over.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gantry_rt::net::ListenerHandle;

use crate::boot::BootError;
use crate::config::DEFAULT_GROUP;

/// First descriptor that systemd passes.
const FIRST_PASSED_FD: i32 = 3;
/// How long the listener of a killed daemon may outlive it.
const LINGERING_LISTENER: Duration = Duration::from_secs(2);
/// Pause between attempts to listen.
const LISTEN_RETRY: Duration = Duration::from_millis(20);
/// Most descriptors taken from systemd.
const MAX_PASSED_FDS: i32 = 16;

/// An open socket, and the path to remove at the end.
pub struct Listening {
    /// What shards accept from.
    pub handle: ListenerHandle,
    /// As the flag had it.
    pub host: String,
    /// Socket file of ours.
    pub path: Option<PathBuf>,
}

/// Opens every host.
pub fn open(hosts: &[String], group: Option<&str>) -> Result<Vec<Listening>, BootError> {
    let mut all = Vec::new();
    for host in hosts {
        match open_one(host, group) {
            Ok(some) => all.extend(some),
            Err(e) => {
                close(&all);
                return Err(e);
            }
        }
    }
    Ok(all)
}

fn open_one(host: &str, group: Option<&str>) -> Result<Vec<Listening>, BootError> {
    let handles = match host.split_once("://") {
        Some(("unix", path)) => vec![(unix(Path::new(path), group)?, Some(PathBuf::from(path)))],
        Some(("tcp", address)) => vec![(tcp(address)?, None)],
        Some(("fd", which)) => passed(which)?.into_iter().map(|h| (h, None)).collect(),
        _ => {
            let reason = "unsupported proto".to_owned();
            return Err(BootError::Host(host.to_owned(), reason));
        }
    };
    let listening = |(handle, path)| Listening {
        handle,
        host: host.to_owned(),
        path,
    };
    Ok(handles.into_iter().map(listening).collect())
}

fn unix(path: &Path, group: Option<&str>) -> Result<ListenerHandle, BootError> {
    if let Some(parent) = path.parent() {
        crate::files::private_dir(parent, 0o755)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            if somebody_listens(path) {
                let host = format!("unix://{}", path.display());
                return Err(BootError::Host(host, "address already in use".to_owned()));
            }
            std::fs::remove_file(path)
                .map_err(|e| BootError::io("remove the old socket", path, e))?;
        }
        Ok(_) => {
            return Err(BootError::Host(
                format!("unix://{}", path.display()),
                "there is a file that is no socket".to_owned(),
            ));
        }
        Err(_) => {}
    }
    // SAFETY: umask only changes this process's mask; no other thread makes files yet (boot is one thread).
    let before = unsafe { libc::umask(0o117) };
    let bound = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    let listener = bound.map_err(|e| BootError::io("listen on", path, e))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(|e| BootError::io("set the mode of", path, e))?;
    if let Some(gid) = group_id(group)? {
        std::os::unix::fs::chown(path, Some(0), Some(gid))
            .map_err(|e| BootError::io("set the group of", path, e))?;
    }
    ListenerHandle::unix(listener).map_err(|e| BootError::io("listen on", path, e))
}

/// Whether a living process listens there. A killed daemon's socket takes connections a little longer than the daemon
/// lives: the kernel takes its rings apart, and what they refer to, after the process is gone (seen on 6.18).
fn somebody_listens(path: &Path) -> bool {
    let Ok(connection) = UnixStream::connect(path) else {
        return false;
    };
    match rustix::net::sockopt::socket_peercred(&connection) {
        Ok(listener) => is_alive(listener.pid.as_raw_nonzero().get()),
        // Whoever it is, it cannot be ruled out.
        Err(_) => true,
    }
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // The state follows the name, which may contain anything.
    stat.is_ok_and(|text| {
        let state = text
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest.trim_start());
        !state.starts_with(['Z', 'X'])
    })
}

/// The group of the socket: the wanted one must exist, the default one may.
fn group_id(wanted: Option<&str>) -> Result<Option<u32>, BootError> {
    let name = wanted.unwrap_or(DEFAULT_GROUP);
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    });
    match (found, wanted) {
        (None, Some(name)) => Err(BootError::Group(name.to_owned())),
        (found, _) => Ok(found),
    }
}

fn tcp(address: &str) -> Result<ListenerHandle, BootError> {
    let fail = |e: std::io::Error| BootError::Host(format!("tcp://{address}"), e.to_string());
    let address = if address.is_empty() {
        "127.0.0.1:2375"
    } else {
        address
    };
    let whole = match address.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => address.to_owned(),
    };
    let begin = Instant::now();
    let bound = loop {
        match TcpListener::bind(&whole) {
            // Perhaps still the one of a daemon that was just killed.
            Err(e) if e.kind() == ErrorKind::AddrInUse && begin.elapsed() < LINGERING_LISTENER => {
                std::thread::sleep(LISTEN_RETRY);
            }
            result => break result,
        }
    };
    tracing::warn!(
        address,
        "this TCP address has no TLS: whoever reaches it is root on this machine"
    );
    ListenerHandle::tcp(bound.map_err(fail)?).map_err(fail)
}

/// Sockets of systemd's socket activation: `fd://` means all of them, `fd://3` one.
fn passed(which: &str) -> Result<Vec<ListenerHandle>, BootError> {
    let fail = |text: String| BootError::Host(format!("fd://{which}"), text);
    let variable = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<i32>().ok());
    let count = variable("LISTEN_FDS").filter(|&n| n > 0 && n <= MAX_PASSED_FDS);
    let for_us = variable("LISTEN_PID") == i32::try_from(std::process::id()).ok();
    let (Some(count), true) = (count, for_us) else {
        return Err(fail(
            "no sockets found via socket activation: make sure the service was started by systemd"
                .to_owned(),
        ));
    };
    let all = FIRST_PASSED_FD..FIRST_PASSED_FD + count;
    let chosen: Vec<i32> = match which {
        "" | "*" => all.collect(),
        number => {
            let fd = number
                .parse()
                .map_err(|_| fail("not a number".to_owned()))?;
            if !all.contains(&fd) {
                return Err(fail("no such socket was passed".to_owned()));
            }
            vec![fd]
        }
    };
    let mut handles = Vec::new();
    for fd in chosen {
        // SAFETY: the environment says that this descriptor was passed to this process, and each is taken once.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        let family = rustix::net::getsockname(&owned)
            .map_err(|e| fail(e.to_string()))?
            .address_family();
        handles.push(if family == rustix::net::AddressFamily::UNIX {
            ListenerHandle::unix(UnixListener::from(owned)).map_err(|e| fail(e.to_string()))?
        } else {
            ListenerHandle::tcp(TcpListener::from(owned)).map_err(|e| fail(e.to_string()))?
        });
    }
    Ok(handles)
}

/// Stops accepting and removes our socket files.
pub fn close(all: &[Listening]) {
    for listening in all {
        if let Err(e) = listening.handle.stop() {
            tracing::warn!(host = listening.host, error = %e, "the listener could not be stopped");
        }
        if let Some(path) = &listening.path
            && let Err(e) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), error = %e, "the socket could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn only_a_living_listener_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        assert!(!somebody_listens(&path));
        let listener = UnixListener::bind(&path).expect("listen");
        assert!(somebody_listens(&path));
        // Whoever called listen last is the one: a child, which ends; the socket goes on taking connections, as one
        // does that a killed process leaves behind in the kernel.
        // SAFETY: the child makes two system calls and ends without unwinding.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            // SAFETY: plain system calls; the descriptor is inherited.
            unsafe {
                let failed = libc::listen(listener.as_raw_fd(), 8);
                libc::_exit(failed)
            }
        }
        let mut status = 0;
        let pid = loop {
            // SAFETY: `child` is our own and not collected yet.
            let pid = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
            if pid != 0 {
                break pid;
            }
        };
        assert_eq!((pid, status), (child, 0));
        assert!(UnixStream::connect(&path).is_ok());
        assert!(!somebody_listens(&path));
        assert!(is_alive(std::process::id() as i32));
    }
}
