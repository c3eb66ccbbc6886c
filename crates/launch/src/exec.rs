//! Further processes of a running container (`docker exec`).

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use gantry_cgroup::Group;
use gantry_keeper_proto::plan::{CapabilityMasks, Join, Namespace, Plan, Rlimit, StdioFds, Step};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::client::Born;
use crate::error::{LaunchError, errno_text};
use crate::oci::ExternalExec;
use crate::prepare::{
    DaemonEnds, FdTable, Streams, candidates, filter_last, inline_or_memfd, make_streams, text,
};
use crate::remap::Remap;
use crate::sys::IN_ROOT;

/// `f_type` of a devpts.
const DEVPTS_MAGIC: i64 = 0x1cd1;
/// Exit codes as dockerd gives them to what could not be started.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
const NOT_STARTED: i32 = 128;

/// Everything about one further process.
#[derive(Debug)]
pub struct ExecSpec {
    /// Container id, a dot, exec id.
    pub id: String,
    /// A pidfd of the container's first process.
    pub init: OwnedFd,
    /// The container's root directory.
    pub root: OwnedFd,
    /// Program and arguments; the program is looked up in the container by PATH of `env`.
    pub argv: Vec<CString>,
    /// `NAME=value`.
    pub env: Vec<CString>,
    /// Working directory, absolute; must exist.
    pub cwd: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// First size of the terminal: rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// Standard input is a pipe (without a terminal) instead of /dev/null.
    pub open_stdin: bool,
    /// Capability sets.
    pub capabilities: CapabilityMasks,
    /// Filter program, 8 bytes per instruction.
    pub seccomp: Option<Arc<[u8]>>,
    /// No privileges by exec.
    pub no_new_privs: bool,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Written to oom_score_adj.
    pub oom_score_adj: Option<i32>,
    /// Ids of the container's user namespace, unless that is the host's.
    pub remap: Option<Arc<Remap>>,
    /// AppArmor's profile of the program.
    pub apparmor_profile: Option<CString>,
    /// The container's control group.
    pub group: Arc<Group>,
}

/// A process ready to be launched: [`crate::KeeperClient::launch_exec`].
#[derive(Debug)]
pub struct PreparedExec(ExecKind);

/// By whom it is launched.
#[derive(Debug)]
pub(crate) enum ExecKind {
    BuiltIn(Box<ExecParts>),
    External(ExternalExec),
}

#[derive(Debug)]
pub(crate) struct ExecParts {
    pub(crate) plan: Plan,
    pub(crate) plan_bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) ends: DaemonEnds,
}

impl PreparedExec {
    pub(crate) fn external(external: ExternalExec) -> PreparedExec {
        PreparedExec(ExecKind::External(external))
    }

    pub(crate) fn into_kind(self) -> ExecKind {
        self.0
    }
}

/// A launched process.
#[derive(Debug)]
pub struct LaunchedExec {
    /// Process id in the host's namespace.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: with the pid it names the process for good.
    pub start_time_ticks: u64,
    /// Journal slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u16,
    /// Write end of standard input.
    pub stdin: Option<OwnedFd>,
    /// Read end of standard output.
    pub stdout: Option<OwnedFd>,
    /// Read end of standard error.
    pub stderr: Option<OwnedFd>,
    /// The terminal, instead of the other three.
    pub tty_master: Option<OwnedFd>,
    /// The process, for when the keeper dies. A keeper of an earlier version gives none.
    pub pidfd: Option<OwnedFd>,
}

impl LaunchedExec {
    pub(crate) fn new(born: Born, ends: DaemonEnds) -> LaunchedExec {
        LaunchedExec {
            pid: born.pid,
            start_time_ticks: born.start_time_ticks,
            slot: born.slot,
            generation: born.generation,
            stdin: ends.stdin,
            stdout: ends.stdout,
            stderr: ends.stderr,
            tty_master: ends.tty_master,
            pidfd: born.pidfd,
        }
    }
}

