//! What the keeper does to itself before it serves: it leaves whatever its daemon was in.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use gantry_keeper_proto::process::Stat;

use crate::raw::{self, Errno, SysResult};

/// The listening socket and the exec root, as the daemon leaves them (its `spawn` module says the same).
const LISTEN_FD: i32 = 3;
const EXEC_ROOT_FD: i32 = 4;
/// Where a container's root is attached before it becomes `/`.
pub const ROOT_POINT: &CStr = c"/r";

/// What is kept open from before the private mount namespace.
#[derive(Debug)]
pub struct Host {
    /// Listening socket.
    pub listener: OwnedFd,
    /// The daemon's exec root.
    pub exec_root: OwnedFd,
    /// The host's /proc.
    pub proc: OwnedFd,
    /// Capabilities that can be given.
    pub capabilities: u64,
    /// Highest capability of this kernel.
    pub last_capability: u32,
    /// Limit of open files as the daemon had it.
    pub nofile: (u64, u64),
    /// Signals that the keeper ignores (bit `n - 1` for signal `n`): what execve(2) would leave ignored.
    pub ignored_signals: u64,
}

/// A step of the setup that failed.
#[derive(Debug)]
pub struct SetupError {
    step: &'static str,
    errno: Errno,
}

impl std::fmt::Display for SetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {}",
            self.step,
            io::Error::from_raw_os_error(self.errno)
        )
    }
}

fn at<T>(step: &'static str, result: SysResult<T>) -> Result<T, SetupError> {
    result.map_err(|errno| SetupError { step, errno })
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Does all of it.
pub fn detach() -> Result<Host, SetupError> {
    at(
        "close inherited files",
        raw::close_range(EXEC_ROOT_FD as u32 + 1, u32::MAX, 0),
    )?;
    // SAFETY: the daemon starts this program with exactly these two descriptors open; nothing else owns them.
    let (listener, exec_root) = unsafe {
        (
            OwnedFd::from_raw_fd(LISTEN_FD),
            OwnedFd::from_raw_fd(EXEC_ROOT_FD),
        )
    };
    for fd in [&listener, &exec_root] {
        // SAFETY: a plain system call on an open descriptor.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return at(
                "inherited descriptors",
                Err(errno_of(&io::Error::last_os_error())),
            );
        }
    }
    let proc = open(c"/proc", libc::O_PATH | libc::O_DIRECTORY)?;
    at(
        "open the directory of faults",
        gantry_keeper_proto::fault::arm().map_err(|e| errno_of(&e)),
    )?;
    be_quiet()?;
    lighten_forks();
    let nofile = raise_open_files()?;
    leave_cgroups();
    let last_capability = read_number("/proc/sys/kernel/cap_last_cap").unwrap_or(40);
    let capabilities = at("capget", raw::permitted_capabilities())?;
    let ignored_signals = at("sigaction", raw::ignored_signals())?;
    private_mounts()?;
    Ok(Host {
        listener,
        exec_root,
        proc,
        capabilities,
        last_capability,
        nofile,
        ignored_signals,
    })
}

