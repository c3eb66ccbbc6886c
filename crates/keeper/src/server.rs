//! The event loop: connection, daemon, processes, pipes.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use gantry_keeper_proto::fault::{self, Point};
use gantry_keeper_proto::msg::{Event, PROTOCOL_VERSION, Reply, Request};
use gantry_keeper_proto::plan::Step;
use gantry_keeper_proto::scm;
use gantry_keeper_proto::shm::{
    JournalMap, MAX_CONTAINERS_PER_KEEPER, RingMap, Stream, drain_ring,
};

use crate::child::Failed;
use crate::container::{Container, unlink, write_file};
use crate::launch::{Launcher, Outcome, reap};
use crate::poll::{Poll, Token, is_readable};
use crate::runtime::Runtimes;
use crate::setup::{Host, stat_of};
use crate::strays::STRAY_SWEEP_MS;
use crate::{log, raw};

/// Messages that may wait for a slow daemon; beyond that its connection is dropped.
const MAX_QUEUED: usize = 4 * MAX_CONTAINERS_PER_KEEPER as usize;

/// A message and its descriptors.
type Packet = (Vec<u8>, Vec<OwnedFd>);

/// The daemon's connection.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    queue: VecDeque<Packet>,
    /// Counts connections: an answer to an earlier one must not reach this one.
    pub serial: u64,
    /// Its first message was a hello.
    pub greeted: bool,
}

/// The process at the other end.
#[derive(Debug)]
pub struct Daemon {
    pid: i32,
    pidfd: OwnedFd,
    /// Its ring, so that what is in it can be saved.
    pub ring: Option<RingMap>,
}

/// All there is.
#[derive(Debug)]
pub struct Server {
    /// What the keeper brought along.
    pub host: Host,
    /// Readiness.
    pub poll: Poll,
    /// The journal.
    pub journal: JournalMap,
    /// Containers by slot.
    pub slots: Vec<Option<Box<Container>>>,
    /// Slots by id.
    pub ids: HashMap<String, u32>,
    /// Launches.
    pub launcher: Launcher,
    /// Commands of external runtimes.
    pub runtimes: Runtimes,
    /// The daemon that lives.
    pub daemon: Option<Daemon>,
    /// The connection, if there is one.
    pub connection: Option<Connection>,
    /// A connection of another process, which waits until the daemon before is dead.
    waiting: Option<(OwnedFd, i32, OwnedFd)>,
    /// Connections so far.
    connections: u64,
    socket_name: String,
    pid_name: String,
    /// Set by a request to end.
    pub ending: bool,
    /// The version that is spoken.
    pub version: u32,
    /// Children may have come that no slot knows.
    pub strays: bool,
    buf: Vec<u8>,
}

impl Server {
    /// Serves shard `shard`; `parent` is the daemon that started us.
    pub fn new(host: Host, shard: &str, parent: i32) -> io::Result<Server> {
        let journal = JournalMap::create().map_err(io::Error::other)?;
        let poll = Poll::new()?;
        poll.watch(host.listener.as_fd(), Token::Listener)?;
        let mut server = Server {
            host,
            poll,
            journal,
            slots: Vec::new(),
            ids: HashMap::new(),
            launcher: Launcher::new()?,
            runtimes: Runtimes::default(),
            daemon: None,
            connection: None,
            waiting: None,
            connections: 0,
            socket_name: format!("keeper-{shard}.sock"),
            pid_name: format!("keeper-{shard}.pid"),
            ending: false,
            version: spoken_version(),
            strays: false,
            buf: vec![0; scm::MAX_MESSAGE_BYTES],
        };
        server.leave_name()?;
        match open_pidfd(parent) {
            Ok(pidfd) => server.meet(parent, pidfd)?,
            // It died at once; without containers there is nothing to wait for, unless someone is at the door.
            Err(e) => log(format_args!("no daemon: {e}")),
        }
        Ok(server)
    }

    /// Runs until nobody needs it any more.
    pub fn run(mut self) -> io::Result<()> {
        let mut tokens = Vec::new();
        loop {
            if self.is_superfluous() {
                unlink(&self.host.exec_root, &self.pid_name)?;
                return unlink(&self.host.exec_root, &self.socket_name);
            }
            tokens.clear();
            let timeout_ms = if self.strays { STRAY_SWEEP_MS } else { -1 };
            self.poll.wait(&mut tokens, timeout_ms)?;
            if tokens.is_empty() {
                self.sweep_strays();
            }
            for token in tokens.drain(..) {
                self.handle(token);
            }
        }
    }

