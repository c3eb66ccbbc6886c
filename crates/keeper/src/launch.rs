//! The keeper's side of a launch.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use gantry_keeper_proto::fault::{self, Point};
use gantry_keeper_proto::plan::{FdIndex, Plan, Step};

use crate::child::{self, Context, Done, Failed, HookPointers, Status, at};
use crate::container::{Ends, wait};
use crate::raw;
use crate::setup::Host;

/// Stack of a child that shares the keeper's memory. Its deepest frame holds one path (4 KiB).
const STACK_BYTES: usize = 128 * 1024;
const PAGE: usize = 4096;
/// The libc crate's constant has too few bits.
const CLONE_INTO_CGROUP: u64 = 1 << 33;
/// Signal handlers are gone in the child; what is ignored stays ignored (Linux 5.5).
pub const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

/// Memory of a mapping.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize, flags: i32) -> io::Result<Mapping> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh anonymous mapping touches no existing memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                flags | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Ok(Mapping { base, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; nothing borrowed from it lives on.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A status word that parent and child see, whether they share memory or not.
#[derive(Debug)]
pub struct StatusPage(Mapping);

impl StatusPage {
    /// All clear.
    pub fn new() -> io::Result<StatusPage> {
        let page = StatusPage(Mapping::new(PAGE, libc::MAP_SHARED)?);
        // Only the child it was made for gets it.
        raw::keep_from_forks(page.get()).map_err(io::Error::from_raw_os_error)?;
        Ok(page)
    }

    /// The word.
    pub fn get(&self) -> &Status {
        // SAFETY: the page is zeroed (valid for atomics), aligned, larger than `Status` and lives as long as `self`.
        unsafe { self.0.base.cast::<Status>().as_ref() }
    }
}

/// A clone that has not executed its program yet.
#[derive(Debug)]
pub struct Pending {
    /// Ends when it executes or gives up.
    pub pipe: OwnedFd,
    /// Says which.
    pub status: StatusPage,
    /// The request to answer, and the connection it came by.
    pub request: (u64, u32),
    /// The process that was cloned is not the one that executes.
    pub staged: bool,
}

/// What became of a clone whose pipe has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has executed its program.
    Executed,
    /// It has made another process, and ended. That one has executed the program, or given up.
    Entered(i32, Option<Failed>),
    /// It has given up.
    Failed(Failed),
}

/// What launches share.
#[derive(Debug)]
pub struct Launcher {
    stack: Mapping,
    status: StatusPage,
}

/// A process that was started.
#[derive(Debug)]
pub struct Started {
    /// Process id.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// It may still fail.
    pub pending: Option<Pending>,
    /// The keeper's ends.
    pub ends: Ends,
    /// Counts OOM kills.
    pub oom_counter: Option<File>,
}

fn system<T>(step: Step, result: io::Result<T>) -> Done<T> {
    at(
        step,
        result.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)),
    )
}

