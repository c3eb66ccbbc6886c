//! The commands of one plan, one after the other, each a child of the keeper.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use gantry_keeper_proto::plan::{FdIndex, Step};
use gantry_keeper_proto::runtime::{MAX_PID_BYTES, NewProcess, RuntimePlan, parse_pid};
use gantry_keeper_proto::scm;

use super::helper::{self, Context};
use crate::child::{Done, Failed, at};
use crate::container::{Ends, read_memfd};
use crate::launch::{CLONE_CLEAR_SIGHAND, StatusPage, pointers, with_status};
use crate::raw;
use crate::server::open_pidfd;
use crate::setup::{Host, stat_of};

/// A process that a runtime left behind.
#[derive(Debug)]
pub struct Left {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub start_time_ticks: u64,
}

/// A process to be: what is reserved and kept for it.
#[derive(Debug)]
pub struct Unborn {
    pub plan: NewProcess,
    /// Journal slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u16,
    /// The keeper's ends of its streams.
    pub ends: Ends,
    pub oom_counter: Option<OwnedFd>,
    pid_dir: OwnedFd,
    console: Option<OwnedFd>,
    /// Set by the first command.
    pub left: Option<Left>,
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub status: StatusPage,
}

/// See the module.
#[derive(Debug)]
pub struct Sequence {
    commands: Vec<Vec<CString>>,
    env: Vec<CString>,
    cwd: CString,
    hidden: Vec<CString>,
    root: OwnedFd,
    mount_namespace: OwnedFd,
    /// Position of the command that runs or ran last.
    pub at: usize,
    pub running: Option<Running>,
    /// The request to answer, and the connection it came by.
    pub request: (u64, u32),
    pub process: Option<Unborn>,
    /// Instead of the first word of a command.
    program: Option<CString>,
    /// Readable when the command has taken too long.
    pub limit: Option<OwnedFd>,
    /// It has.
    pub late: bool,
}

/// What only the first command gets.
#[derive(Default)]
struct First<'a> {
    trees: &'a [(FdIndex, CString)],
    fds: &'a [RawFd],
    stdio: [RawFd; 3],
    cgroup_procs: Option<RawFd>,
}