    /// Says who serves the socket: a clone of a keeper that died holds it open for a while.
    fn leave_name(&self) -> io::Result<()> {
        let pid = std::process::id() as i32;
        let ticks = stat_of(self.host.proc.as_fd(), pid)?.start_time_ticks;
        write_file(
            &self.host.exec_root,
            &self.pid_name,
            &format!("{pid} {ticks}\n"),
        )
    }

    fn is_superfluous(&self) -> bool {
        if !self.ids.is_empty() || !self.runtimes.is_idle() {
            return false;
        }
        let flushed = self.connection.as_ref().is_none_or(|c| c.queue.is_empty());
        if self.ending && flushed {
            return true;
        }
        self.daemon.is_none()
            && self.connection.is_none()
            && self.waiting.is_none()
            && !is_readable(self.host.listener.as_fd())
    }

    fn handle(&mut self, token: Token) {
        let result = match token {
            Token::Listener => self.accept(),
            Token::Connection => self.serve_connection(),
            Token::Daemon => self.daemon_event(),
            Token::Process(slot) => self.process_event(slot),
            Token::Stdout(slot) => self.output_event(slot, Stream::Stdout),
            Token::Stderr(slot) => self.output_event(slot, Stream::Stderr),
            Token::Exec(slot) => self.exec_event(slot),
            Token::Command(number) => self.command_event(number),
            Token::Deadline => self.give_up_launches(),
            Token::CommandLimit(number) => self.command_limit(number),
        };
        if let Err(e) = result {
            log(format_args!("{token:?}: {e}"));
        }
    }

    /// A container by slot.
    pub fn container(&mut self, slot: u32) -> Option<&mut Container> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// A container by id.
    pub fn find(&mut self, id: &str) -> Option<&mut Container> {
        let slot = *self.ids.get(id)?;
        self.container(slot)
    }

