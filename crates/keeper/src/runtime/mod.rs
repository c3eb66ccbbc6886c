//! Commands of external runtimes. The keeper starts them, never waits for one, and is the parent of what they leave
//! behind: a container's first process and execs are then entries like any other.

mod helper;
mod sequence;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use gantry_keeper_proto::msg::{Failure, Reply};
use gantry_keeper_proto::runtime::RuntimePlan;

use self::sequence::{Running, Sequence, Unborn};
use crate::child::Failed;
use crate::container::{Container, wait};
use crate::poll::Token;
use crate::serve::read_plan;
use crate::server::Server;
use crate::{log, raw};

/// Plans under way at once; one more is refused.
const MAX_SEQUENCES: usize = 256;
/// How long a new daemon waits at most for what an earlier one's runtimes are making; then they are ended.
const LAUNCH_LIMIT_MS: u32 = 10_000;

/// What is under way.
#[derive(Debug, Default)]
pub struct Runtimes {
    sequences: HashMap<u32, Sequence>,
    last: u32,
    /// Requests for a list that wait until no launch of an earlier connection is under way: connection, number, slot.
    lists: Vec<(u64, u32, u32)>,
    /// When they have waited long enough.
    deadline: Option<OwnedFd>,
}

impl Runtimes {
    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Whether a process comes of something under way: its end must not be taken for a stray's.
    pub fn is_launching(&self) -> bool {
        self.unborn().next().is_some()
    }

    /// Whether it is a command.
    pub fn has_pid(&self, pid: i32) -> bool {
        let running = self.sequences.values().filter_map(|s| s.running.as_ref());
        running.into_iter().any(|r| r.pid == pid)
    }

    fn unborn(&self) -> impl Iterator<Item = &Unborn> {
        self.sequences.values().filter_map(|s| s.process.as_ref())
    }

    /// Whether a process that comes of what is under way has this id.
    pub fn has_id(&self, id: &str) -> bool {
        self.unborn().any(|process| process.plan.id == id)
    }

    /// Whether a process that comes of what is under way has this slot.
    pub fn has_slot(&self, slot: u32) -> bool {
        self.unborn().any(|process| process.slot == slot)
    }

    fn is_launching_for_another(&self, connection: u64) -> bool {
        let mut launches = self.sequences.values().filter(|s| s.process.is_some());
        launches.any(|s| s.request.0 != connection)
    }
}

impl Server {
    /// Runs the commands of a plan.
    pub fn run_runtime(&mut self, number: u32, plan: Vec<u8>, fds: Vec<OwnedFd>) {
        match self.try_run(number, plan, fds) {
            Ok(()) => {}
            Err(Refused::Plainly(failure, errno)) => self.refuse(number, failure, errno),
            Err(Refused::Step(failed)) => self.reply(number, &step_failed(failed), Vec::new()),
        }
    }

    fn try_run(&mut self, number: u32, plan: Vec<u8>, fds: Vec<OwnedFd>) -> Result<(), Refused> {
        let plan = read_plan(plan, &fds, RuntimePlan::decode)?;
        if self.runtimes.sequences.len() >= MAX_SEQUENCES {
            return Err(Refused::Plainly(Failure::System, libc::EAGAIN));
        }
        let reserved = match &plan.process {
            None => None,
            Some(process) => {
                if self.is_taken(&process.id) {
                    return Err(Refused::Plainly(Failure::Exists, 0));
                }
                Some(self.reserve_slot()?)
            }
        };
        let serial = self.connection.as_ref().map_or(0, |c| c.serial);
        let sequence = Sequence::start(plan, fds, (serial, number), reserved, &self.host)?;
        // A runtime leaves helpers when it is killed.
        self.strays = true;
        let key = self.free_key();
        self.watch_command(&sequence, key);
        self.runtimes.sequences.insert(key, sequence);
        Ok(())
    }

    fn free_key(&mut self) -> u32 {
        loop {
            self.runtimes.last = self.runtimes.last.wrapping_add(1);
            if !self.runtimes.sequences.contains_key(&self.runtimes.last) {
                return self.runtimes.last;
            }
        }
    }

    fn watch_command(&self, sequence: &Sequence, key: u32) {
        let command = sequence.running.as_ref();
        let command = command.map(|running| (&running.pidfd, Token::Command(key)));
        let limit = sequence.limit.as_ref();
        let limit = limit.map(|timer| (timer, Token::CommandLimit(key)));
        for (fd, token) in [command, limit].into_iter().flatten() {
            if let Err(e) = self.poll.watch(fd.as_fd(), token) {
                log(format_args!("watch a command: {e}"));
            }
        }
    }

    /// A command has taken too long: it is ended, and its end is told as any other's.
    pub fn command_limit(&mut self, key: u32) -> io::Result<()> {
        if let Some(sequence) = self.runtimes.sequences.get_mut(&key) {
            // Closing the descriptor takes it out of epoll; nobody else has it.
            sequence.limit = None;
            sequence.late = true;
            sequence.end_command();
        }
        Ok(())
    }

    /// A command has ended.
    pub fn command_event(&mut self, key: u32) -> io::Result<()> {
        let Some(mut sequence) = self.runtimes.sequences.remove(&key) else {
            return Ok(());
        };
        let Some(running) = sequence.running.take() else {
            return Ok(());
        };
        let Some(exit) = wait(&running.pidfd)? else {
            sequence.running = Some(running);
            self.runtimes.sequences.insert(key, sequence);
            return Ok(());
        };
        self.poll.forget(running.pidfd.as_fd())?;
        match self.go_on(&mut sequence, &running, exit.wait_status) {
            Ok(true) => {
                self.watch_command(&sequence, key);
                self.runtimes.sequences.insert(key, sequence);
                return Ok(());
            }
            Ok(false) => self.finish(sequence),
            Err(reply) => {
                if let Some(process) = &sequence.process {
                    process.end();
                }
                self.answer(sequence.request, &reply, Vec::new());
            }
        }
        // Its helpers, and the process of a launch that failed.
        self.sweep_strays();
        self.serve_lists();
        Ok(())
    }

