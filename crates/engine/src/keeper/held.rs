//! What a keeper has, as this shard knows it: enough to give it to another keeper.

use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use gantry_cgroup::Group;
use gantry_launch::{KeeperClient, Orphan, oom_counter};
use gantry_stream::ContainerIo;

use super::KeeperLink;
use crate::EngineError;
use crate::orphan::ProcessName;

/// A process of a keeper: a container's first one, or an exec.
pub(crate) struct Held {
    /// It.
    pub(crate) process: ProcessName,
    /// A descriptor of it, opened while it was there: with it the kernel still tells how it ended when the keeper can't
    /// any more. `None` on kernels that do not keep that.
    pub(crate) pidfd: Option<OwnedFd>,
    /// Its journal slot.
    pub(crate) slot: u32,
    /// Its streams.
    pub(crate) io: Weak<ContainerIo>,
    /// Whose OOM kills count as its.
    pub(crate) group: Option<Arc<Group>>,
    /// A full spill drops instead of blocking.
    pub(crate) log_nonblocking: bool,
}

impl Held {
    /// With a pidfd, if it is of use and there is none yet.
    pub(crate) fn new(
        process: ProcessName,
        pidfd: Option<OwnedFd>,
        slot: u32,
        io: &Rc<ContainerIo>,
    ) -> Held {
        let pidfd = match gantry_keeper_proto::process::keeps_status() {
            true => pidfd.or_else(|| process.open().ok().flatten()),
            false => None,
        };
        Held {
            process,
            pidfd,
            slot,
            io: Rc::downgrade(io),
            group: None,
            log_nonblocking: true,
        }
    }

    /// For another keeper. `None`: it has ended, and nothing of it is left that could say so.
    fn orphan(&self, id: &str) -> Result<Option<Orphan>, EngineError> {
        let failed = |e| EngineError::io("copy the descriptors of a container", e);
        let pidfd = match &self.pidfd {
            Some(pidfd) => Some(pidfd.try_clone().map_err(failed)?),
            None => self.process.open().map_err(failed)?,
        };
        let Some(pidfd) = pidfd else {
            return Ok(None);
        };
        let ends = match self.io.upgrade() {
            Some(io) => io.copy_ends().map_err(failed)?,
            None => Default::default(),
        };
        Ok(Some(Orphan {
            id: id.to_owned(),
            slot: Some(self.slot),
            pid: self.process.pid,
            start_time_ticks: self.process.start_time_ticks,
            log_nonblocking: self.log_nonblocking,
            pidfd,
            stdin: ends.stdin,
            stdout: ends.stdout,
            stderr: ends.stderr,
            tty_master: ends.tty_master,
            oom_counter: self.group.as_deref().and_then(oom_counter),
        }))
    }
}

/// What became of giving a process to another keeper.
pub(super) enum Given {
    /// It has it.
    Kept,
    /// The process has ended, and nobody knows how.
    Lost,
}

impl KeeperLink {
    /// Notes what the keeper has, until it is forgotten.
    pub(crate) fn hold(self: &Rc<Self>, id: &str, launcher: &Rc<KeeperClient>, held: Held) {
        self.held.borrow_mut().insert(id.to_owned(), held);
        if !Rc::ptr_eq(launcher, &self.client()) {
            // The keeper died between its answer and now, and its successor is up already.
            self.give_later(id.to_owned());
        }
    }

    /// Gives one of them to `client`.
    pub(super) async fn give(&self, client: &KeeperClient, id: &str) -> Result<Given, EngineError> {
        let orphan = match self.held.borrow().get(id) {
            Some(held) => held.orphan(id)?,
            // Forgotten meanwhile.
            None => return Ok(Given::Kept),
        };
        match orphan {
            Some(orphan) => {
                client.adopt(&orphan).await?;
                Ok(Given::Kept)
            }
            None => Ok(Given::Lost),
        }
    }
}
