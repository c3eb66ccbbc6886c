//! The daemon's side of a keeper's connection. Lives on one shard.

mod launching;
mod runtime;
mod succession;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use gantry_cgroup::Group;
use gantry_keeper_proto::msg::{
    Entry, Event, Exit, FromKeeper, OLDEST_VERSION, PROTOCOL_VERSION, Reply, Request,
};
use gantry_keeper_proto::scm;
use gantry_rt::fd::AsyncFd;
use gantry_rt::sync::{Notify, oneshot};
use gantry_rt::workers;

use crate::error::KeeperError;
use crate::exec::LaunchedExec;
use crate::root_mount::RootMount;
use crate::spawn::{self, Connected, KeeperName};

pub(crate) use launching::Born;
pub use succession::{Orphan, oom_counter};

/// Requests to one keeper that may be unanswered at once.
pub const MAX_REQUESTS: usize = 1024;
/// How long a keeper may take to say hello (it waits until an earlier daemon is really dead).
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A keeper that ends while we connect is followed by a new one, so often.
const CONNECT_ATTEMPTS: u32 = 3;

type Answer = (Reply, Vec<OwnedFd>);

#[derive(Default)]
struct State {
    next_number: u32,
    waiting: HashMap<u32, oneshot::Sender<Answer>>,
    /// At most one per container and one for the end.
    events: VecDeque<KeeperEvent>,
    gone: bool,
}

/// One shard's keeper.
pub struct KeeperClient {
    socket: AsyncFd,
    state: RefCell<State>,
    event: Notify,
    epoch: u64,
    keeper_pid: Cell<i32>,
    /// Protocol version of the keeper.
    version: Cell<u32>,
    /// We started it, so we reap it.
    child: Cell<Option<i32>>,
    journal: RefCell<Option<OwnedFd>>,
}

/// A container the keeper already had when we connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedContainer {
    /// Container.
    pub id: String,
    /// Journal slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u16,
    /// Process id.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat.
    pub start_time_ticks: u64,
    /// It has a terminal.
    pub tty: bool,
    /// Standard input is still open.
    pub stdin_open: bool,
    /// Bytes in the spill file so far; the final number comes with the hand-over.
    pub spill_bytes: u64,
    /// If it has ended, how. The same comes as an event.
    pub exit: Option<Exit>,
}

/// A launched container.
#[derive(Debug)]
pub struct Launched {
    /// Its first process.
    pub process: LaunchedExec,
    /// The control group.
    pub group: Group,
    /// The root file system, to be dropped after the exit.
    pub root: RootMount,
}

/// What the keeper held for us while no daemon was there.
#[derive(Debug)]
pub struct HandOver {
    /// Write end of standard input, if still open.
    pub stdin: Option<OwnedFd>,
    /// Read end of standard output.
    pub stdout: Option<OwnedFd>,
    /// Read end of standard error.
    pub stderr: Option<OwnedFd>,
    /// The terminal, instead of the other three.
    pub tty_master: Option<OwnedFd>,
    /// What was read meanwhile, in spill format; `None` if nothing was.
    pub spill: Option<File>,
    /// Its length. The keeper does not append any more while this daemon lives.
    pub spill_bytes: u64,
}

/// Something the keeper tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperEvent {
    /// A container's first process ended. Comes again after a re-connect until [`KeeperClient::forget`].
    Exited {
        /// Container.
        id: String,
        /// How and when.
        exit: Exit,
    },
    /// The connection is gone: the keeper died. Always the last event.
    Gone,
}

