//! Requests of the daemon.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use gantry_keeper_proto::fault::{self, Point};
use gantry_keeper_proto::msg::{
    ADOPT_VERSION, EXEC_VERSION, Entry, Event, Failure, LIST_PAGE, RUNTIME_VERSION, Reply, Request,
};
use gantry_keeper_proto::plan::{Namespace, Plan, Step};
use gantry_keeper_proto::shm::{MAX_CONTAINERS_PER_KEEPER, RingMap};
use gantry_keeper_proto::wire::{MAX_FIELD_BYTES, WireError};

use crate::child::Failed;
use crate::container::{Container, read_memfd};
use crate::launch::{Started, reap, wait_for_end};
use crate::poll::Token;
use crate::server::{Server, wipe};
use crate::setup::Host;
use crate::{log, raw, setup};

/// Why a request is refused.
pub type Refusal = (Failure, i32);

/// A system call failed.
pub fn system(error: &io::Error) -> Refusal {
    (Failure::System, error.raw_os_error().unwrap_or(libc::EIO))
}

impl Server {
    /// Serves one request.
    pub fn serve(&mut self, number: u32, request: Request, fds: Vec<OwnedFd>) {
        let greeted = self.connection.as_ref().is_some_and(|c| c.greeted);
        let done = match request {
            Request::Hello { .. } => return self.hello(number),
            _ if !greeted => Err((Failure::Protocol, 0)),
            Request::Launch { plan } => return self.launch(number, plan, fds),
            Request::List { from_slot } => return self.list(number, from_slot),
            Request::HandOver { id } => return self.hand_over(number, &id),
            Request::Signal { id, signo } => self.signal(&id, signo),
            Request::Resize { id, rows, columns } => self.resize(&id, rows, columns),
            Request::CloseStdin { id } => self.close_stdin(&id),
            Request::Forget { id } => self.forget(&id),
            Request::SetRing { .. } => self.set_ring(fds),
            Request::ShutdownIfEmpty => self.end_if_empty(),
            Request::Inherit | Request::Adopt(_) if self.version < ADOPT_VERSION => {
                Err((Failure::Protocol, 0))
            }
            Request::Runtime { .. } if self.version < RUNTIME_VERSION => {
                Err((Failure::Protocol, 0))
            }
            Request::Inherit => self.inherit(fds),
            Request::Adopt(adopt) => return self.adopt(number, adopt, fds),
            Request::Runtime { plan } => return self.run_runtime(number, plan, fds),
        };
        match done {
            Ok(()) => self.reply(number, &Reply::Done, Vec::new()),
            Err((failure, errno)) => self.refuse(number, failure, errno),
        }
    }

    /// Answers that a request was not done.
    pub fn refuse(&mut self, number: u32, failure: Failure, errno: i32) {
        self.reply(
            number,
            &Reply::Failed {
                failure,
                step: 0,
                detail: 0,
                errno,
            },
            Vec::new(),
        );
    }

    fn hello(&mut self, number: u32) {
        let journal = match self.journal.fd().try_clone_to_owned() {
            Ok(fd) => fd,
            Err(e) => return self.refuse(number, Failure::System, system(&e).1),
        };
        let reply = Reply::Hello {
            version: self.version,
            pid: std::process::id() as i32,
            containers: self.ids.len() as u32,
        };
        self.reply(number, &reply, vec![journal]);
        if let Some(connection) = self.connection.as_mut() {
            connection.greeted = true;
        }
        let exits: Vec<Event> = self
            .slots
            .iter()
            .flatten()
            .filter_map(|c| {
                Some(Event::Exited {
                    id: c.id.clone(),
                    exit: c.exit?,
                })
            })
            .collect();
        exits.iter().for_each(|event| self.tell(event));
    }

    /// Answers with what there is.
    pub fn list(&mut self, number: u32, from_slot: u32) {
        if self.put_off_list(number, from_slot) {
            return;
        }
        let unnamed = |c: &&mut Box<Container>| c.start_time_ticks == 0 && c.exit.is_none();
        for container in self.slots.iter_mut().flatten().filter(unnamed) {
            name(container, &self.host);
        }
        let mut rest = self.slots.iter().flatten().filter(|c| c.slot >= from_slot);
        let entries: Vec<Entry> = rest.by_ref().take(LIST_PAGE).map(|c| c.entry()).collect();
        let next_slot = rest.next().map(|c| c.slot);
        self.reply(number, &Reply::List { entries, next_slot }, Vec::new());
    }