fn failed(step: Step, e: &io::Error) -> Failed {
    Failed {
        step,
        detail: 0,
        errno: e.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// The descriptors of a message, taken one by one.
struct Taken(Vec<Option<OwnedFd>>);

impl Taken {
    fn take(&mut self, index: FdIndex) -> Done<OwnedFd> {
        let fd = self.0.get_mut(usize::from(index)).and_then(Option::take);
        // Named twice.
        at(Step::Plan, fd.ok_or(libc::EBADF))
    }

    fn optional(&mut self, index: Option<FdIndex>) -> Done<Option<OwnedFd>> {
        index.map(|index| self.take(index)).transpose()
    }
}

impl Sequence {
    /// Starts the first command. `reserved` is slot and generation for the process that comes of it.
    pub fn start(
        plan: RuntimePlan,
        fds: Vec<OwnedFd>,
        request: (u64, u32),
        reserved: Option<(u32, u16)>,
        host: &Host,
    ) -> Done<Sequence> {
        let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let mut taken = Taken(fds.into_iter().map(Some).collect());
        let number = |i: FdIndex| numbers.get(usize::from(i)).copied().unwrap_or(-1);
        let (mut stdio, mut cgroup_procs) = ([0, 0, 0], None);
        let mut limit = None;
        let mut program = None;
        if let Some(limits) = plan.limits {
            program = Some(limits.program);
            stdio = limits.stdio.map(number);
            let timer = super::timer(limits.timeout_ms);
            limit = Some(timer.map_err(|e| failed(Step::Plan, &e))?);
        }
        let process = match (plan.process, reserved) {
            (Some(process), Some((slot, generation))) => {
                let s = &process.stdio;
                let of = |index: Option<FdIndex>| index.map_or(0, number);
                stdio = [s.stdin_read, s.stdout_write, s.stderr_write].map(of);
                cgroup_procs = process.cgroup_procs.map(|index| of(Some(index)));
                Some(Unborn {
                    slot,
                    generation,
                    ends: Ends {
                        stdin: taken.optional(s.stdin_write)?,
                        stdout: taken.optional(s.stdout_read)?,
                        stderr: taken.optional(s.stderr_read)?,
                        tty_master: None,
                    },
                    oom_counter: taken.optional(process.oom_counter)?,
                    pid_dir: taken.take(process.pid_dir)?,
                    console: taken.optional(process.console)?,
                    left: None,
                    plan: process,
                })
            }
            _ => None,
        };
        let mut sequence = Sequence {
            root: taken.take(plan.root)?,
            mount_namespace: taken.take(plan.mount_namespace)?,
            commands: plan.commands,
            env: plan.env,
            cwd: plan.cwd,
            hidden: plan.hidden,
            at: 0,
            running: None,
            request,
            process,
            program,
            limit,
            late: false,
        };
        // What is left in `taken`, the process's ends and the trees, goes when the command has its copies.
        let first = First {
            trees: &plan.trees,
            fds: &numbers,
            stdio,
            cgroup_procs,
        };
        sequence.spawn(&first, host)?;
        Ok(sequence)
    }

    /// Starts the next command; false if there is none.
    pub fn next(&mut self, host: &Host) -> Done<bool> {
        self.running = None;
        if self.at + 1 >= self.commands.len() {
            return Ok(false);
        }
        self.at += 1;
        self.spawn(&First::default(), host)?;
        Ok(true)
    }

    /// Ends the command that runs.
    pub fn end_command(&self) {
        if let Some(running) = &self.running {
            kill(&running.pidfd, "a command");
            if self.limit.is_some() || self.late {
                // A hook's children too: it has a session of its own, and its number is not another's before it is collected.
                let _ = raw::kill(-running.pid, libc::SIGKILL);
            }
        }
    }

    fn spawn(&mut self, first: &First<'_>, host: &Host) -> Done {
        let command = self.commands.get(self.at).map_or(&[][..], Vec::as_slice);
        let program = self.program.as_ref().or(command.first());
        let program = at(Step::Plan, program.ok_or(libc::EINVAL))?;
        let status = StatusPage::new().map_err(|e| failed(Step::Status, &e))?;
        let (argv, env) = (pointers(command), pointers(&self.env));
        let context = Context {
            status: status.get(),
            argv: &argv,
            program,
            env: &env,
            mount_namespace: self.mount_namespace.as_raw_fd(),
            root: self.root.as_raw_fd(),
            cwd: &self.cwd,
            trees: first.trees,
            fds: first.fds,
            hidden: &self.hidden,
            stdio: first.stdio,
            cgroup_procs: first.cgroup_procs,
            nofile: host.nofile,
            ignored_signals: host.ignored_signals,
        };
        let (pid, pidfd) = with_status(&status, || fork(&context))?;
        self.running = Some(Running { pid, pidfd, status });
        Ok(())
    }
}

fn fork(context: &Context<'_>) -> Done<(i32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid `clone_args`.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: the child has a copy of this memory and goes on in it; `entry` never returns.
    let result = unsafe { raw::clone3(&args, helper::entry, (&raw const *context).cast()) };
    let pid = at(Step::Clone, result)?;
    // SAFETY: CLONE_PIDFD stored a new descriptor that is ours alone.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

impl Unborn {
    /// Takes over what the first command left: the process, whose parent the keeper is now, and its terminal.
    pub fn take_over(&mut self, host: &Host) -> Done {
        let pid = self
            .read_pid()
            .map_err(|e| failed(Step::RuntimePid, &e))?
            .ok_or(Failed {
                step: Step::RuntimePid,
                detail: 0,
                errno: libc::EBADMSG,
            })?;
        let pidfd = open_pidfd(pid).map_err(|e| failed(Step::RuntimePid, &e))?;
        // One that is not a child could never be waited for; and its number could be another's already.
        at(Step::RuntimePid, raw::is_child(pidfd.as_raw_fd()))?;
        let ticks = stat_of(host.proc.as_fd(), pid).map(|stat| stat.start_time_ticks);
        self.left = Some(Left {
            pid,
            pidfd,
            start_time_ticks: ticks.map_err(|e| failed(Step::RuntimePid, &e))?,
        });
        if let Some(listener) = self.console.take() {
            let master = receive_terminal(&listener);
            let master = master.map_err(|e| failed(Step::RuntimeConsole, &e))?;
            if let Some((rows, columns)) = self.plan.console_size {
                let sized = raw::set_window_size(master.as_raw_fd(), rows, columns);
                at(Step::RuntimeConsole, sized)?;
            }
            self.ends.tty_master = Some(master);
        }
        Ok(())
    }

    fn read_pid(&self) -> io::Result<Option<i32>> {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW;
        let fd = raw::openat2(self.pid_dir.as_raw_fd(), &self.plan.pid_file, flags, 0)
            .map_err(io::Error::from_raw_os_error)?;
        // SAFETY: the descriptor is new and ours alone.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(parse_pid(&read_memfd(file, MAX_PID_BYTES)?))
    }

    /// Ends the process that a failed sequence left. It is collected with the runtimes' other children.
    pub fn end(&self) {
        if let Some(left) = &self.left {
            kill(&left.pidfd, &self.plan.id);
        }
    }
}

fn kill(pidfd: &OwnedFd, what: &str) {
    let args = [pidfd.as_raw_fd() as usize, libc::SIGKILL as usize, 0, 0];
    // SAFETY: a plain system call without pointers (no siginfo).
    match unsafe { raw::sys(libc::SYS_pidfd_send_signal, &args) } {
        Ok(_) | Err(libc::ESRCH) => {}
        Err(errno) => crate::log(format_args!("{what}: not ended: errno {errno}")),
    }
}

/// The runtime has ended, so what it sent is there; nothing is waited for.
fn receive_terminal(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a plain system call that returns a new descriptor; the peer's address is not wanted.
    let fd = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            flags,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // The runtimes send the terminal's name along.
    let mut name = [0u8; 256];
    let mut fds = Vec::new();
    scm::receive(socket.as_fd(), &mut name, &mut fds)?;
    let master = fds.pop().ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: a plain system call on an open descriptor.
    match unsafe { libc::isatty(master.as_raw_fd()) } {
        1 => Ok(master),
        _ => Err(io::Error::from_raw_os_error(libc::ENOTTY)),
    }
}
