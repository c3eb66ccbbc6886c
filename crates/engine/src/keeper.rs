//! One keeper as this shard sees it: its client, the pump that reads its containers' output, and the
//! task that takes its exits.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use gantry_launch::{
    AdoptedContainer, HandOver, KeeperClient, KeeperError, KeeperEvent, LaunchError, LaunchedExec,
    Prepared, PreparedExec,
};
use gantry_stream::Pump;

use crate::EngineError;
use crate::boot;
use crate::config::EngineConfig;
use crate::container::exit;
use crate::orphan::ProcessName;
use crate::shard::ShardEngine;

/// Exit code of what could not be started for another reason than its command.
pub(crate) const NOT_STARTED: i32 = 128;

/// A keeper's answer to a launch.
pub(crate) type Launched = gantry_launch::Launched;

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
    pub(crate) client: Rc<KeeperClient>,
    pub(crate) pump: Rc<Pump>,
    number: usize,
    /// The connection is gone: the keeper died.
    gone: Cell<bool>,
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
            LaunchError::Join { exit_code, .. } if exit_code != NOT_STARTED => {
                EngineError::BadCommand { exit_code, message }
            }
            LaunchError::Invalid { .. } => EngineError::InvalidParameter(message),
            LaunchError::Subpath { source, .. } => match source.raw_os_error() {
                Some(libc::ENOENT) => EngineError::NotFound(message),
                Some(libc::EXDEV) => EngineError::InvalidParameter(message),
                _ => EngineError::System(message),
            },
            LaunchError::Keeper(e) => e.into(),
            _ => EngineError::System(message),
        }
    }
}

impl KeeperLink {
    /// Connects keeper `number`, starting it if there is none, and says what runs there.
    pub(crate) async fn connect(
        config: &EngineConfig,
        number: usize,
    ) -> Result<(Rc<KeeperLink>, Vec<AdoptedContainer>), EngineError> {
        let (client, adopted) =
            KeeperClient::connect_or_spawn(&config.exec_root, number, &config.keeper_exe).await?;
        let epoch = client.epoch();
        let pump = Pump::new(epoch).map_err(|e| EngineError::io("set up the pump's ring", e))?;
        let journal: OwnedFd = client.journal_memfd()?;
        pump.set_journal(journal)
            .map_err(|e| EngineError::io("map the keeper's journal", e))?;
        let ring = pump
            .ring_memfd()
            .map_err(|e| EngineError::io("share the pump's ring", e))?;
        client.set_ring(ring.as_fd(), epoch).await?;
        Ok((
            Rc::new(KeeperLink {
                client,
                pump,
                number,
                gone: Cell::new(false),
            }),
            adopted,
        ))
    }

    /// Which keeper it is.
    pub(crate) fn number(&self) -> usize {
        self.number
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
            while let KeeperEvent::Exited { id, exit } = link.client.next_event().await {
                let report = ExitReport::new(id, exit);
                exit::report(&shard, &link, report);
            }
            link.gone.set(true);
            if !shard.shared.is_closing() {
                tracing::error!(keeper = link.number, "a keeper died");
                boot::replace_keeper(&shard, &link).await;
            }
        });
    }

    pub(crate) async fn launch(&self, prepared: Prepared) -> Result<Launched, EngineError> {
        Ok(self.client.launch(prepared).await?)
    }

    pub(crate) async fn launch_exec(
        &self,
        prepared: PreparedExec,
    ) -> Result<LaunchedExec, EngineError> {
        Ok(self.client.launch_exec(prepared).await?)
    }

    /// Signals a container's first process; past the keeper when that is dead.
    /// Sends a signal; false when the process has ended and its exit is on the way.
    pub(crate) async fn signal(
        &self,
        id: &str,
        process: ProcessName,
        number: i32,
    ) -> Result<bool, EngineError> {
        match self.client.signal(id, number).await {
            Ok(()) => Ok(true),
            Err(KeeperError::Gone) => process.signal(number),
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
        match self.client.resize(id, rows, columns).await {
            // Docker takes the size of a container without a terminal and does nothing.
            Err(KeeperError::NoTerminal) | Ok(()) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    pub(crate) async fn hand_over(&self, id: &str) -> Result<HandOver, EngineError> {
        Ok(self.client.handover(id).await?)
    }

    /// The keeper may drop an exit: it is recorded. Having dropped it already is no error.
    pub(crate) async fn forget(&self, id: &str) -> Result<(), EngineError> {
        match self.client.forget(id).await {
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
            match link.client.close_stdin(&id).await {
                Ok(()) | Err(KeeperError::NoContainer | KeeperError::Ended) => {}
                Err(e) => {
                    tracing::warn!(%id, error = %e, "the end of standard input could not be passed on")
                }
            }
        });
    }

    /// Sends a keeper without containers away.
    pub(crate) async fn shutdown_if_empty(&self) -> Result<(), EngineError> {
        match self.client.shutdown_if_empty().await {
            Ok(()) | Err(KeeperError::NotEmpty | KeeperError::Gone) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

impl ExitReport {
    pub(crate) fn new(id: String, exit: gantry_launch::Exit) -> Self {
        Self {
            id,
            wait_status: Some(exit.wait_status),
            exited_unix_ns: i64::try_from(exit.exited_at_unix_ns).unwrap_or(i64::MAX),
            oom_killed: exit.oom_killed,
        }
    }
}
