//! Connecting to a keeper, or starting one. Blocking: on a worker.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use gantry_keeper_proto::fault;
use gantry_keeper_proto::process::{self, Stat};
use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::KeeperError;

/// Connections that may wait for a keeper: one daemon, and one that takes over.
const BACKLOG: i32 = 4;
/// Where the keeper expects its listening socket and the exec root (`gantry-keeper` says the same).
const LISTEN_FD: i32 = 3;
const EXEC_ROOT_FD: i32 = 4;
/// How long a keeper that closed its connection may take to be gone.
const REAP_ATTEMPTS: u32 = 50;
const REAP_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Connected {
    pub(crate) socket: OwnedFd,
    pub(crate) child: Option<i32>,
}

fn failed(step: &'static str) -> impl Fn(rustix::io::Errno) -> KeeperError {
    move |e| KeeperError::Start {
        step,
        source: e.into(),
    }
}

/// Which keeper: its shard, and for one beside an older one of the shard its generation. As in the names of its files:
/// `keeper-SHARD[.GENERATION].sock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeeperName {
    /// Shard it was started for.
    pub shard: usize,
    /// 0 is the first.
    pub generation: u32,
}

impl std::fmt::Display for KeeperName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.generation {
            0 => write!(f, "{}", self.shard),
            generation => write!(f, "{}.{generation}", self.shard),
        }
    }
}

impl KeeperName {
    /// Of the name of a socket below the exec root, if it is a keeper's.
    pub fn of_socket(file_name: &str) -> Option<KeeperName> {
        let name = file_name.strip_prefix("keeper-")?.strip_suffix(".sock")?;
        let (shard, generation) = match name.split_once('.') {
            Some((shard, generation)) => (shard, generation.parse().ok()?),
            None => (name, 0),
        };
        let parsed = KeeperName {
            shard: shard.parse().ok()?,
            generation,
        };
        // Only the form that is written here.
        (parsed.to_string() == name).then_some(parsed)
    }
}

fn open_root(exec_root: &Path) -> Result<OwnedFd, KeeperError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(exec_root, flags, Mode::empty()).map_err(failed("open the exec root"))
}

/// Through /proc, so that the length of the exec root does not matter.
fn address_of(root: &OwnedFd, socket: &str) -> Result<SocketAddrUnix, KeeperError> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{socket}", root.as_raw_fd()))
        .map_err(failed("socket address"))
}

/// Connects to a keeper that lives, or starts one.
pub(crate) fn connect_or_spawn(
    exec_root: &Path,
    name: KeeperName,
    exe: &Path,
) -> Result<Connected, KeeperError> {
    let root = open_root(exec_root)?;
    match try_connect(&root, name)? {
        Some(connected) => Ok(connected),
        None => spawn_in(&root, name, exe),
    }
}

/// Connects to a keeper that lives; removes the files of one that does not.
pub(crate) fn connect_only(
    exec_root: &Path,
    name: KeeperName,
) -> Result<Option<Connected>, KeeperError> {
    let root = open_root(exec_root)?;
    let connected = try_connect(&root, name)?;
    if connected.is_none() {
        for file in ["sock", "pid"] {
            let file = format!("keeper-{name}.{file}");
            match rustix::fs::unlinkat(&root, &file, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(failed("remove what a keeper left")(e)),
            }
        }
    }
    Ok(connected)
}

fn try_connect(root: &OwnedFd, name: KeeperName) -> Result<Option<Connected>, KeeperError> {
    match noted(root, name) {
        Noted::Nothing => {}
        Noted::Dead => return Ok(None),
        Noted::Lives(pid, stat) => wake(name, pid, stat)?,
    }
    match connect(&address_of(root, &format!("keeper-{name}.sock"))?) {
        Ok(socket) => Ok(Some(Connected {
            socket,
            child: None,
        })),
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(failed("connect")(e)),
    }
}

/// What is known of the process that served a socket. The socket alone does not tell: a clone of the keeper that has not
/// executed yet holds it open.
enum Noted {
    /// One of an earlier version leaves no note.
    Nothing,
    Dead,
    Lives(i32, Stat),
}

fn noted(root: &OwnedFd, name: KeeperName) -> Noted {
    let path = format!("/proc/self/fd/{}/keeper-{name}.pid", root.as_raw_fd());
    let Ok(text) = std::fs::read_to_string(path) else {
        return Noted::Nothing;
    };
    let mut numbers = text.split_whitespace();
    let pid = numbers.next().and_then(|n| n.parse::<i32>().ok());
    let ticks = numbers.next().and_then(|n| n.parse::<u64>().ok());
    let (Some(pid), Some(ticks)) = (pid, ticks) else {
        return Noted::Nothing;
    };
    match stat_of(pid) {
        Some(stat) if stat.start_time_ticks == ticks && !matches!(stat.state, 'Z' | 'X') => {
            Noted::Lives(pid, stat)
        }
        _ => Noted::Dead,
    }
}

fn stat_of(pid: i32) -> Option<Stat> {
    let file = File::open(format!("/proc/{pid}/stat"));
    file.and_then(Stat::read_file).ok()
}