fn open(path: &CStr, flags: i32) -> Result<OwnedFd, SetupError> {
    let fd = at(
        "open /proc",
        raw::openat2(libc::AT_FDCWD, path, flags | libc::O_CLOEXEC, 0),
    )?;
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Not to be dumped, traced or ended by what ends others.
fn be_quiet() -> Result<(), SetupError> {
    at("prctl", raw::prctl(libc::PR_SET_DUMPABLE, [0; 4]))?;
    at(
        "prctl",
        raw::prctl(libc::PR_SET_CHILD_SUBREAPER, [1, 0, 0, 0]),
    )?;
    at(
        "prctl",
        raw::prctl(
            libc::PR_SET_NAME,
            [c"gantry-keeper".as_ptr() as usize, 0, 0, 0],
        ),
    )?;
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGQUIT,
        libc::SIGPIPE,
    ] {
        // SAFETY: no handler is installed, the signals are ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Ok(())
}

/// What no fork of the keeper runs: it does not panic, and calls no function that is yet to be bound (this program is
/// linked with BIND_NOW).
const NOT_FOR_FORKS: [&str; 2] = ["/libgcc_s", "/ld-linux"];

/// An exec copies the keeper's mappings twice and takes the copies down again: each one less counts.
fn lighten_forks() {
    let maps = match std::fs::read_to_string("/proc/self/maps") {
        Ok(maps) => maps,
        Err(e) => return crate::log(format_args!("own mappings: {e}")),
    };
    let unused = |line: &&str| NOT_FOR_FORKS.iter().any(|name| line.contains(name));
    for line in maps.lines().filter(unused) {
        let number = |text| usize::from_str_radix(text, 16).ok();
        let range = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'));
        let Some((Some(start), Some(end))) = range.map(|(a, b)| (number(a), number(b))) else {
            continue;
        };
        if let Err(errno) = raw::keep_pages_from_forks(start, end - start) {
            crate::log(format_args!("a mapping goes to forks: errno {errno}"));
        }
    }
}

/// A keeper holds several descriptors per container; containers get the limit from before.
fn raise_open_files() -> Result<(u64, u64), SetupError> {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: the kernel fills the struct.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) } < 0 {
        return at("getrlimit", Err(errno_of(&io::Error::last_os_error())));
    }
    // SAFETY: filled by the successful call above.
    let limit = unsafe { limit.assume_init() };
    at(
        "setrlimit",
        raw::set_rlimit(libc::RLIMIT_NOFILE, limit.rlim_max, limit.rlim_max),
    )?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

fn read_number(path: &str) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Moves to the root of every hierarchy: nothing of the keeper is accounted to a container or ends with the daemon's
/// service. A hierarchy that refuses is only reported.
fn leave_cgroups() {
    let mut mountinfo = String::new();
    let read =
        File::open("/proc/self/mountinfo").and_then(|mut f| f.read_to_string(&mut mountinfo));
    if let Err(e) = read {
        return crate::log(format_args!("cannot read mountinfo: {e}"));
    }
    for line in mountinfo.lines() {
        let Some((mount, fs)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = mount.split(' ').nth(4) else {
            continue;
        };
        if !fs.starts_with("cgroup ") && !fs.starts_with("cgroup2 ") {
            continue;
        }
        let path = Path::new(point).join("cgroup.procs");
        if let Err(e) = std::fs::write(&path, "0") {
            crate::log(format_args!(
                "stay in the daemon's cgroup: {}: {e}",
                path.display()
            ));
        }
    }
}

/// A mount namespace with one mount, a tmpfs: each mount more costs every container.
fn private_mounts() -> Result<(), SetupError> {
    at(
        "unshare the mount namespace",
        raw::unshare(libc::CLONE_NEWNS),
    )?;
    mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)?;
    // Any directory does: it is only covered inside this namespace, until the old root is gone.
    let on = c"/proc";
    mount(
        Some(c"none"),
        on,
        Some(c"tmpfs"),
        libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        Some(c"mode=755,size=64k"),
    )?;
    at("enter the private root", raw::chdir(on))?;
    at("make the root point", raw::mkdir(c"r", 0o755))?;
    at("pivot_root", raw::pivot_root(c".", c"."))?;
    at("detach the old root", raw::umount(c".", libc::MNT_DETACH))?;
    at("enter the private root", raw::chdir(c"/"))?;
    mount(
        None,
        c"/",
        None,
        libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY,
        None,
    )
}

fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> Result<(), SetupError> {
    let pointer = |s: Option<&CStr>| s.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is null or a C string that lives through the call.
    let result = unsafe {
        libc::mount(
            pointer(source),
            target.as_ptr(),
            pointer(kind),
            flags,
            pointer(data).cast(),
        )
    };
    if result < 0 {
        at("mount", Err(errno_of(&io::Error::last_os_error())))
    } else {
        Ok(())
    }
}

/// /proc/PID/stat.
pub fn stat_of(proc: BorrowedFd<'_>, pid: i32) -> io::Result<Stat> {
    let name = CString::new(format!("{pid}/stat"))?;
    let fd = raw::openat2(proc.as_raw_fd(), &name, libc::O_RDONLY | libc::O_CLOEXEC, 0)
        .map_err(io::Error::from_raw_os_error)?;
    // SAFETY: the descriptor is new and ours alone.
    Stat::read_file(unsafe { File::from_raw_fd(fd) })
}
