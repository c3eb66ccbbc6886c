//! Keepers that die, and their successors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use gantry_cgroup::{Controller, Group};
use gantry_keeper_proto::msg::{ADOPT_VERSION, Adopt, Reply, Request};
use gantry_keeper_proto::scm;
use gantry_rt::fd::AsyncFd;
use gantry_rt::workers;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

use super::{KeeperClient, unexpected};
use crate::error::KeeperError;
use crate::spawn::{self, KeeperName};

/// What a keeper needs to know of a process that another one launched.
#[derive(Debug)]
pub struct Orphan {
    /// Container, or an exec.
    pub id: String,
    /// Its slot in the journal that was inherited; `None`: it had none that is left.
    pub slot: Option<u32>,
    /// Process id.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat.
    pub start_time_ticks: u64,
    /// A full spill drops instead of blocking.
    pub log_nonblocking: bool,
    /// The process.
    pub pidfd: OwnedFd,
    /// Write end of standard input.
    pub stdin: Option<OwnedFd>,
    /// Read end of standard output.
    pub stdout: Option<OwnedFd>,
    /// Read end of standard error.
    pub stderr: Option<OwnedFd>,
    /// The terminal, instead of the other three.
    pub tty_master: Option<OwnedFd>,
    /// Counts OOM kills of its group.
    pub oom_counter: Option<OwnedFd>,
}

impl KeeperClient {
    /// Starts a keeper in place of one that is known to be dead. It has nothing yet.
    pub async fn succeed(
        exec_root: &Path,
        name: KeeperName,
        keeper_exe: &Path,
    ) -> Result<Rc<KeeperClient>, KeeperError> {
        let (root, exe) = (exec_root.to_owned(), keeper_exe.to_owned());
        let spawned = workers::run(move || spawn::spawn_fresh(&root, name, &exe));
        let connected = spawned.await.map_err(|e| KeeperError::Start {
            step: "worker",
            source: e.into(),
        })??;
        KeeperClient::greet(connected).await
    }

    /// Whether it can take over from another keeper.
    pub fn can_adopt(&self) -> bool {
        self.version.get() >= ADOPT_VERSION
    }

    /// Gives it the journal of a dead keeper instead of its own. Before anything else.
    pub async fn inherit(&self, journal: BorrowedFd<'_>) -> Result<(), KeeperError> {
        self.done(Request::Inherit, &[journal]).await?;
        let copy = rustix::io::fcntl_dupfd_cloexec(journal, 3).map_err(std::io::Error::from)?;
        *self.journal.borrow_mut() = Some(copy);
        Ok(())
    }

    /// Gives it a process that nobody keeps, and says the slot.
    pub async fn adopt(&self, orphan: &Orphan) -> Result<u32, KeeperError> {
        let ends = [
            &orphan.stdin,
            &orphan.stdout,
            &orphan.stderr,
            &orphan.tty_master,
            &orphan.oom_counter,
        ];
        let request = Request::Adopt(Adopt {
            id: orphan.id.clone(),
            slot: orphan.slot,
            pid: orphan.pid,
            start_time_ticks: orphan.start_time_ticks,
            log_nonblocking: orphan.log_nonblocking,
            stdin: orphan.stdin.is_some(),
            stdout: orphan.stdout.is_some(),
            stderr: orphan.stderr.is_some(),
            tty_master: orphan.tty_master.is_some(),
            oom_counter: orphan.oom_counter.is_some(),
        });
        let ends = ends.into_iter().flatten();
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(&orphan.pidfd)
            .chain(ends)
            .map(AsFd::as_fd)
            .collect();
        match self.call(request, &fds).await?.0 {
            Reply::Launched { slot, .. } => Ok(slot),
            other => Err(unexpected(&other)),
        }
    }
}

/// The counter of OOM kills of a group, for a keeper to read at the exit; `None` without a memory controller.
pub fn oom_counter(group: &Group) -> Option<OwnedFd> {
    let dir = group.path(Controller::Memory)?;
    let open = |name: &str| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(dir.join(name), flags, Mode::empty()).ok()
    };
    open("memory.oom_control").or_else(|| open("memory.events"))
}

/// Ends the client when the keeper's process has ended: a clone of it that has not executed yet holds the connection
/// open. What it sent before is delivered first.
pub(super) async fn watch(client: Rc<KeeperClient>) {
    let pid = Pid::from_raw(client.keeper_pid.get());
    let pidfd = pid.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
    let ended = match pidfd {
        Some(Ok(pidfd)) => match AsyncFd::new(pidfd) {
            Ok(pidfd) => pidfd.readable().await,
            Err(e) => Err(e),
        },
        // It is gone already.
        _ => Ok(()),
    };
    if let Err(e) = ended {
        tracing::warn!(error = %e, "the keeper's process can't be watched, only its connection");
        return;
    }
    let mut buf = vec![0; scm::MAX_MESSAGE_BYTES];
    loop {
        let mut fds = Vec::new();
        match scm::receive(client.socket.as_fd(), &mut buf, &mut fds) {
            Ok(n) if n > 0 => client.decode(&buf[..n], fds),
            _ => break,
        }
    }
    client.end();
}