/// Lets a keeper go on that somebody has stopped: it would answer nobody, and only it knows how its containers ended.
fn wake(name: KeeperName, pid: i32, stat: Stat) -> Result<(), KeeperError> {
    const STOPPED: char = 'T';
    if stat.state != STOPPED {
        return Ok(());
    }
    let step = "let a stopped keeper go on";
    let Some(process) = rustix::process::Pid::from_raw(pid) else {
        return Ok(());
    };
    let flags = rustix::process::PidfdFlags::empty();
    let pidfd = rustix::process::pidfd_open(process, flags).map_err(failed(step))?;
    // The number could have become another's before it was opened.
    if stat_of(pid).is_none_or(|now| now.start_time_ticks != stat.start_time_ticks) {
        return Ok(());
    }
    tracing::warn!(keeper = %name, pid, "a keeper was stopped by a signal; it is continued");
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::CONT).map_err(failed(step))
}

/// Starts a keeper in place of one that is known to be dead.
pub(crate) fn spawn_fresh(
    exec_root: &Path,
    name: KeeperName,
    exe: &Path,
) -> Result<Connected, KeeperError> {
    spawn_in(&open_root(exec_root)?, name, exe)
}

fn spawn_in(root: &OwnedFd, keeper: KeeperName, exe: &Path) -> Result<Connected, KeeperError> {
    inherit_orphans();
    let name = format!("keeper-{keeper}.sock");
    let address = address_of(root, &name)?;
    match rustix::fs::unlinkat(root, &name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(failed("remove the stale socket")(e)),
    }
    let listener = socket().map_err(failed("socket"))?;
    rustix::net::bind(&listener, &address).map_err(failed("bind"))?;
    rustix::fs::chmodat(root, &name, Mode::RUSR | Mode::WUSR, AtFlags::empty())
        .map_err(failed("chmod"))?;
    rustix::net::listen(&listener, BACKLOG).map_err(failed("listen"))?;
    let child = start(&listener, root, keeper, exe)?;
    let socket = connect(&address).map_err(failed("connect"))?;
    Ok(Connected {
        socket,
        child: Some(child),
    })
}

fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

fn connect(address: &SocketAddrUnix) -> rustix::io::Result<OwnedFd> {
    let socket = socket()?;
    rustix::net::connect(&socket, address)?;
    // Room for the longest message; the default limit may be lower, then the kernel clamps it.
    rustix::net::sockopt::set_socket_send_buffer_size(
        &socket,
        4 * gantry_keeper_proto::scm::MAX_MESSAGE_BYTES,
    )?;
    Ok(socket)
}

/// The program as a sealed memfd: a container can never reach a file of it through /proc.
fn sealed(exe: &Path) -> Result<OwnedFd, KeeperError> {
    let io_failed = |source: io::Error| KeeperError::Start {
        step: "read the keeper's program",
        source,
    };
    let mut from = File::open(exe).map_err(io_failed)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know MFD_EXEC; there every memfd is executable.
    let memfd = rustix::fs::memfd_create("gantry-keeper", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("gantry-keeper", flags))
        .map_err(failed("memfd_create"))?;
    let mut to = File::from(memfd);
    io::copy(&mut from, &mut to).map_err(io_failed)?;
    to.flush().map_err(io_failed)?;
    let memfd = OwnedFd::from(to);
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memfd, seals).map_err(failed("seal the keeper's program"))?;
    Ok(memfd)
}

/// Starts the keeper: own session, nothing inherited but the two descriptors. glibc's posix_spawn shares memory with
/// the child until exec, so the size of this process does not matter.
fn start(
    listener: &OwnedFd,
    root: &OwnedFd,
    keeper: KeeperName,
    exe: &Path,
) -> Result<i32, KeeperError> {
    let program = sealed(exe)?;
    let high = |fd: &OwnedFd| {
        rustix::io::fcntl_dupfd_cloexec(fd, 16).map_err(failed("duplicate a descriptor"))
    };
    let (listener, root, program) = (high(listener)?, high(root)?, high(&program)?);
    let bad = |_| KeeperError::Start {
        step: "arguments",
        source: io::ErrorKind::InvalidInput.into(),
    };
    let path = CString::new(format!("/proc/self/fd/{}", program.as_raw_fd())).map_err(bad)?;
    let log = CString::new(format!(
        "/proc/self/fd/{}/keeper-{keeper}.log",
        root.as_raw_fd()
    ))
    .map_err(bad)?;
    let name = CString::new("gantry-keeper").map_err(bad)?;
    let shard_arg = CString::new(keeper.to_string()).map_err(bad)?;
    let parent_arg = CString::new(std::process::id().to_string()).map_err(bad)?;
    let argv = [
        name.as_ptr(),
        shard_arg.as_ptr(),
        parent_arg.as_ptr(),
        std::ptr::null(),
    ];
    let mut setup = SpawnSetup::new()?;
    // Containers without input inherit it, and dockerd's may write to theirs.
    setup.open(0, c"/dev/null", libc::O_RDWR)?;
    setup.open(1, c"/dev/null", libc::O_WRONLY)?;
    setup.open(2, &log, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND)?;
    setup.dup(listener.as_raw_fd(), LISTEN_FD)?;
    setup.dup(root.as_raw_fd(), EXEC_ROOT_FD)?;
    setup.run(&path, &argv)
}

