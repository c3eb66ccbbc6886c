//! Hooks of the OCI runtime specification, as far as the container's first process has to do with them: it shows the root
//! file system where they expect it, waits for those that run in the host's namespaces, and runs the others itself.

use std::ffi::CStr;
use std::os::fd::RawFd;

use gantry_keeper_proto::plan::{HookCommand, HookEnd, HookPlan, Step};

use super::mounts::decimal;
use super::{Context, Done, Failed, at, program};
use crate::raw::{self, Errno, SysResult};

/// Most bytes of a hook's output in a message of its failure.
const SAID_BYTES: usize = 1024;

/// A hook's arguments and environment as execve takes them, in the order of the plan: createContainer, startContainer.
#[derive(Debug, Default)]
pub struct HookPointers(Vec<Pointers>);

#[derive(Debug)]
struct Pointers {
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
}

impl HookPointers {
    /// Of a plan's hooks. Before the clone.
    pub fn new(plan: Option<&HookPlan>) -> HookPointers {
        let hooks = plan.map(|plan| plan.create_container.iter().chain(&plan.start_container));
        let pointers = |hook: &HookCommand| Pointers {
            argv: crate::launch::pointers(&hook.argv),
            env: crate::launch::pointers(&hook.env),
        };
        HookPointers(hooks.into_iter().flatten().map(pointers).collect())
    }
}

/// Descriptors that the hooks of the container's start need, when all others are closed.
pub(super) fn kept_files(context: &Context<'_>) -> [Option<RawFd>; 3] {
    let hooks = context.plan.hooks.as_ref();
    let hooks = hooks.filter(|hooks| !hooks.start_container.is_empty());
    let fds = hooks.map(|hooks| [hooks.start_state, hooks.stdout, hooks.stderr]);
    fds.map_or([None; 3], |fds| fds.map(|fd| Some(context.fd(fd))))
}

/// Enters a copy of the daemon's mounts, and attaches the root file system there: hooks find it by its path. The working
/// directory is the root file system then.
pub(super) fn show_root(context: &Context<'_>, hooks: &HookPlan) -> Done {
    let entered = raw::setns(context.fd(hooks.mount_namespace), libc::CLONE_NEWNS)
        .and_then(|()| raw::fchdir(context.fd(hooks.root)))
        .and_then(|()| raw::chroot(c"."))
        .and_then(|()| raw::unshare(libc::CLONE_NEWNS))
        .and_then(|()| raw::make_private(c"/"));
    at(Step::HookRoot, entered)?;
    let root = context.fd(context.plan.rootfs);
    let attached = place(&hooks.root_point).and_then(|point| {
        let moved = raw::move_mount(root, point);
        raw::close(point);
        moved
    });
    at(Step::Rootfs, attached)?;
    at(Step::Rootfs, raw::fchdir(root))
}

/// Puts a copy of the root file system, in which the process is, on top of it: the kernel does not let a user namespace
/// move what came into its mounts from outside.
pub(super) fn renew_root() -> Done {
    let renewed = place(c".").and_then(|old| {
        let copy = raw::clone_tree(old, true)?;
        raw::move_mount(copy, old)?;
        raw::close(old);
        raw::fchdir(copy)?;
        raw::close(copy);
        Ok(())
    });
    at(Step::Rootfs, renewed)
}

fn place(path: &CStr) -> SysResult<RawFd> {
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    raw::openat2(libc::AT_FDCWD, path, flags, 0)
}

/// Lets the hooks of the host's namespaces run, then runs those that are to see the root file system before it is `/`.
pub(super) fn create(context: &Context<'_>, hooks: &HookPlan) -> Done {
    let gate = context.fd(hooks.gate);
    at(Step::HookGate, raw::send(gate, b"1"))?;
    if at(Step::HookGate, raw::read_byte(gate))?.is_none() {
        // Nobody is there to let us go on, or one of them failed.
        return at(Step::HookGate, Err(libc::ECANCELED));
    }
    let state = context.fd(hooks.create_state);
    run_all(context, hooks, &hooks.create_container, 0, state).map_err(|(number, end)| {
        let (detail, errno) = end.encode(number);
        Failed {
            step: Step::HookCreate,
            detail,
            errno,
        }
    })
}

/// Runs those that come right before the program. The container has been started as far as Docker's clients see: a failure
/// goes to its standard error.
pub(super) fn start(context: &Context<'_>) {
    let Some(hooks) = &context.plan.hooks else {
        return;
    };
    let state = context.fd(hooks.start_state);
    let before = hooks.create_container.len();
    let all = &hooks.start_container;
    if let Err((number, end)) = run_all(context, hooks, all, before, state) {
        let path = all.get(number).map_or(c"", |hook| &hook.path);
        let timeout_ms = all.get(number).map_or(0, |hook| hook.timeout_ms);
        tell(context, hooks, (number, path, timeout_ms), end);
        raw::exit(program::EXEC_FAILED)
    }
}