impl Launcher {
    /// Reserves what every launch uses.
    pub fn new() -> io::Result<Launcher> {
        let stack = Mapping::new(
            STACK_BYTES,
            libc::MAP_PRIVATE | libc::MAP_STACK | libc::MAP_NORESERVE,
        )?;
        // SAFETY: the lowest page of our own mapping becomes the guard.
        if unsafe { libc::mprotect(stack.base.as_ptr().cast(), PAGE, libc::PROT_NONE) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // Only children that share the memory use it.
        raw::keep_pages_from_forks(stack.base.as_ptr() as usize, stack.bytes)
            .map_err(io::Error::from_raw_os_error)?;
        Ok(Launcher {
            stack,
            status: StatusPage::new()?,
        })
    }

    /// Clones the container's first process. When it shares memory (the usual case) it has executed its program, or
    /// failed, when this returns; otherwise `pending` says how that is told.
    pub fn start(
        &self,
        plan: &Plan,
        fds: Vec<OwnedFd>,
        request: (u64, u32),
        host: &Host,
    ) -> Done<Started> {
        let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let (argv, env) = (pointers(&plan.argv), pointers(&plan.env));
        let slow = if plan.may_block || plan.is_staged() {
            Some(Slow::new()?)
        } else {
            None
        };
        let status = slow.as_ref().map_or(&self.status, |s| &s.status);
        status.get().clear();
        let hooks = HookPointers::new(plan.hooks.as_ref());
        let context = Context {
            plan,
            hooks: &hooks,
            fds: &numbers,
            argv: &argv,
            env: &env,
            status: status.get(),
            exec_pipe: slow.as_ref().map(|s| s.write.as_raw_fd()),
            available_capabilities: host.capabilities,
            last_capability: host.last_capability,
            nofile: host.nofile,
            ignored_signals: host.ignored_signals,
            proc: host.proc.as_raw_fd(),
            hang: [Point::ChildBegin, Point::ChildExec]
                .into_iter()
                .find(|point| fault::take(*point).is_some()),
        };
        let clone = || self.clone(&context);
        let cloned = match &slow {
            Some(s) => with_status(&s.status, clone),
            None => clone(),
        };
        let (pid, pidfd) = cloned?;
        if slow.is_none()
            && let Some(failed) = status.get().failure()
        {
            reap(&pidfd);
            return Err(failed);
        }
        // The write end must go, or the pipe never ends.
        let pending = slow.map(|s| Pending {
            pipe: s.read,
            status: s.status,
            request,
            staged: plan.is_staged(),
        });
        let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
        let mut take = |index: Option<FdIndex>| fds.get_mut(usize::from(index?))?.take();
        let ends = Ends {
            stdin: take(plan.stdio.stdin_write),
            stdout: take(plan.stdio.stdout_read),
            stderr: take(plan.stdio.stderr_read),
            tty_master: take(plan.stdio.tty_master),
        };
        let oom_counter = take(plan.oom_counter).map(File::from);
        Ok(Started {
            pid,
            pidfd,
            pending,
            ends,
            oom_counter,
        })
    }

    fn clone(&self, context: &Context<'_>) -> Done<(i32, OwnedFd)> {
        let mut pidfd: RawFd = -1;
        // SAFETY: all-zero is a valid `clone_args`.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = (namespaces(context.plan) | libc::CLONE_PIDFD) as u64 | CLONE_CLEAR_SIGHAND;
        args.pidfd = &raw mut pidfd as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        if let Some(dir) = context
            .plan
            .cgroup_dir
            .and_then(|i| context.fds.get(usize::from(i)))
        {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = *dir as u64;
        }
        if context.exec_pipe.is_none() {
            args.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
            args.stack = self.stack.base.as_ptr() as u64;
            args.stack_size = STACK_BYTES as u64;
        }
        // SAFETY: with shared memory the keeper is stopped until the child has executed or ended, so the stack and the
        // context are the child's alone for that time; without, the child has copies. `entry` never returns.
        let result = unsafe { raw::clone3(&args, child::entry, (&raw const *context).cast()) };
        let pid = at(Step::Clone, result)?;
        // SAFETY: CLONE_PIDFD stored a new descriptor that is ours alone.
        Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
    }
}

/// The new namespaces of the process that is cloned. In a user namespace that is not the keeper's they are made later,
/// so that they belong to it; an exec joins those there are.
fn namespaces(plan: &Plan) -> i32 {
    match (&plan.join, &plan.user) {
        (None, None) => child::new_namespaces(plan),
        _ => 0,
    }
}

/// Clones while the page is one that goes to forks.
pub fn with_status<T>(page: &StatusPage, clone: impl FnOnce() -> Done<T>) -> Done<T> {
    at(Step::Status, raw::give_to_forks(page.get()))?;
    let cloned = clone();
    if let Err(errno) = raw::keep_from_forks(page.get()) {
        crate::log(format_args!(
            "a status page goes to later forks: errno {errno}"
        ));
    }
    cloned
}

struct Slow {
    read: OwnedFd,
    write: OwnedFd,
    status: StatusPage,
}

impl Slow {
    fn new() -> Done<Slow> {
        let mut ends: [RawFd; 2] = [-1; 2];
        // SAFETY: the kernel fills both descriptors.
        let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
        if result < 0 {
            return system(Step::Status, Err(io::Error::last_os_error()));
        }
        // SAFETY: the descriptors are new and ours alone.
        let (read, write) =
            unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        Ok(Slow {
            read,
            write,
            status: system(Step::Status, StatusPage::new())?,
        })
    }
}

impl Pending {
    /// The process that executes, if another one has made it. It is known before it runs.
    pub fn child(&self) -> Option<i32> {
        self.status.get().child()
    }

    /// The pipe has ended: what became of the child.
    pub fn outcome(&self) -> Outcome {
        let status = self.status.get();
        match (status.failure(), status.child()) {
            (Some(failed), Some(pid)) if self.staged => Outcome::Entered(pid, Some(failed)),
            (Some(failed), _) => Outcome::Failed(failed),
            (None, _) if !self.staged => Outcome::Executed,
            (None, Some(pid)) => Outcome::Entered(pid, None),
            // Ended from outside, with the container's group for instance.
            (None, None) => Outcome::Failed(Failed {
                step: Step::Enter,
                detail: 0,
                errno: libc::ESRCH,
            }),
        }
    }
}

/// A null-terminated list of them.
pub fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Waits for a child that has given up and is on its way out.
pub fn wait_for_end(pidfd: &OwnedFd) {
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one live pollfd.
    unsafe { libc::poll(&mut poll, 1, -1) };
}

/// Collects a child that has given up.
pub fn reap(pidfd: &OwnedFd) {
    wait_for_end(pidfd);
    if let Err(e) = wait(pidfd) {
        crate::log(format_args!("collect a failed launch: {e}"));
    }
}