    fn launch(&mut self, number: u32, plan: Vec<u8>, fds: Vec<OwnedFd>) {
        if let Err(failed) = self.try_launch(number, plan, fds) {
            let Failed {
                step,
                detail,
                errno,
            } = failed;
            let reply = Reply::Failed {
                failure: Failure::Launch,
                step: step as u32,
                detail,
                errno,
            };
            self.reply(number, &reply, Vec::new());
        }
    }

    fn try_launch(&mut self, number: u32, bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Result<(), Failed> {
        fault::reach(Point::KeeperLaunchReceived);
        let plan = read_plan(bytes, &fds, Plan::decode)?;
        if plan.join.is_some() && self.version < EXEC_VERSION {
            self.refuse(number, Failure::Protocol, 0);
            return Ok(());
        }
        if self.is_taken(&plan.id) {
            self.refuse(number, Failure::Exists, 0);
            return Ok(());
        }
        let (slot, generation) = self.reserve_slot()?;
        let connection = self.connection.as_ref().map_or(0, |c| c.serial);
        let started = self
            .launcher
            .start(&plan, fds, (connection, number), &self.host);
        let Plan {
            id,
            env,
            argv,
            log_nonblocking,
            pid: pids,
            ..
        } = plan;
        fault::reach(Point::KeeperLaunchCloned);
        env.into_iter()
            .chain(argv)
            .for_each(|s| wipe(&mut s.into_bytes()));
        let Started {
            pid,
            pidfd,
            pending,
            ends,
            oom_counter,
        } = started?;
        let mut container = Box::new(Container::new(id, slot, generation, pid, pidfd));
        container.ends = ends;
        container.oom_counter = oom_counter;
        container.log_nonblocking = log_nonblocking;
        container.pending = pending;
        self.strays |= pids != Namespace::New;
        // One that only makes the container's process is not asked for, unless somebody wants a list.
        if container.pending.as_ref().is_none_or(|p| !p.staged) {
            name(&mut container, &self.host);
        }
        let waits = container.pending.is_some();
        self.insert(container);
        if waits {
            Ok(())
        } else {
            self.launched(slot, Some(number), None)
                .map_err(|_| journal_failed(slot))
        }
    }

    /// Whether a container has or will have this id.
    pub fn is_taken(&self, id: &str) -> bool {
        self.ids.contains_key(id) || self.runtimes.has_id(id)
    }

    /// A free slot, and its generation.
    pub fn reserve_slot(&mut self) -> Result<(u32, u16), Failed> {
        let slot = self.free_slot()?;
        let generation = self.journal.reset(slot);
        Ok((slot, generation.map_err(|_| journal_failed(slot))?))
    }

    /// Takes a container in.
    pub fn insert(&mut self, container: Box<Container>) {
        self.watch(&container);
        self.ids.insert(container.id.clone(), container.slot);
        if let Some(place) = self.slots.get_mut(container.slot as usize) {
            *place = Some(container);
        }
    }

    fn watch(&self, container: &Container) {
        // One that only makes the container's process ends before the pipe does, and would wake us until then.
        let staged = container.pending.as_ref().is_some_and(|p| p.staged);
        let pidfd = container
            .pidfd
            .as_ref()
            .filter(|_| !staged)
            .map(|fd| (fd, Token::Process(container.slot)));
        let pipe = container
            .pending
            .as_ref()
            .map(|p| (&p.pipe, Token::Exec(container.slot)));
        for (fd, token) in [pidfd, pipe].into_iter().flatten() {
            if let Err(e) = self.poll.watch(fd.as_fd(), token) {
                log(format_args!("{}: watch: {e}", container.id));
            }
        }
    }

    /// A slot that is free.
    pub fn free_slot(&mut self) -> Result<u32, Failed> {
        let mut free = (0..self.slots.len() as u32)
            .filter(|n| self.slots.get(*n as usize).is_some_and(Option::is_none));
        if let Some(slot) = free.find(|n| !self.runtimes.has_slot(*n)) {
            return Ok(slot);
        }
        let slot = self.slots.len() as u32;
        if slot >= MAX_CONTAINERS_PER_KEEPER {
            return Err(Failed {
                step: Step::Slots,
                detail: slot,
                errno: libc::ENOSPC,
            });
        }
        self.slots.push(None);
        Ok(slot)
    }

    /// A launch is decided: answers it, if who asked is still there, and drops the container if it failed. If who
    /// asked is gone, a failed launch ends like a container, so that the next daemon hears of it.
    pub fn launched(
        &mut self,
        slot: u32,
        number: Option<u32>,
        failed: Option<Failed>,
    ) -> io::Result<()> {
        let (no_daemon, version) = (self.daemon.is_none(), self.version);
        let Server {
            slots, host, poll, ..
        } = self;
        let Some(container) = slots.get_mut(slot as usize).and_then(Option::as_mut) else {
            return Ok(());
        };
        match (number, failed) {
            (Some(number), None) => {
                let reply = Reply::Launched {
                    pid: container.pid,
                    start_time_ticks: container.start_time_ticks,
                    slot,
                    generation: container.generation,
                };
                // So that the end of a process whose keeper dies is known. Without descriptors left, it is not.
                let pidfd = container.pidfd.as_ref().map(|fd| fd.try_clone());
                let pidfd = pidfd
                    .and_then(Result::ok)
                    .filter(|_| version >= ADOPT_VERSION);
                fault::reach(Point::KeeperLaunchNoted);
                self.reply(number, &reply, pidfd.into_iter().collect());
                fault::reach(Point::KeeperLaunchAnswered);
            }
            (None, None) if no_daemon => self.read_output_of(slot)?,
            (None, None) => {}
            (
                Some(number),
                Some(Failed {
                    step,
                    detail,
                    errno,
                }),
            ) => {
                let id = container.id.clone();
                if let Some(pidfd) = container.pidfd.as_ref() {
                    reap(pidfd);
                }
                self.drop_container(&id);
                let reply = Reply::Failed {
                    failure: Failure::Launch,
                    step: step as u32,
                    detail,
                    errno,
                };
                self.reply(number, &reply, Vec::new());
            }
            (None, Some(failed)) => {
                log(format_args!(
                    "{}: {failed:?}, and nobody to tell",
                    container.id
                ));
                if let Some(pidfd) = container.pidfd.as_ref() {
                    wait_for_end(pidfd);
                }
                if let Some(exit) = container.collect_exit(host, poll)? {
                    let id = container.id.clone();
                    self.tell(&Event::Exited { id, exit });
                }
            }
        }
        Ok(())
    }

    /// Nobody else reads its output.
    pub fn read_output_of(&mut self, slot: u32) -> io::Result<()> {
        match self.slots.get_mut(slot as usize).and_then(Option::as_mut) {
            Some(container) => container.start_reading(&self.poll),
            None => Ok(()),
        }
    }

    fn drop_container(&mut self, id: &str) {
        let Some(slot) = self.ids.remove(id) else {
            return;
        };
        if let Some(mut container) = self.slots.get_mut(slot as usize).and_then(Option::take) {
            // The daemon may hold copies of the pidfd and the pipe ends: closing ours does not take them out of epoll.
            let watched = container.pidfd.as_ref();
            if let Some(Err(e)) = watched.map(|pidfd| self.poll.forget(pidfd.as_fd())) {
                log(format_args!("{id}: {e}"));
            }
            if let Err(e) = container.stop_reading(&self.poll, &self.host.exec_root) {
                log(format_args!("{id}: {e}"));
            }
            container.remove_spill(&self.host.exec_root);
        }
    }

    fn forget(&mut self, id: &str) -> Result<(), Refusal> {
        fault::reach(Point::KeeperForgetReceived);
        let container = self.find(id).ok_or((Failure::NoContainer, 0))?;
        if container.exit.is_none() {
            return Err((Failure::System, libc::EBUSY));
        }
        self.drop_container(id);
        self.sweep_strays();
        fault::reach(Point::KeeperForgetDone);
        Ok(())
    }

    fn signal(&mut self, id: &str, signo: i32) -> Result<(), Refusal> {
        fault::reach(Point::KeeperSignalReceived);
        let container = self.find(id).ok_or((Failure::NoContainer, 0))?;
        let pidfd = container.pidfd.as_ref().ok_or((Failure::Ended, 0))?;
        // SAFETY: a plain system call without pointers (no siginfo).
        let sent = unsafe {
            raw::sys(
                libc::SYS_pidfd_send_signal,
                &[pidfd.as_raw_fd() as usize, signo as usize, 0, 0],
            )
        };
        fault::reach(Point::KeeperSignalSent);
        match sent {
            Ok(_) => Ok(()),
            Err(libc::ESRCH) => Err((Failure::Ended, libc::ESRCH)),
            Err(errno) => Err((Failure::System, errno)),
        }
    }

    fn resize(&mut self, id: &str, rows: u16, columns: u16) -> Result<(), Refusal> {
        let container = self.find(id).ok_or((Failure::NoContainer, 0))?;
        let master = container
            .ends
            .tty_master
            .as_ref()
            .ok_or((Failure::NoTerminal, 0))?;
        raw::set_window_size(master.as_raw_fd(), rows, columns)
            .map_err(|errno| (Failure::System, errno))
    }

    fn close_stdin(&mut self, id: &str) -> Result<(), Refusal> {
        let container = self.find(id).ok_or((Failure::NoContainer, 0))?;
        container.ends.stdin = None;
        Ok(())
    }

    fn set_ring(&mut self, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let fd = fds.into_iter().next().ok_or((Failure::Protocol, 0))?;
        let ring = RingMap::open(fd).map_err(|e| {
            log(format_args!("ring: {e}"));
            (Failure::Protocol, 0)
        })?;
        let daemon = self.daemon.as_mut().ok_or((Failure::Protocol, 0))?;
        daemon.ring = Some(ring);
        Ok(())
    }

    fn end_if_empty(&mut self) -> Result<(), Refusal> {
        if !self.ids.is_empty() || !self.runtimes.is_idle() {
            return Err((Failure::NotEmpty, 0));
        }
        self.ending = true;
        Ok(())
    }

    fn hand_over(&mut self, number: u32, id: &str) {
        let answer = match self.try_hand_over(id) {
            Ok(answer) => answer,
            Err((failure, errno)) => return self.refuse(number, failure, errno),
        };
        self.reply(number, &answer.0, answer.1);
    }

    fn try_hand_over(&mut self, id: &str) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        let Server {
            ids,
            slots,
            poll,
            host,
            ..
        } = self;
        let slot = *ids.get(id).ok_or((Failure::NoContainer, 0))?;
        let place = slots.get_mut(slot as usize).and_then(Option::as_mut);
        let container = place.ok_or((Failure::NoContainer, 0))?;
        container.stop_reading(poll, &host.exec_root).map_err(|e| {
            log(format_args!("{id}: {e}"));
            (Failure::System, libc::EIO)
        })?;
        fault::reach(Point::KeeperHandOver);
        let ends = &container.ends;
        let spill = container.spill_file().map(|f| f.as_fd());
        let all = [&ends.stdin, &ends.stdout, &ends.stderr, &ends.tty_master]
            .map(|e| e.as_ref().map(AsFd::as_fd));
        let fds: io::Result<Vec<OwnedFd>> = all
            .iter()
            .chain([&spill])
            .flatten()
            .map(|fd| fd.try_clone_to_owned())
            .collect();
        let reply = Reply::HandOver {
            stdin: ends.stdin.is_some(),
            stdout: ends.stdout.is_some(),
            stderr: ends.stderr.is_some(),
            tty_master: ends.tty_master.is_some(),
            spill: spill.is_some(),
            spill_bytes: container.spill_bytes(),
        };
        Ok((reply, fds.map_err(|e| system(&e))?))
    }
}

