//! A keeper died: another one takes its place. Streams go on meanwhile, since this process has the pipes too; what
//! needs a keeper waits for it.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use gantry_keeper_proto::fault::{self, Point};
use gantry_launch::{KeeperClient, KeeperError};

use super::held::Given;
use super::{ExitReport, KeeperLink};
use crate::config::EngineConfig;
use crate::container::exit;
use crate::shard::ShardEngine;
use crate::{EngineError, clock};

/// Pause between attempts to start a keeper in place of a dead one.
const KEEPER_RETRY: Duration = Duration::from_secs(1);
/// How long what needs a keeper waits for a successor.
pub const SUCCESSOR_WAIT: Duration = Duration::from_secs(10);

impl KeeperLink {
    /// The client of a keeper that lives, as far as is known; waits for the successor of a dead one.
    pub(super) async fn living(&self) -> Result<Rc<KeeperClient>, KeeperError> {
        let wait = async {
            loop {
                let back = self.back.notified();
                let client = self.client();
                if !client.is_gone() {
                    return client;
                }
                back.await;
            }
        };
        gantry_rt::timeout(SUCCESSOR_WAIT, wait)
            .await
            .map_err(|_| KeeperError::Gone)
    }

    /// Starts a successor of the dead keeper and gives it everything that one had.
    pub(crate) async fn succeed(&self, config: &EngineConfig) -> Result<Vec<String>, EngineError> {
        let journal = self.client().journal_memfd()?;
        let client =
            KeeperClient::succeed(&config.exec_root, self.name, &config.keeper_exe).await?;
        fault::reach(Point::SuccessorConnected);
        if !client.can_adopt() {
            client.shutdown_if_empty().await?;
            return Err(EngineError::System(format!(
                "the program {} is of an earlier version and can't take over",
                config.keeper_exe.display()
            )));
        }
        client.inherit(journal.as_fd()).await?;
        let ring = self
            .pump
            .ring_memfd()
            .map_err(|e| EngineError::io("share the pump's ring", e))?;
        client.set_ring(ring.as_fd(), self.pump.epoch()).await?;
        let mut given = HashSet::new();
        let mut lost = Vec::new();
        loop {
            let held: Vec<String> = self.held.borrow().keys().cloned().collect();
            let left: Vec<String> = held.into_iter().filter(|id| !given.contains(id)).collect();
            if left.is_empty() {
                *self.client.borrow_mut() = client;
                self.back.notify_all();
                return Ok(lost);
            }
            for id in left {
                match self.give(&client, &id).await {
                    Ok(Given::Kept) => {}
                    Ok(Given::Lost) => lost.push(id.clone()),
                    Err(e) if client.is_gone() => return Err(e),
                    Err(e) => {
                        tracing::error!(id, error = %e, "a keeper did not take over a container");
                        lost.push(id.clone());
                    }
                }
                given.insert(id);
            }
        }
    }

    /// As long as it takes; ends early when the daemon does.
    pub(super) async fn succeed_in_the_end(self: &Rc<Self>, shard: &Rc<ShardEngine>) {
        while !shard.shared.is_closing() {
            match self.succeed(&shard.shared.config).await {
                Ok(lost) => {
                    tracing::info!(keeper = %self.name, "a keeper took over");
                    self.report_lost(shard, lost);
                    return;
                }
                Err(e) => {
                    tracing::error!(error = %e, "no keeper could be started in place of a dead one")
                }
            }
            gantry_rt::sleep(KEEPER_RETRY).await;
        }
    }

    pub(super) fn give_later(self: &Rc<Self>, id: String) {
        let link = self.clone();
        gantry_rt::spawn("keeper.give", async move {
            let Ok(client) = link.living().await else {
                return;
            };
            if let Err(e) = link.give(&client, &id).await {
                tracing::error!(id, error = %e, "a keeper did not take over a container");
            }
        });
    }

    /// Processes that ended while no keeper was there, on a kernel that does not say how; the task waits for those that
    /// no keeper took.
    fn report_lost(self: &Rc<Self>, shard: &Rc<ShardEngine>, lost: Vec<String>) {
        for id in lost {
            let process = self.held.borrow().get(&id).map(|held| held.process);
            let Some(process) = process else { continue };
            let (link, shard) = (self.clone(), shard.clone());
            gantry_rt::spawn("keeper.orphan", async move {
                let report = ExitReport {
                    id,
                    wait_status: process.ended().await,
                    exited_unix_ns: clock::unix_ns(),
                    oom_killed: false,
                };
                exit::report(&shard, &link, report);
            });
        }
    }
}
