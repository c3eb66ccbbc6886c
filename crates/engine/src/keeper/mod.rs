//! One keeper as this shard sees it: its client, the pump that reads its containers' output, and the
//! task that takes its exits.

mod held;
mod succession;

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use gantry_keeper_proto::msg::UNKNOWN_STATUS;
use gantry_launch::{
    HandOver, KeeperClient, KeeperError, KeeperEvent, KeeperName, LaunchError, Launched,
    LaunchedExec, Orphan, Prepared, PreparedExec, Step,
};
use gantry_rt::sync::Notify;
use gantry_stream::{Pump, PumpKind};
use rustc_hash::FxHashMap;

pub(crate) use held::Held;

use crate::EngineError;
use crate::container::exit;
use crate::orphan::ProcessName;
use crate::shard::ShardEngine;

/// Exit code of what could not be started for another reason than its command.
pub(crate) const NOT_STARTED: i32 = 128;

/// An exit as a keeper reports it.
#[derive(Debug, Clone)]
pub(crate) struct ExitReport {
    pub(crate) id: String,
    /// `None`: nobody could see it.
    pub(crate) wait_status: Option<i32>,
    pub(crate) exited_unix_ns: i64,
    pub(crate) oom_killed: bool,
}

/// A connected keeper.
pub(crate) struct KeeperLink {
    /// Another one after a keeper died.
    client: RefCell<Rc<KeeperClient>>,
    pub(crate) pump: Rc<Pump>,
    name: KeeperName,
    /// It launches; another one is only looked after until it has nothing left.
    pub(crate) launches: Cell<bool>,
    /// Told when a successor has taken over.
    back: Notify,
    held: RefCell<FxHashMap<String, Held>>,
}

impl From<KeeperError> for EngineError {
    fn from(e: KeeperError) -> Self {
        match e {
            KeeperError::Busy => EngineError::Unavailable(e.to_string()),
            other => EngineError::System(other.to_string()),
        }
    }
}

impl From<LaunchError> for EngineError {
    fn from(e: LaunchError) -> Self {
        let message = e.to_string();
        match e {
            LaunchError::Exec { .. } | LaunchError::MountKind { .. } => EngineError::BadCommand {
                exit_code: e.exit_code(),
                message,
            },
            LaunchError::Join { exit_code, .. } | LaunchError::Runtime { exit_code, .. }
                if exit_code != NOT_STARTED =>
            {
                EngineError::BadCommand { exit_code, message }
            }
            LaunchError::Invalid { .. } => EngineError::InvalidParameter(message),
            LaunchError::Subpath { source, .. } => match source.raw_os_error() {
                Some(libc::ENOENT) => EngineError::NotFound(message),
                Some(libc::EXDEV) => EngineError::InvalidParameter(message),
                _ => EngineError::System(message),
            },
            // dockerd sees a wrong path in these words.
            LaunchError::Child {
                step: Step::Sysctl,
                errno: libc::ENOENT,
                ..
            } => EngineError::InvalidParameter(message),
            LaunchError::Keeper(e) => e.into(),
            _ => EngineError::System(message),
        }
    }
}

impl KeeperLink {
    /// Takes a keeper that was just connected.
    pub(crate) async fn new(
        name: KeeperName,
        client: Rc<KeeperClient>,
        pump: PumpKind,
    ) -> Result<Rc<KeeperLink>, EngineError> {
        let epoch = client.epoch();
        let pump =
            Pump::new(pump, epoch).map_err(|e| EngineError::io("set up the pump's ring", e))?;
        let journal: OwnedFd = client.journal_memfd()?;
        pump.set_journal(journal)
            .map_err(|e| EngineError::io("map the keeper's journal", e))?;
        let ring = pump
            .ring_memfd()
            .map_err(|e| EngineError::io("share the pump's ring", e))?;
        client.set_ring(ring.as_fd(), epoch).await?;
        Ok(Rc::new(KeeperLink {
            client: RefCell::new(client),
            pump,
            name,
            launches: Cell::new(false),
            back: Notify::new(),
            held: RefCell::default(),
        }))
    }

    /// The connection to the keeper, or to the last one that died.
    pub(crate) fn client(&self) -> Rc<KeeperClient> {
        self.client.borrow().clone()
    }

    /// Starts the tasks that read output and take exits.
    pub(crate) fn run(self: &Rc<Self>, shard: &Rc<ShardEngine>) {
        let pump = self.pump.clone();
        gantry_rt::spawn("engine.pump", async move {
            if let Err(e) = pump.run().await {
                tracing::error!(error = %e, "a pump stopped; output of its containers waits in the pipes");
            }
        });
        let (link, shard) = (self.clone(), shard.clone());
        gantry_rt::spawn("engine.keeper-events", async move {
            loop {
                let client = link.client();
                while let KeeperEvent::Exited { id, exit } = client.next_event().await {
                    let report = ExitReport::new(id, exit);
                    exit::report(&shard, &link, report);
                }
                if shard.shared.is_closing() {
                    return;
                }
                if link.is_spent() {
                    // It was sent away.
                    let mut keepers = shard.keepers.borrow_mut();
                    return keepers.retain(|other| !Rc::ptr_eq(other, &link));
                }
                tracing::error!(keeper = %link.name, "a keeper died");
                link.succeed_in_the_end(&shard).await;
            }
        });
    }