struct SpawnSetup {
    actions: libc::posix_spawn_file_actions_t,
    attributes: libc::posix_spawnattr_t,
}

fn spawn_result(step: &'static str, code: i32) -> Result<(), KeeperError> {
    match code {
        0 => Ok(()),
        errno => Err(KeeperError::Start {
            step,
            source: io::Error::from_raw_os_error(errno),
        }),
    }
}

impl SpawnSetup {
    fn new() -> Result<SpawnSetup, KeeperError> {
        let mut actions = MaybeUninit::uninit();
        let mut attributes = MaybeUninit::uninit();
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID;
        // SAFETY: both init functions fill their argument; the sets are filled before they are passed on.
        unsafe {
            spawn_result(
                "posix_spawn",
                libc::posix_spawn_file_actions_init(actions.as_mut_ptr()),
            )?;
            spawn_result(
                "posix_spawn",
                libc::posix_spawnattr_init(attributes.as_mut_ptr()),
            )?;
            let mut setup = SpawnSetup {
                actions: actions.assume_init(),
                attributes: attributes.assume_init(),
            };
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            spawn_result(
                "posix_spawn",
                libc::posix_spawnattr_setsigmask(&mut setup.attributes, &set),
            )?;
            libc::sigfillset(&mut set);
            spawn_result(
                "posix_spawn",
                libc::posix_spawnattr_setsigdefault(&mut setup.attributes, &set),
            )?;
            spawn_result(
                "posix_spawn",
                libc::posix_spawnattr_setflags(&mut setup.attributes, flags as i16),
            )?;
            Ok(setup)
        }
    }

    fn open(&mut self, fd: i32, path: &std::ffi::CStr, flags: i32) -> Result<(), KeeperError> {
        // SAFETY: initialised in `new`; glibc copies the path.
        spawn_result("posix_spawn", unsafe {
            libc::posix_spawn_file_actions_addopen(
                &mut self.actions,
                fd,
                path.as_ptr(),
                flags,
                0o600,
            )
        })
    }

    fn dup(&mut self, from: i32, to: i32) -> Result<(), KeeperError> {
        // SAFETY: initialised in `new`.
        spawn_result("posix_spawn", unsafe {
            libc::posix_spawn_file_actions_adddup2(&mut self.actions, from, to)
        })
    }

    fn run(&self, path: &CString, argv: &[*const libc::c_char]) -> Result<i32, KeeperError> {
        let passed = passed_environment();
        let env: Vec<*mut libc::c_char> = passed
            .iter()
            .map(|v| v.as_ptr().cast_mut())
            .chain([std::ptr::null_mut()])
            .collect();
        let mut pid = 0;
        // SAFETY: argv and env end with a null pointer and live until the call returns.
        let code = unsafe {
            libc::posix_spawn(
                &mut pid,
                path.as_ptr(),
                &self.actions,
                &self.attributes,
                argv.as_ptr().cast(),
                env.as_ptr(),
            )
        };
        spawn_result("start the keeper's program", code)?;
        Ok(pid)
    }
}

impl Drop for SpawnSetup {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, not used after this.
        unsafe {
            libc::posix_spawn_file_actions_destroy(&mut self.actions);
            libc::posix_spawnattr_destroy(&mut self.attributes);
        }
    }
}

/// What tests tell a keeper; it gets nothing else of the daemon's environment.
fn passed_environment() -> Vec<CString> {
    [fault::DIR_ENV, "GANTRY_KEEPER_VERSION"]
        .iter()
        .filter_map(|name| {
            let value = std::env::var(name).ok()?;
            CString::new(format!("{name}={value}")).ok()
        })
        .collect()
}

/// Where pidfds do not keep a wait status, a keeper's orphans come to this process, as long as it is the keeper's
/// ancestor, and stay zombies until they are looked at.
fn inherit_orphans() {
    if process::keeps_status() {
        return;
    }
    // SAFETY: a plain system call without pointers.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } < 0 {
        tracing::warn!("exit codes of containers whose keeper dies will be unknown");
    }
}

/// glibc's number; the libc crate does not have it for every target.
const POSIX_SPAWN_SETSID: i32 = 0x80;

/// Collects a keeper that has closed its connection.
pub(crate) fn reap(pid: i32) {
    for _ in 0..REAP_ATTEMPTS {
        let mut status = 0;
        // SAFETY: a plain system call; the pid is our child's until it is reaped here.
        let got = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
        if got == pid {
            tracing::info!(pid, status, "the keeper has ended");
            return;
        }
        if got < 0 {
            return;
        }
        std::thread::sleep(REAP_PAUSE);
    }
    tracing::warn!(pid, "the keeper closed its connection but has not ended");
}