/// Descriptors and plan of one process. Blocks.
pub fn prepare_exec(spec: ExecSpec) -> Result<PreparedExec, LaunchError> {
    if let Some(remap) = &spec.remap {
        remap
            .check(spec.uid, spec.gid, &spec.groups)
            .map_err(|reason| LaunchError::Join {
                reason,
                exit_code: NOT_STARTED,
            })?;
    }
    let mut fds = FdTable::default();
    let attach = spec.group.attach_fds()?;
    let cgroup_dir = attach.into.map(|fd| fds.add(fd)).transpose()?;
    let cgroup_procs = attach
        .procs
        .into_iter()
        .map(|fd| fds.add(fd))
        .collect::<Result<_, _>>()?;
    let streams = Streams {
        tty: spec.tty,
        console_size: spec.console_size,
        open_stdin: spec.open_stdin,
        uid: spec.uid,
        remap: spec.remap.as_deref(),
    };
    let (stdio, ends) = make_streams(streams, || devpts_of(&spec.root), &mut fds)?;
    let described = describe(&spec, stdio)?;
    let join = Join {
        pidfd: fds.add(spec.init)?,
        filter_last: filter_last(spec.seccomp.as_deref().unwrap_or_default(), spec.tty),
        user_namespace: spec.remap.is_some(),
    };
    let plan = Plan {
        cgroup_dir,
        cgroup_procs,
        join: Some(join),
        ..described
    };
    let plan_bytes = inline_or_memfd(plan.encode(), &mut fds)?;
    Ok(PreparedExec(ExecKind::BuiltIn(Box::new(ExecParts {
        plan,
        plan_bytes,
        fds: fds.into_vec(),
        ends,
    }))))
}

/// The directory of the container's own terminals. What lies at that path is the container's doing.
fn devpts_of(root: &OwnedFd) -> Result<OwnedFd, LaunchError> {
    let failed =
        |e: rustix::io::Errno| LaunchError::prepare("open", "/dev/pts of the container", e);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat2(
        root,
        "dev/pts",
        flags,
        Mode::empty(),
        IN_ROOT | ResolveFlags::NO_SYMLINKS,
    )
    .map_err(failed)?;
    let found = rustix::fs::fstatfs(dir.as_fd()).map_err(failed)?;
    if found.f_type as i64 != DEVPTS_MAGIC {
        return Err(failed(rustix::io::Errno::NOTTY));
    }
    Ok(dir)
}

fn describe(spec: &ExecSpec, stdio: StdioFds) -> Result<Plan, LaunchError> {
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    let (search_path, candidates) = candidates(&spec.argv, &spec.env)?;
    Ok(Plan {
        id: spec.id.clone(),
        may_block: true,
        log_nonblocking: true,
        rootfs: 0,
        cgroup_dir: None,
        cgroup_procs: Vec::new(),
        cgroup_namespace: false,
        oom_counter: None,
        network: Namespace::Host,
        pid: Namespace::New,
        ipc: Namespace::New,
        host_uts: false,
        stdio,
        hostname: CString::default(),
        domainname: CString::default(),
        mounts: Vec::new(),
        sysctls: Vec::new(),
        masked_paths: Vec::new(),
        mask_dir: None,
        readonly_paths: Vec::new(),
        rlimits: spec.rlimits.clone(),
        oom_score_adj: spec.oom_score_adj,
        uid: spec.uid,
        gid: spec.gid,
        groups: spec.groups.clone(),
        capabilities: spec.capabilities,
        no_new_privs: spec.no_new_privs,
        seccomp: spec.seccomp.as_deref().unwrap_or_default().to_vec(),
        cwd_parents: Vec::new(),
        cwd: text("working directory", cwd.as_bytes().to_vec())?,
        search_path,
        candidates,
        argv: spec.argv.clone(),
        env: spec.env.clone(),
        join: None,
        user: None,
        apparmor_profile: spec.apparmor_profile.clone(),
        filter_last: false,
        hooks: None,
    })
}

/// The error of a step, with runc's words about it and the exit code dockerd derives from them.
pub(crate) fn error(plan: &Plan, step: Step, errno: i32) -> LaunchError {
    let program = plan.argv.first().map(|a| a.to_string_lossy());
    let program = program.as_deref().unwrap_or_default();
    let why = errno_text(errno);
    let reason = match step {
        Step::LookupNotFound => format!("exec: {program:?}: executable file not found in $PATH"),
        Step::LookupStat => format!("exec: {program:?}: stat {program}: {why}"),
        Step::LookupDirectory => format!("exec: {program:?}: is a directory: permission denied"),
        Step::LookupPermission => format!("exec: {program:?}: {why}"),
        Step::Cwd => format!(
            "chdir to cwd ({:?}) set in config.json failed: {why}",
            plan.cwd.to_string_lossy()
        ),
        Step::CwdOutside => {
            "current working directory is outside of container mount namespace root -- possible \
                             container breakout detected"
                .to_owned()
        }
        other => format!("{}: {why}", other.text()),
    };
    let (suffix, exit_code) = match errno {
        libc::ENOENT => ("", NOT_FOUND),
        libc::EACCES | libc::EISDIR => ("", NOT_EXECUTABLE),
        // dockerd says so of every error with these words.
        libc::ENOTDIR => (
            ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path \
             exists and is the expected type",
            NOT_FOUND,
        ),
        _ => ("", NOT_STARTED),
    };
    LaunchError::Join {
        reason: reason + suffix,
        exit_code,
    }
}