    /// It launches nothing and has nothing.
    pub(crate) fn is_spent(&self) -> bool {
        !self.launches.get() && self.held.borrow().is_empty()
    }

    pub(crate) async fn launch(
        &self,
        prepared: Prepared,
    ) -> Result<(Launched, Rc<KeeperClient>), EngineError> {
        let client = self.living().await?;
        Ok((client.launch(prepared).await?, client))
    }

    pub(crate) async fn launch_exec(
        &self,
        prepared: PreparedExec,
    ) -> Result<(LaunchedExec, Rc<KeeperClient>), LaunchError> {
        let client = self.living().await?;
        Ok((client.launch_exec(prepared).await?, client))
    }

    /// Gives the keeper a process that nobody keeps, and says the slot.
    pub(crate) async fn adopt_orphan(&self, orphan: &Orphan) -> Result<u32, EngineError> {
        Ok(self.living().await?.adopt(orphan).await?)
    }

    /// Signals a container's first process; past the keeper when that is dead. False when the process has ended and its
    /// exit is on the way.
    pub(crate) async fn signal(
        &self,
        id: &str,
        process: ProcessName,
        number: i32,
    ) -> Result<bool, EngineError> {
        match self.client().signal(id, number).await {
            Ok(()) => Ok(true),
            // It died, before or after it did it; twice does no harm. A keeper that took over may not have it yet.
            Err(KeeperError::Gone | KeeperError::NoContainer) => process.signal(number),
            Err(KeeperError::Ended) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    pub(crate) async fn resize(
        &self,
        id: &str,
        rows: u16,
        columns: u16,
    ) -> Result<(), EngineError> {
        let mut resized = self.client().resize(id, rows, columns).await;
        if matches!(resized, Err(KeeperError::Gone)) {
            resized = self.living().await?.resize(id, rows, columns).await;
        }
        match resized {
            // Docker takes the size of a container without a terminal and does nothing.
            Err(KeeperError::NoTerminal) | Ok(()) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    pub(crate) async fn hand_over(&self, id: &str) -> Result<HandOver, EngineError> {
        Ok(self.client().handover(id).await?)
    }

    /// The keeper may drop an exit: it is recorded. Having dropped it already is no error.
    pub(crate) async fn forget(&self, id: &str) -> Result<(), EngineError> {
        // First: a successor must not get it any more.
        let held = self.held.borrow_mut().remove(id);
        let mut forgotten = self.client().forget(id).await;
        if matches!(forgotten, Err(KeeperError::Gone)) && self.living().await.is_ok() {
            // The successor may have got it before.
            forgotten = self.client().forget(id).await;
        }
        if let Some(held) = held {
            held.process.collect();
        }
        if self.is_spent() {
            self.shutdown_if_empty().await?;
        }
        match forgotten {
            // A dead keeper has forgotten everything.
            Ok(()) | Err(KeeperError::NoContainer | KeeperError::Gone) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// As [`KeeperLink::forget`]; nobody waits for it. The keeper repeats the exit if this is lost.
    pub(crate) fn forget_later(self: &Rc<Self>, id: String) {
        let link = self.clone();
        gantry_rt::spawn("keeper.forget", async move {
            if let Err(e) = link.forget(&id).await {
                tracing::warn!(id, error = %e, "the keeper could not be told that an exit is recorded");
            }
        });
    }

    /// Closes the keeper's copy of a container's standard input; nobody waits for it.
    pub(crate) fn close_stdin_later(self: &Rc<Self>, id: &Arc<str>) {
        let (link, id) = (self.clone(), id.clone());
        gantry_rt::spawn("keeper.close-stdin", async move {
            // Its successor does not get what is closed here.
            match link.client().close_stdin(&id).await {
                Ok(()) | Err(KeeperError::NoContainer | KeeperError::Ended | KeeperError::Gone) => {
                }
                Err(e) => {
                    tracing::warn!(%id, error = %e, "the end of standard input could not be passed on")
                }
            }
        });
    }

    /// Sends a keeper without containers away.
    pub(crate) async fn shutdown_if_empty(&self) -> Result<(), EngineError> {
        match self.client().shutdown_if_empty().await {
            Ok(()) | Err(KeeperError::NotEmpty | KeeperError::Gone) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

impl ExitReport {
    pub(crate) fn new(id: String, exit: gantry_launch::Exit) -> Self {
        Self {
            id,
            wait_status: Some(exit.wait_status).filter(|status| *status != UNKNOWN_STATUS),
            exited_unix_ns: i64::try_from(exit.exited_at_unix_ns).unwrap_or(i64::MAX),
            oom_killed: exit.oom_killed,
        }
    }
}
