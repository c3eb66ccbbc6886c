//! Taking over from a keeper that died: its journal, and the processes it left.

use std::os::fd::{AsFd, OwnedFd};

use gantry_keeper_proto::msg::{Adopt, Failure, Reply};
use gantry_keeper_proto::shm::{JournalMap, MAX_CONTAINERS_PER_KEEPER};

use crate::container::{Container, Ends};
use crate::log;
use crate::serve::{Refusal, system};
use crate::server::Server;

impl Server {
    /// The journal of a keeper that died becomes this one's.
    pub fn inherit(&mut self, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        if !self.ids.is_empty() {
            return Err((Failure::NotEmpty, 0));
        }
        let fd = fds.into_iter().next().ok_or((Failure::Protocol, 0))?;
        self.journal = JournalMap::open(fd).map_err(|e| {
            log(format_args!("inherit: {e}"));
            (Failure::Protocol, 0)
        })?;
        Ok(())
    }

    /// A process that another keeper launched.
    pub fn adopt(&mut self, number: u32, adopt: Adopt, fds: Vec<OwnedFd>) {
        match self.try_adopt(adopt, fds) {
            Ok(reply) => self.reply(number, &reply, Vec::new()),
            Err((failure, errno)) => self.refuse(number, failure, errno),
        }
    }

    fn try_adopt(&mut self, adopt: Adopt, fds: Vec<OwnedFd>) -> Result<Reply, Refusal> {
        if self.ids.contains_key(&adopt.id) {
            return Err((Failure::Exists, 0));
        }
        let mut fds = fds.into_iter();
        let mut next = |wanted: bool| match wanted {
            true => fds.next().map(Some).ok_or((Failure::Protocol, 0)),
            false => Ok(None),
        };
        let pidfd = next(true)?.ok_or((Failure::Protocol, 0))?;
        let ends = Ends {
            stdin: next(adopt.stdin)?,
            stdout: next(adopt.stdout)?,
            stderr: next(adopt.stderr)?,
            tty_master: next(adopt.tty_master)?,
        };
        let oom_counter = next(adopt.oom_counter)?.map(std::fs::File::from);
        let slot = self.slot_for(adopt.slot)?;
        // An inherited slot goes on; another begins.
        let generation = match adopt.slot {
            Some(_) => self.journal.generation(slot),
            None => self.journal.reset(slot),
        };
        let generation = generation.map_err(|_| (Failure::System, libc::EIO))?;
        let mut container = Box::new(Container::new(adopt.id, slot, generation, adopt.pid, pidfd));
        container.start_time_ticks = adopt.start_time_ticks;
        container.ends = ends;
        container.oom_counter = oom_counter;
        container.log_nonblocking = adopt.log_nonblocking;
        container.adopted = true;
        container.pick_up_spill(&self.host.exec_root).map_err(|e| {
            log(format_args!("{}: its spill: {e}", container.id));
            (Failure::System, libc::EIO)
        })?;
        if let Some(pidfd) = &container.pidfd {
            let token = crate::poll::Token::Process(slot);
            self.poll
                .watch(pidfd.as_fd(), token)
                .map_err(|e| system(&e))?;
        }
        let reply = Reply::Launched {
            pid: container.pid,
            start_time_ticks: container.start_time_ticks,
            slot,
            generation,
        };
        self.ids.insert(container.id.clone(), slot);
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(container);
        }
        Ok(reply)
    }

    /// The slot that is wanted, or a free one.
    fn slot_for(&mut self, wanted: Option<u32>) -> Result<u32, Refusal> {
        let Some(slot) = wanted else {
            return self
                .free_slot()
                .map_err(|failed| (Failure::System, failed.errno));
        };
        if slot >= MAX_CONTAINERS_PER_KEEPER {
            return Err((Failure::Protocol, 0));
        }
        if self.slots.len() <= slot as usize {
            self.slots.resize_with(slot as usize + 1, || None);
        }
        match self.slots.get(slot as usize) {
            Some(None) => Ok(slot),
            _ => Err((Failure::Exists, 0)),
        }
    }
}