/// Finds when its process started.
fn name(container: &mut Container, host: &Host) {
    match setup::stat_of(host.proc.as_fd(), container.pid) {
        Ok(stat) => container.start_time_ticks = stat.start_time_ticks,
        Err(e) => log(format_args!("{}: start time: {e}", container.id)),
    }
}

fn journal_failed(slot: u32) -> Failed {
    Failed {
        step: Step::Journal,
        detail: slot,
        errno: libc::EIO,
    }
}

/// A plan from the message, or from its last descriptor. What it was in is wiped.
pub fn read_plan<P>(
    mut bytes: Vec<u8>,
    fds: &[OwnedFd],
    decode: impl FnOnce(&[u8], usize) -> Result<P, WireError>,
) -> Result<P, Failed> {
    let failed = |errno| Failed {
        step: Step::Plan,
        detail: 0,
        errno,
    };
    if bytes.is_empty() {
        let memfd = fds.last().ok_or(failed(libc::EBADMSG))?.try_clone();
        let read = memfd.and_then(|fd| read_memfd(fd, MAX_FIELD_BYTES));
        bytes = read.map_err(|e| failed(e.raw_os_error().unwrap_or(libc::EIO)))?;
    }
    let plan = decode(&bytes, fds.len());
    wipe(&mut bytes);
    plan.map_err(|e| {
        log(format_args!("a plan: {e}"));
        failed(libc::EBADMSG)
    })
}