impl KeeperClient {
    /// Connects to a keeper under `exec_root`, or starts one from the program `keeper_exe`. Also returns what it
    /// already has; a container among it must be handed over before its streams are read.
    pub async fn connect_or_spawn(
        exec_root: &Path,
        name: KeeperName,
        keeper_exe: &Path,
    ) -> Result<(Rc<KeeperClient>, Vec<AdoptedContainer>), KeeperError> {
        let mut attempt = 1;
        loop {
            match KeeperClient::try_connect(exec_root, name, keeper_exe).await {
                // A keeper without containers ended with its daemon just as we came.
                Err(KeeperError::Gone) if attempt < CONNECT_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    /// Connects to a keeper that may be there, and says what it has. What is left of one that is not is removed.
    pub async fn connect(
        exec_root: &Path,
        name: KeeperName,
    ) -> Result<Option<(Rc<KeeperClient>, Vec<AdoptedContainer>)>, KeeperError> {
        let root = exec_root.to_owned();
        let connected = workers::run(move || spawn::connect_only(&root, name));
        let connected = connected.await.map_err(|e| KeeperError::Start {
            step: "worker",
            source: e.into(),
        })??;
        let Some(connected) = connected else {
            return Ok(None);
        };
        let talked = async {
            let client = KeeperClient::greet(connected).await?;
            let adopted = client.list().await?;
            Ok((client, adopted))
        };
        match talked.await {
            Ok(found) => Ok(Some(found)),
            // It had nothing and ended just as we came.
            Err(KeeperError::Gone) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn try_connect(
        exec_root: &Path,
        name: KeeperName,
        keeper_exe: &Path,
    ) -> Result<(Rc<KeeperClient>, Vec<AdoptedContainer>), KeeperError> {
        let (root, exe) = (exec_root.to_owned(), keeper_exe.to_owned());
        let connected = workers::run(move || spawn::connect_or_spawn(&root, name, &exe))
            .await
            .map_err(|e| KeeperError::Start {
                step: "worker",
                source: e.into(),
            })??;
        let client = KeeperClient::greet(connected).await?;
        let adopted = client.list().await?;
        Ok((client, adopted))
    }

    async fn greet(connected: Connected) -> Result<Rc<KeeperClient>, KeeperError> {
        let client = Rc::new(KeeperClient {
            socket: AsyncFd::new(connected.socket)?,
            state: RefCell::default(),
            event: Notify::new(),
            epoch: epoch(),
            keeper_pid: Cell::new(0),
            version: Cell::new(0),
            child: Cell::new(connected.child),
            journal: RefCell::new(None),
        });
        gantry_rt::spawn("keeper.receive", receive_all(client.clone()));
        client.hello().await?;
        gantry_rt::spawn("keeper.watch", succession::watch(client.clone()));
        Ok(client)
    }

    async fn hello(&self) -> Result<(), KeeperError> {
        let hello = Request::Hello {
            version: PROTOCOL_VERSION,
            epoch: self.epoch,
        };
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let (reply, mut fds) = gantry_rt::timeout(HELLO_TIMEOUT, self.call(hello, &[]))
            .await
            .map_err(|_| KeeperError::Start {
                step: "hello",
                source: late(),
            })??;
        let Reply::Hello { version, pid, .. } = reply else {
            return Err(unexpected(&reply));
        };
        if version < OLDEST_VERSION {
            return Err(KeeperError::Version(version));
        }
        self.keeper_pid.set(pid);
        self.version.set(version);
        let journal = fds
            .pop()
            .ok_or_else(|| KeeperError::Protocol("hello without a journal".into()))?;
        *self.journal.borrow_mut() = Some(journal);
        Ok(())
    }

    /// The number of this life of the daemon, as the keeper was told.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The keeper's process id.
    pub fn keeper_pid(&self) -> i32 {
        self.keeper_pid.get()
    }

    /// The protocol version it speaks.
    pub fn version(&self) -> u32 {
        self.version.get()
    }

    /// Whether it speaks everything this daemon does.
    pub fn is_current(&self) -> bool {
        self.version.get() >= PROTOCOL_VERSION
    }

    /// It has died, or closed its connection.
    pub fn is_gone(&self) -> bool {
        self.state.borrow().gone
    }

    /// The journal memfd (a new descriptor).
    pub fn journal_memfd(&self) -> Result<OwnedFd, KeeperError> {
        let journal = self.journal.borrow();
        let fd = journal.as_ref().ok_or(KeeperError::Gone)?;
        Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(io::Error::from)?)
    }

    /// Gives the keeper the ring memfd, so that it can save what is in it when we die. Before the first stream starts.
    pub async fn set_ring(&self, ring: BorrowedFd<'_>, epoch: u64) -> Result<(), KeeperError> {
        self.done(Request::SetRing { epoch }, &[ring]).await
    }

    /// Sends a signal to the container's first process.
    pub async fn signal(&self, id: &str, signo: i32) -> Result<(), KeeperError> {
        self.done(
            Request::Signal {
                id: id.to_owned(),
                signo,
            },
            &[],
        )
        .await
    }

    /// Sets the size of the container's terminal.
    pub async fn resize(&self, id: &str, rows: u16, columns: u16) -> Result<(), KeeperError> {
        self.done(
            Request::Resize {
                id: id.to_owned(),
                rows,
                columns,
            },
            &[],
        )
        .await
    }

    /// Makes the keeper drop its copy of standard input's write end; the caller drops its own.
    pub async fn close_stdin(&self, id: &str) -> Result<(), KeeperError> {
        self.done(Request::CloseStdin { id: id.to_owned() }, &[])
            .await
    }

    /// Makes the keeper stop reading an adopted container's output and takes its files over.
    pub async fn handover(&self, id: &str) -> Result<HandOver, KeeperError> {
        let (reply, fds) = self
            .call(Request::HandOver { id: id.to_owned() }, &[])
            .await?;
        match reply {
            Reply::HandOver {
                stdin,
                stdout,
                stderr,
                tty_master,
                spill,
                spill_bytes,
            } => {
                let mut fds = fds.into_iter();
                let mut next = |wanted: bool| match wanted {
                    true => fds
                        .next()
                        .map(Some)
                        .ok_or_else(|| KeeperError::Protocol("a file is missing".into())),
                    false => Ok(None),
                };
                Ok(HandOver {
                    stdin: next(stdin)?,
                    stdout: next(stdout)?,
                    stderr: next(stderr)?,
                    tty_master: next(tty_master)?,
                    spill: next(spill)?.map(File::from),
                    spill_bytes,
                })
            }
            Reply::Failed { failure, errno, .. } => Err(KeeperError::from_failure(failure, errno)),
            other => Err(unexpected(&other)),
        }
    }

    /// The exit is durable: the keeper drops everything about the container and frees its slot.
    pub async fn forget(&self, id: &str) -> Result<(), KeeperError> {
        self.done(Request::Forget { id: id.to_owned() }, &[]).await
    }

    /// What the keeper has now.
    pub async fn list(&self) -> Result<Vec<AdoptedContainer>, KeeperError> {
        let mut all = Vec::new();
        let mut from_slot = 0;
        loop {
            let (reply, _) = self.call(Request::List { from_slot }, &[]).await?;
            let Reply::List { entries, next_slot } = reply else {
                return Err(unexpected(&reply));
            };
            all.extend(entries.into_iter().map(AdoptedContainer::from));
            match next_slot {
                Some(next) if next > from_slot => from_slot = next,
                Some(_) => return Err(KeeperError::Protocol("list does not advance".into())),
                None => return Ok(all),
            }
        }
    }

    /// Ends the keeper, if it has no container.
    pub async fn shutdown_if_empty(&self) -> Result<(), KeeperError> {
        self.done(Request::ShutdownIfEmpty, &[]).await
    }

    /// The next event; events wait here until asked for. One caller at a time.
    pub async fn next_event(&self) -> KeeperEvent {
        loop {
            let notified = self.event.notified();
            {
                let mut state = self.state.borrow_mut();
                if let Some(event) = state.events.pop_front() {
                    return event;
                }
                if state.gone {
                    return KeeperEvent::Gone;
                }
            }
            notified.await;
        }
    }

    async fn done(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<(), KeeperError> {
        match self.call(request, fds).await?.0 {
            Reply::Done => Ok(()),
            Reply::Failed { failure, errno, .. } => Err(KeeperError::from_failure(failure, errno)),
            other => Err(unexpected(&other)),
        }
    }

    async fn call(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, KeeperError> {
        let (number, answer) = {
            let mut state = self.state.borrow_mut();
            if state.gone {
                return Err(KeeperError::Gone);
            }
            if state.waiting.len() >= MAX_REQUESTS {
                return Err(KeeperError::Busy);
            }
            state.next_number = state.next_number.wrapping_add(1);
            let number = state.next_number;
            let (sender, answer) = oneshot::channel();
            state.waiting.insert(number, sender);
            (number, answer)
        };
        if let Err(e) = self.send(&request.encode(number), fds).await {
            self.state.borrow_mut().waiting.remove(&number);
            return Err(e.into());
        }
        answer.await.map_err(|_| KeeperError::Gone)
    }

    async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            match scm::send(self.socket.as_fd(), bytes, fds) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.socket.writable().await?,
                result => return result,
            }
        }
    }

    fn decode(&self, bytes: &[u8], fds: Vec<OwnedFd>) {
        match FromKeeper::decode(bytes) {
            Ok(message) => self.deliver(message, fds),
            // From a newer keeper; what it answers is lost, the rest goes on.
            Err(e) => tracing::error!(error = %e, "a message of the keeper was not understood"),
        }
    }

    fn deliver(&self, message: FromKeeper, fds: Vec<OwnedFd>) {
        match message {
            FromKeeper::Reply(number, reply) => {
                let waiting = self.state.borrow_mut().waiting.remove(&number);
                if let Some(sender) = waiting {
                    // Whoever asked may be gone; descriptors are then closed here.
                    drop(sender.send((reply, fds)));
                }
            }
            FromKeeper::Event(Event::Exited { id, exit }) => {
                self.state
                    .borrow_mut()
                    .events
                    .push_back(KeeperEvent::Exited { id, exit });
                self.event.notify_one();
            }
        }
    }

    fn end(&self) {
        let waiting = {
            let mut state = self.state.borrow_mut();
            state.gone = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
        self.event.notify_all();
        self.event.notify_one();
        if let Some(pid) = self.child.take() {
            gantry_rt::spawn("keeper.reap", async move {
                if let Err(e) = workers::run(move || spawn::reap(pid)).await {
                    tracing::warn!(error = %e, pid, "the keeper was not reaped");
                }
            });
        }
    }
}

async fn receive_all(client: Rc<KeeperClient>) {
    let mut buf = vec![0; scm::MAX_MESSAGE_BYTES];
    loop {
        let mut fds = Vec::new();
        match scm::receive(client.socket.as_fd(), &mut buf, &mut fds) {
            Ok(0) => break,
            Ok(n) => client.decode(&buf[..n], fds),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if let Err(e) = client.socket.readable().await {
                    tracing::error!(error = %e, "waiting for the keeper failed");
                    break;
                }
            }
            Err(e) => {
                tracing::error!(error = %e, "receiving from the keeper failed");
                break;
            }
        }
    }
    client.end();
}

fn epoch() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    (now.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(now.tv_nsec as u64)
}

fn unexpected(reply: &Reply) -> KeeperError {
    match reply {
        Reply::Failed { failure, errno, .. } => KeeperError::from_failure(*failure, *errno),
        other => KeeperError::Protocol(format!("unexpected {other:?}")),
    }
}

impl From<Entry> for AdoptedContainer {
    fn from(e: Entry) -> Self {
        AdoptedContainer {
            id: e.id,
            slot: e.slot,
            generation: e.generation,
            pid: e.pid,
            start_time_ticks: e.start_time_ticks,
            tty: e.tty,
            stdin_open: e.stdin_open,
            spill_bytes: e.spill_bytes,
            exit: e.exit,
        }
    }
}
