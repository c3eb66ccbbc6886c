//! The container's first process between clone and exec: a fixed sequence of system calls.
//!
//! **Invariants**: no heap, no locks, no panics, no libc state. It may share the keeper's memory, so it only writes to its
//! own stack and to the status word.

mod hooks;
mod identity;
mod join;
mod mounts;
mod program;
mod staged;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use gantry_keeper_proto::fault::Point;
use gantry_keeper_proto::plan::{Namespace, Plan, Step};

use crate::raw::{self, Errno, SysResult};

pub use hooks::HookPointers;

/// Shared between keeper and child: why the child gave up (zero while it has not), or its successor in a container.
#[repr(C)]
#[derive(Debug)]
pub struct Status {
    step: AtomicU32,
    detail: AtomicU32,
    errno: AtomicI32,
    child: AtomicI32,
}

impl Status {
    /// Nothing has failed.
    pub fn clear(&self) {
        self.step.store(0, Ordering::Release);
        self.child.store(0, Ordering::Release);
    }

    /// The process that was made in the container, if there is one.
    pub fn child(&self) -> Option<i32> {
        Some(self.child.load(Ordering::Acquire)).filter(|pid| *pid > 0)
    }

    /// What failed, if anything.
    pub fn failure(&self) -> Option<Failed> {
        let step = Step::from_number(self.step.load(Ordering::Acquire))?;
        Some(Failed {
            step,
            detail: self.detail.load(Ordering::Acquire),
            errno: self.errno.load(Ordering::Acquire),
        })
    }

    /// Says what failed.
    pub fn set(&self, failed: Failed) {
        self.detail.store(failed.detail, Ordering::Release);
        self.errno.store(failed.errno, Ordering::Release);
        self.step.store(failed.step as u32, Ordering::Release);
    }
}

/// A failed step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Which.
    pub step: Step,
    /// Which of several.
    pub detail: u32,
    /// The errno.
    pub errno: Errno,
}

/// What a step returns.
pub type Done<T = ()> = Result<T, Failed>;

/// Names the step of a failed call.
pub fn at<T>(step: Step, result: SysResult<T>) -> Done<T> {
    at_detail(step, 0, result)
}

/// Names the step and which of several.
pub fn at_detail<T>(step: Step, detail: usize, result: SysResult<T>) -> Done<T> {
    result.map_err(|errno| Failed {
        step,
        detail: detail as u32,
        errno,
    })
}

/// Everything the child needs, laid out before the clone.
pub struct Context<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Descriptors by their position in the plan.
    pub fds: &'a [RawFd],
    /// Arguments, null-terminated.
    pub argv: &'a [*const libc::c_char],
    /// Environment, null-terminated.
    pub env: &'a [*const libc::c_char],
    /// Arguments and environments of the hooks.
    pub hooks: &'a HookPointers,
    /// Where to say why it failed.
    pub status: &'a Status,
    /// Without shared memory: a pipe that closes on exec.
    pub exec_pipe: Option<RawFd>,
    /// Capabilities the keeper can give at all.
    pub available_capabilities: u64,
    /// Highest capability of this kernel.
    pub last_capability: u32,
    /// Limit of open files unless the plan has one.
    pub nofile: (u64, u64),
    /// Signals that the keeper ignores; handlers it has are gone with the clone.
    pub ignored_signals: u64,
    /// The host's /proc.
    pub proc: RawFd,
    /// A test wants it to hang here.
    pub hang: Option<Point>,
}

impl Context<'_> {
    pub(crate) fn fd(&self, index: u8) -> RawFd {
        // Checked when the plan was decoded; -1 gives EBADF.
        self.fds.get(usize::from(index)).copied().unwrap_or(-1)
    }

    /// Hangs for ever, if a test wants it here.
    pub(crate) fn reach(&self, point: Point) {
        while self.hang == Some(point) {
            raw::pause();
        }
    }
}