/// Runs one after the other, up to the first that fails; `before` is the position of the first in [`HookPointers`].
fn run_all(
    context: &Context<'_>,
    hooks: &HookPlan,
    all: &[HookCommand],
    before: usize,
    state: RawFd,
) -> Result<(), (usize, HookEnd)> {
    let stdio = [state, context.fd(hooks.stdout), context.fd(hooks.stderr)];
    for (number, hook) in all.iter().enumerate() {
        let ended = match context.hooks.0.get(before + number) {
            Some(pointers) => run(hook, pointers, stdio),
            None => Err(libc::EINVAL),
        };
        let end = match ended {
            Ok(HookEnd::Status(0)) => continue,
            Ok(end) => end,
            Err(errno) => HookEnd::NotExecuted(errno),
        };
        return Err((number, end));
    }
    Ok(())
}

fn run(hook: &HookCommand, pointers: &Pointers, stdio: [RawFd; 3]) -> SysResult<HookEnd> {
    for fd in stdio {
        raw::seek(fd, 0, libc::SEEK_SET)?;
    }
    let [told, tell] = raw::pipe()?;
    let (pid, pidfd) = raw::fork()?;
    if pid == 0 {
        let errno = execute(hook, pointers, stdio);
        // Nobody else can be told.
        let _ = raw::write(tell, &errno.to_ne_bytes());
        raw::exit(1)
    }
    raw::close(tell);
    let ended = wait(hook, pid, pidfd, told);
    raw::close(told);
    raw::close(pidfd);
    ended
}

/// In the hook's process; comes back with why it does not run.
fn execute(hook: &HookCommand, pointers: &Pointers, stdio: [RawFd; 3]) -> Errno {
    let ready = raw::setsid().and_then(|()| {
        for (to, from) in stdio.into_iter().enumerate() {
            raw::dup3(from, to as RawFd, 0)?;
        }
        raw::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    });
    match ready {
        // SAFETY: both lists were made null-terminated from strings of the plan, of which this process has a copy.
        Ok(()) => unsafe { raw::execve(&hook.path, &pointers.argv, &pointers.env) },
        Err(errno) => errno,
    }
}

fn wait(hook: &HookCommand, pid: i32, pidfd: RawFd, told: RawFd) -> SysResult<HookEnd> {
    // Each wait may take the whole time: what does not come to be executed ends, or is ended, in one of them.
    let executed = raw::wait_readable(told, hook.timeout_ms)?;
    let in_time = executed && raw::wait_readable(pidfd, hook.timeout_ms)?;
    if !in_time {
        // It has a session of its own, but perhaps not yet.
        for target in [-pid, pid] {
            match raw::kill(target, libc::SIGKILL) {
                Ok(()) | Err(libc::ESRCH) => {}
                Err(errno) => return Err(errno),
            }
        }
        raw::wait_for(pid)?;
        return Ok(HookEnd::TimedOut);
    }
    let mut errno = [0u8; 4];
    let n = raw::read(told, &mut errno)?;
    let status = raw::wait_for(pid)?;
    Ok(match n {
        4 => HookEnd::NotExecuted(i32::from_ne_bytes(errno)),
        _ => HookEnd::Status(status),
    })
}

/// In the words of the OCI runtime behind dockerd, on standard error.
fn tell(
    context: &Context<'_>,
    hooks: &HookPlan,
    (number, path, timeout_ms): (usize, &CStr, u32),
    end: HookEnd,
) {
    let (mut digits, mut second) = ([0u8; 12], [0u8; 12]);
    let number = decimal(number as i32, &mut digits);
    program::say(&[b"error running startContainer hook #", number, b": "]);
    match end {
        HookEnd::NotExecuted(errno) => {
            let why = program::text(errno).as_bytes();
            program::say(&[b"fork/exec ", path.to_bytes(), b": ", why]);
        }
        HookEnd::TimedOut => {
            let whole = decimal((timeout_ms / 1000) as i32, &mut digits);
            let tenth = decimal((timeout_ms % 1000 / 100) as i32, &mut second);
            let parts = [b"hook ran past specified timeout of ", whole, b".", tenth];
            program::say(&parts);
            program::say(&[b"s"]);
        }
        HookEnd::Status(status) => {
            let (what, code): (&[u8], _) = match libc::WIFEXITED(status) {
                true => (b"exit status ", libc::WEXITSTATUS(status)),
                false => (b"signal ", libc::WTERMSIG(status)),
            };
            program::say(&[what, decimal(code, &mut digits), b", stdout: "]);
            repeat(context.fd(hooks.stdout));
            program::say(&[b", stderr: "]);
            repeat(context.fd(hooks.stderr));
        }
    }
    program::say(&[b"\n"]);
}

/// What a hook has said, as far as it fits.
fn repeat(from: RawFd) {
    let mut said = [0u8; SAID_BYTES];
    let end = raw::seek(from, 0, libc::SEEK_CUR).unwrap_or(0);
    let wanted = end.min(said.len());
    let read = said.get_mut(..wanted).map(|buf| raw::read_at(from, buf, 0));
    if let Some(Ok(n)) = read {
        program::say(&[said.get(..n).unwrap_or_default()]);
    }
}