    /// Whether another command runs now, or what the plan failed with.
    fn go_on(
        &mut self,
        sequence: &mut Sequence,
        running: &Running,
        wait_status: i32,
    ) -> Result<bool, Reply> {
        if let Some(failed) = running.status.get().failure() {
            return Err(step_failed(failed));
        }
        if wait_status != 0 {
            return Err(Reply::Failed {
                failure: Failure::Runtime,
                step: sequence.at as u32,
                detail: u32::from(sequence.late),
                errno: wait_status,
            });
        }
        if let Some(process) = sequence.process.as_mut().filter(|p| p.left.is_none()) {
            process.take_over(&self.host).map_err(step_failed)?;
        }
        sequence.next(&self.host).map_err(step_failed)
    }

    fn finish(&mut self, sequence: Sequence) {
        let request = sequence.request;
        match sequence.process {
            None => self.answer(request, &Reply::Done, Vec::new()),
            Some(process) => self.born(request, process),
        }
    }

    fn born(&mut self, request: (u64, u32), process: Unborn) {
        let Unborn {
            plan,
            slot,
            generation,
            ends,
            oom_counter,
            left,
            ..
        } = process;
        let Some(left) = left else { return };
        let mut container = Container::new(plan.id, slot, generation, left.pid, left.pidfd);
        container.start_time_ticks = left.start_time_ticks;
        container.oom_counter = oom_counter.map(Into::into);
        container.log_nonblocking = plan.log_nonblocking;
        container.ends = ends;
        let passed: io::Result<Vec<OwnedFd>> =
            [container.pidfd.as_ref(), container.ends.tty_master.as_ref()]
                .into_iter()
                .flatten()
                .map(OwnedFd::try_clone)
                .collect();
        let reply = Reply::Launched {
            pid: container.pid,
            start_time_ticks: container.start_time_ticks,
            slot,
            generation,
        };
        self.insert(Box::new(container));
        let fds = passed.unwrap_or_else(|e| {
            // The daemon ends what it cannot read.
            log(format_args!("a terminal was not passed on: {e}"));
            Vec::new()
        });
        self.answer(request, &reply, fds);
        if self.daemon.is_none()
            && let Err(e) = self.read_output_of(slot)
        {
            log(format_args!("read the output of slot {slot}: {e}"));
        }
    }

    /// Answers who asked, if that connection is still there.
    fn answer(&mut self, (connection, number): (u64, u32), reply: &Reply, fds: Vec<OwnedFd>) {
        let here = self.connection.as_ref();
        if here.is_some_and(|c| c.serial == connection) {
            self.reply(number, reply, fds);
        } else {
            log(format_args!("{reply:?}, and nobody to tell"));
        }
    }

    /// Puts a list off while it would lack what an earlier daemon's launch is making. False if it need not wait.
    pub fn put_off_list(&mut self, number: u32, from_slot: u32) -> bool {
        let serial = self.connection.as_ref().map_or(0, |c| c.serial);
        if !self.runtimes.is_launching_for_another(serial) {
            return false;
        }
        self.runtimes.lists.push((serial, number, from_slot));
        if self.runtimes.deadline.is_none()
            && let Err(e) = self.set_deadline()
        {
            log(format_args!("a list may wait for long: {e}"));
        }
        true
    }

    fn set_deadline(&mut self) -> io::Result<()> {
        let timer = timer(LAUNCH_LIMIT_MS)?;
        self.poll.watch(timer.as_fd(), Token::Deadline)?;
        self.runtimes.deadline = Some(timer);
        Ok(())
    }

    /// A daemon has waited long enough: what an earlier one launches is given up. Nobody was told that it runs.
    pub fn give_up_launches(&mut self) -> io::Result<()> {
        // Closing the descriptor takes it out of epoll; nobody else has it.
        self.runtimes.deadline = None;
        let serial = self.connection.as_ref().map_or(0, |c| c.serial);
        let launches = self.runtimes.sequences.values();
        for launch in launches.filter(|s| s.process.is_some() && s.request.0 != serial) {
            launch.end_command();
        }
        Ok(())
    }

    fn serve_lists(&mut self) {
        let serial = self.connection.as_ref().map_or(0, |c| c.serial);
        if !self.runtimes.is_launching_for_another(serial) {
            self.runtimes.deadline = None;
        }
        for (connection, number, from_slot) in std::mem::take(&mut self.runtimes.lists) {
            if connection == serial {
                self.list(number, from_slot);
            }
        }
    }
}

fn timer(ms: u32) -> io::Result<OwnedFd> {
    let timer = raw::timer(ms).map_err(io::Error::from_raw_os_error)?;
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(timer) })
}

/// Why a plan was not begun.
enum Refused {
    Plainly(Failure, i32),
    Step(Failed),
}

impl From<Failed> for Refused {
    fn from(failed: Failed) -> Self {
        Refused::Step(failed)
    }
}

fn step_failed(failed: Failed) -> Reply {
    Reply::Failed {
        failure: Failure::Launch,
        step: failed.step as u32,
        detail: failed.detail,
        errno: failed.errno,
    }
}