/// Entry of the child.
pub extern "C" fn entry(context: *const libc::c_void) -> ! {
    // SAFETY: the keeper passes a `Context` that it keeps until the child has executed or ended.
    let context = unsafe { &*context.cast::<Context<'_>>() };
    let done = match context.plan.join {
        Some(join) => join::run(context, join),
        None => run(context),
    };
    match done {
        Ok(never) => match never {},
        Err(failed) => context.status.set(failed),
    }
    raw::exit(1)
}

enum Never {}

fn run(context: &Context<'_>) -> Done<Never> {
    fresh_state(context)?;
    join_cgroups(context)?;
    mounts::write_oom_score(context)?;
    confine(context)?;
    if context.plan.is_staged() {
        return staged::run(context);
    }
    take_session(context)?;
    let chosen = furnish(context)?;
    identity::seal(context)?;
    program::execute(context, chosen)
}

/// The namespaces that are the container's own, as clone(2) takes them.
pub fn new_namespaces(plan: &Plan) -> i32 {
    let new = |namespace: Namespace| namespace == Namespace::New;
    let wanted = [
        (true, libc::CLONE_NEWNS),
        (new(plan.pid), libc::CLONE_NEWPID),
        (new(plan.ipc), libc::CLONE_NEWIPC),
        (!plan.host_uts, libc::CLONE_NEWUTS),
        (new(plan.network), libc::CLONE_NEWNET),
    ];
    let flags = wanted.iter().filter(|(wanted, _)| *wanted);
    flags.fold(0, |all, (_, flag)| all | flag)
}

/// Makes everything around the program, in the container's namespaces, and finds it. What is left is to
/// [`identity::seal`] and to execute it.
fn furnish<'a>(context: &Context<'a>) -> Done<&'a std::ffi::CStr> {
    let plan = context.plan;
    if plan.cgroup_namespace {
        at(Step::CgroupNamespace, raw::unshare(libc::CLONE_NEWCGROUP))?;
    }
    join_network(context)?;
    join_ipc(context)?;
    standard_streams(context)?;
    mounts::attach(context)?;
    if !plan.host_uts {
        name_host(plan)?;
    }
    mounts::write_sysctls(context)?;
    mounts::mask(context)?;
    mounts::make_readonly(context)?;
    // From here on no descriptor of the host is open, so no path of the container can lead out through one.
    at(Step::CloseFiles, close_files(context))?;
    limit(context)?;
    if !plan.is_staged() {
        leave_keyring()?;
    }
    identity::prepare(context)
}

/// Nothing of the keeper's that a program would notice.
fn fresh_state(context: &Context<'_>) -> Done {
    raw::umask(0o022);
    at(
        Step::Signals,
        raw::reset_signal_actions(context.ignored_signals),
    )
}

fn join_cgroups(context: &Context<'_>) -> Done {
    for (i, index) in context.plan.cgroup_procs.iter().enumerate() {
        at_detail(Step::CgroupAttach, i, raw::write(context.fd(*index), b"0"))?;
    }
    context.reach(Point::ChildBegin);
    Ok(())
}

/// What AppArmor is to make of the program, when it is executed.
fn confine(context: &Context<'_>) -> Done {
    const PREFIX: &[u8] = b"exec ";
    const MAX_BYTES: usize = 1024;
    let Some(profile) = &context.plan.apparmor_profile else {
        return Ok(());
    };
    let mut text = [0u8; MAX_BYTES];
    let parts = PREFIX.iter().chain(profile.to_bytes());
    let len = PREFIX.len() + profile.count_bytes();
    text.iter_mut()
        .zip(parts)
        .for_each(|(place, byte)| *place = *byte);
    let text = at(Step::AppArmor, text.get(..len).ok_or(libc::ENAMETOOLONG))?;
    // Where several modules are stacked, the common file is another's.
    let written = match mounts::write_of_host(context, c"self/attr/apparmor/exec", text) {
        Err(libc::ENOENT) => mounts::write_of_host(context, c"self/attr/exec", text),
        written => written,
    };
    at(Step::AppArmor, written)
}

fn name_host(plan: &Plan) -> Done {
    at(Step::Hostname, raw::sethostname(&plan.hostname))?;
    if plan.domainname.is_empty() {
        return Ok(());
    }
    at(Step::Hostname, raw::setdomainname(&plan.domainname))
}