    fn accept(&mut self) -> io::Result<()> {
        if self.connection.is_some() || self.waiting.is_some() {
            return self.listen(false);
        }
        // SAFETY: a plain system call that returns a new descriptor; the peer's address is not wanted.
        let fd = unsafe {
            libc::accept4(
                self.host.listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours alone.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let (pid, pidfd) = peer(&socket)?;
        match &self.daemon {
            Some(known) if known.pid != pid && !is_readable(known.pidfd.as_fd()) => {
                self.waiting = Some((socket, pid, pidfd));
            }
            Some(known) if known.pid == pid && !is_readable(known.pidfd.as_fd()) => {
                self.connect(socket)?
            }
            _ => {
                self.bury_daemon();
                self.meet(pid, pidfd)?;
                self.connect(socket)?;
            }
        }
        self.listen(false)
    }

    fn listen(&mut self, wanted: bool) -> io::Result<()> {
        self.poll.forget(self.host.listener.as_fd())?;
        if wanted {
            self.poll.watch(self.host.listener.as_fd(), Token::Listener)
        } else {
            Ok(())
        }
    }

    fn meet(&mut self, pid: i32, pidfd: OwnedFd) -> io::Result<()> {
        self.poll.watch(pidfd.as_fd(), Token::Daemon)?;
        self.daemon = Some(Daemon {
            pid,
            pidfd,
            ring: None,
        });
        Ok(())
    }

    fn connect(&mut self, socket: OwnedFd) -> io::Result<()> {
        self.poll.watch(socket.as_fd(), Token::Connection)?;
        self.connections += 1;
        self.connection = Some(Connection {
            socket,
            queue: VecDeque::new(),
            serial: self.connections,
            greeted: false,
        });
        Ok(())
    }

    fn disconnect(&mut self) {
        // Closing the descriptor takes it out of epoll; nobody else has it.
        self.connection = None;
        if self.waiting.is_none()
            && let Err(e) = self.listen(true)
        {
            log(format_args!("listen again: {e}"));
        }
    }

    fn daemon_event(&mut self) -> io::Result<()> {
        if self
            .daemon
            .as_ref()
            .is_some_and(|d| is_readable(d.pidfd.as_fd()))
        {
            self.bury_daemon();
        }
        Ok(())
    }

    /// The daemon is dead: its completions are saved, then the pipes are read here. Then the next one may come in.
    fn bury_daemon(&mut self) {
        let Some(mut dead) = self.daemon.take() else {
            return;
        };
        self.connection = None;
        for container in self.slots.iter_mut().flatten() {
            if let Err(e) = container.go_on_after_daemon(&self.journal, &self.host.exec_root) {
                log(format_args!("{}: its spill: {e}", container.id));
            }
        }
        if let Some(ring) = dead.ring.take() {
            self.drain(ring);
        }
        for container in self.slots.iter_mut().flatten() {
            if let Err(e) = container.start_reading(&self.poll) {
                log(format_args!("{}: read the output: {e}", container.id));
            }
        }
        let next = match self.waiting.take() {
            Some((socket, pid, pidfd)) => self.meet(pid, pidfd).and_then(|()| self.connect(socket)),
            None => self.listen(true),
        };
        if let Err(e) = next {
            log(format_args!("next daemon: {e}"));
        }
    }

    fn drain(&mut self, ring: RingMap) {
        let Server {
            slots,
            host,
            journal,
            ..
        } = self;
        let result = drain_ring(ring, journal, &mut |slot, stream, bytes| match slots
            .get_mut(slot as usize)
            .and_then(Option::as_mut)
        {
            Some(container) => container.keep(&host.exec_root, stream, bytes),
            None => Ok(()),
        });
        match result {
            Ok(stats) => log(format_args!(
                "the daemon is gone; saved from its ring: {stats:?}"
            )),
            Err(e) => log(format_args!(
                "the daemon is gone; its ring could not be saved: {e}"
            )),
        }
    }

    fn output_event(&mut self, slot: u32, stream: Stream) -> io::Result<()> {
        let Server {
            slots,
            poll,
            journal,
            host,
            ..
        } = self;
        let Some(container) = slots.get_mut(slot as usize).and_then(Option::as_mut) else {
            return Ok(());
        };
        let result = container.read_output(stream, poll, journal, &host.exec_root);
        if let Err(e) = result {
            // The disk is full, say: the bytes stay in the pipe, the container waits. Level-triggered epoll would
            // spin; the next daemon takes over where this stopped.
            log(format_args!("{}: {e}", container.id));
            return container
                .stop_reading(poll, &host.exec_root)
                .map_err(io::Error::other);
        }
        Ok(())
    }

    fn process_event(&mut self, slot: u32) -> io::Result<()> {
        let Server {
            slots, host, poll, ..
        } = self;
        let Some(container) = slots.get_mut(slot as usize).and_then(Option::as_mut) else {
            return Ok(());
        };
        if container.pending.is_some() {
            // The end of its pipe comes first and says whether it ever was a container.
            return self.exec_event(slot);
        }
        fault::reach(Point::KeeperExitSeen);
        let Some(exit) = container.collect_exit(host, poll)? else {
            return Ok(());
        };
        fault::reach(Point::KeeperExitCollected);
        let id = container.id.clone();
        self.tell(&Event::Exited { id, exit });
        fault::reach(Point::KeeperExitTold);
        self.sweep_strays();
        Ok(())
    }

    fn exec_event(&mut self, slot: u32) -> io::Result<()> {
        let Some(container) = self.container(slot) else {
            return Ok(());
        };
        let Some(pending) = container.pending.take() else {
            return Ok(());
        };
        if !is_readable(pending.pipe.as_fd()) {
            container.pending = Some(pending);
            return Ok(());
        }
        let (connection, number) = pending.request;
        let asked = self
            .connection
            .as_ref()
            .is_some_and(|c| c.serial == connection);
        let failed = match pending.outcome() {
            Outcome::Executed => None,
            Outcome::Failed(failed) => Some(failed),
            Outcome::Entered(pid, failed) => self.entered(slot, pid).err().or(failed),
        };
        self.launched(slot, asked.then_some(number), failed)
    }

    /// The process that entered a container has ended and left another, which is our child: that is the one to watch.
    fn entered(&mut self, slot: u32, pid: i32) -> Result<(), Failed> {
        let failed = |e: io::Error| Failed {
            step: Step::Enter,
            detail: 0,
            errno: e.raw_os_error().unwrap_or(libc::EIO),
        };
        let pidfd = match open_pidfd(pid) {
            Ok(pidfd) => pidfd,
            Err(e) => {
                // Nobody could ever tell its end. It is ours and not collected, so the number is still its own.
                // SAFETY: a plain system call.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                return Err(failed(e));
            }
        };
        fault::reach(Point::KeeperExecEntered);
        let stat = stat_of(self.host.proc.as_fd(), pid);
        let watched = self.poll.watch(pidfd.as_fd(), Token::Process(slot));
        let Some(container) = self.container(slot) else {
            return Ok(());
        };
        container.pid = pid;
        if let Some(before) = container.pidfd.replace(pidfd) {
            reap(&before);
        }
        match stat {
            Ok(stat) => container.start_time_ticks = stat.start_time_ticks,
            Err(e) => log(format_args!("{}: start time: {e}", container.id)),
        }
        watched.map_err(failed)
    }

    /// An event for the daemon; without one it is told at its hello.
    pub fn tell(&mut self, event: &Event) {
        if self.connection.as_ref().is_some_and(|c| c.greeted) {
            self.send(event.encode(), Vec::new());
        }
    }

    /// Answers a request.
    pub fn reply(&mut self, request: u32, reply: &Reply, fds: Vec<OwnedFd>) {
        self.send(reply.encode(request), fds);
    }

    fn send(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
        let Some(connection) = self.connection.as_mut() else {
            return;
        };
        if connection.queue.len() >= MAX_QUEUED {
            log(format_args!(
                "the daemon does not read: its connection is dropped"
            ));
            return self.disconnect();
        }
        connection.queue.push_back((bytes, fds));
        if let Err(e) = self.flush() {
            log(format_args!("send to the daemon: {e}"));
            self.disconnect();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(connection) = self.connection.as_mut() else {
            return Ok(());
        };
        while let Some((bytes, fds)) = connection.queue.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match scm::send(connection.socket.as_fd(), bytes, &borrowed) {
                Ok(()) => drop(connection.queue.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        let full = !connection.queue.is_empty();
        self.poll
            .want_output(connection.socket.as_fd(), Token::Connection, full)
    }

    fn serve_connection(&mut self) -> io::Result<()> {
        if self.flush().is_err() {
            self.disconnect();
            return Ok(());
        }
        let Some(connection) = self.connection.as_ref() else {
            return Ok(());
        };
        let mut fds = Vec::new();
        let n = match scm::receive(connection.socket.as_fd(), &mut self.buf, &mut fds) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // A message of another protocol; whoever sent it will not get better.
            Err(e) => {
                self.disconnect();
                return Err(e);
            }
            Ok(0) => {
                self.disconnect();
                return Ok(());
            }
            Ok(n) => n,
        };
        let bytes = self.buf.get_mut(..n).unwrap_or_default();
        let (decoded, asked) = (Request::decode(bytes), Request::number_of(bytes));
        wipe(bytes);
        match decoded {
            Ok((number, request)) => self.serve(number, request, fds),
            Err(e) => {
                log(format_args!("a request was not understood: {e}"));
                asked
                    .into_iter()
                    .for_each(|n| self.refuse(n, gantry_keeper_proto::msg::Failure::Protocol, 0));
            }
        }
        Ok(())
    }
}

/// Variable by which tests make a keeper one of an earlier version.
const VERSION_ENV: &str = "GANTRY_KEEPER_VERSION";

/// The version this keeper speaks: that of the program, unless a test wants an older one.
fn spoken_version() -> u32 {
    std::env::var(VERSION_ENV)
        .ok()
        .and_then(|v| v.parse().ok())
        .map_or(PROTOCOL_VERSION, |v: u32| v.min(PROTOCOL_VERSION))
}

/// Overwrites what belongs to one container alone: a later fork of the keeper is in another for a moment.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

/// A pidfd of the process that has this number now.
pub fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call.
    let fd = unsafe { raw::sys(libc::SYS_pidfd_open, &[pid as usize, 0]) }
        .map_err(io::Error::from_raw_os_error)?;
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Who connected: its pid and pidfd.
fn peer(socket: &OwnedFd) -> io::Result<(i32, OwnedFd)> {
    const SO_PEERPIDFD: i32 = 77;
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let level = libc::SOL_SOCKET;
    // SAFETY: the kernel fills the struct of the stated size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut pidfd: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: as above.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            SO_PEERPIDFD,
            (&raw mut pidfd).cast(),
            &mut len,
        )
    };
    if result < 0 {
        // Before 6.5: the pid could have been used again, which a daemon that waits for our hello rules out.
        return Ok((credentials.pid, open_pidfd(credentials.pid)?));
    }
    // SAFETY: the descriptor is new and ours alone.
    Ok((credentials.pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}