fn join_ipc(context: &Context<'_>) -> Done {
    let Namespace::Join(fd) = context.plan.ipc else {
        return Ok(());
    };
    at(
        Step::IpcJoin,
        raw::setns(context.fd(fd), libc::CLONE_NEWIPC),
    )
}

fn join_network(context: &Context<'_>) -> Done {
    match context.plan.network {
        Namespace::Host => Ok(()),
        Namespace::Join(fd) => at(
            Step::NetworkJoin,
            raw::setns(context.fd(fd), libc::CLONE_NEWNET),
        ),
        Namespace::New => at(Step::Loopback, loopback_up()),
    }
}

fn loopback_up() -> SysResult {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: libc::c_short,
        rest: [u8; 22],
    }
    let socket = raw::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC)?;
    let mut name = [0; 16];
    name[0] = b'l';
    name[1] = b'o';
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let request = Request {
        name,
        flags,
        rest: [0; 22],
    };
    let result = raw::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request as usize);
    raw::close(socket);
    result
}

fn take_session(context: &Context<'_>) -> Done {
    let slave = context.plan.stdio.tty_slave;
    session(slave.map(|slave| context.fd(slave)))
}

/// A session of its own, with this terminal if there is one.
fn session(tty: Option<RawFd>) -> Done {
    at(Step::Session, raw::setsid())?;
    match tty {
        Some(tty) => at(Step::Terminal, raw::ioctl(tty, libc::TIOCSCTTY, 0)),
        None => Ok(()),
    }
}

fn standard_streams(context: &Context<'_>) -> Done {
    let stdio = &context.plan.stdio;
    let wanted = match stdio.tty_slave {
        Some(slave) => [Some(slave); 3],
        None => [stdio.stdin_read, stdio.stdout_write, stdio.stderr_write],
    };
    // The keeper's own 0 to 2 are /dev/null and a log file; without a stream of its own the container gets /dev/null.
    for (to, index) in wanted.into_iter().enumerate() {
        let from = index.map_or(0, |index| context.fd(index));
        if from != to as RawFd {
            at_detail(Step::Stdio, to, raw::dup3(from, to as RawFd, 0))?;
        }
    }
    Ok(())
}

fn close_files(context: &Context<'_>) -> SysResult {
    const FIRST: RawFd = 3;
    let [state, stdout, stderr] = hooks::kept_files(context);
    let mut kept = [context.exec_pipe, state, stdout, stderr].map(|fd| fd.unwrap_or(-1));
    kept.sort_unstable();
    let mut from = FIRST;
    for fd in kept.into_iter().filter(|fd| *fd >= FIRST) {
        if fd > from {
            raw::close_range(from as u32, fd as u32 - 1, 0)?;
        }
        from = fd + 1;
    }
    raw::close_range(from as u32, u32::MAX, 0)
}

fn limit(context: &Context<'_>) -> Done {
    let (soft, hard) = context.nofile;
    at(
        Step::Rlimit,
        raw::set_rlimit(libc::RLIMIT_NOFILE, soft, hard),
    )?;
    for (i, limit) in context.plan.rlimits.iter().enumerate() {
        at_detail(
            Step::Rlimit,
            i,
            raw::set_rlimit(limit.resource, limit.soft, limit.hard),
        )?;
    }
    Ok(())
}

/// Raises hard limits that only the host's root can raise. What is lowered is lowered at the end.
fn raise_limits(context: &Context<'_>) -> Done {
    for (i, limit) in context.plan.rlimits.iter().enumerate() {
        let (soft, hard) = at_detail(Step::Rlimit, i, raw::rlimit(limit.resource))?;
        if limit.hard > hard {
            at_detail(
                Step::Rlimit,
                i,
                raw::set_rlimit(limit.resource, soft, limit.hard),
            )?;
        }
    }
    Ok(())
}

fn leave_keyring() -> Done {
    match raw::new_session_keyring() {
        // Kernels without keyrings, and hosts whose own filter forbids them.
        Err(libc::ENOSYS | libc::EPERM | libc::EACCES) => Ok(()),
        result => at(Step::Keyring, result),
    }
}
