//! Commands of external runtimes by this keeper.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_keeper_proto::msg::{Failure, HOOKS_VERSION, RUNTIME_VERSION, Reply, Request};
use gantry_keeper_proto::plan::Step;

use super::{Born, KeeperClient, Launched, unexpected};
use crate::error::{KeeperError, LaunchError};
use crate::exec::LaunchedExec;
use crate::oci::{Commands, External, ExternalExec, RuntimeCommand, remove_later};
use crate::prepare::GroupGuard;

impl KeeperClient {
    /// As [`KeeperClient::launch`], for a container of an external runtime.
    pub(super) async fn launch_external(
        &self,
        external: External,
        group: &mut GroupGuard,
    ) -> Result<Launched, LaunchError> {
        let External {
            id,
            commands,
            mut ends,
            group: _,
            root,
            kept,
        } = external;
        let born = self.born_by(&id, commands).await;
        drop(kept);
        let (born, terminal) = born?;
        ends.tty_master = terminal;
        let group = group.take().ok_or(KeeperError::Gone)?;
        Ok(Launched::new(born, ends, group, root))
    }

    /// As [`KeeperClient::launch_exec`], in a container of an external runtime.
    pub(super) async fn launch_external_exec(
        &self,
        exec: ExternalExec,
    ) -> Result<LaunchedExec, LaunchError> {
        let ExternalExec {
            commands,
            mut ends,
            dir,
        } = exec;
        let born = self.born_by("exec", commands).await;
        remove_later(vec![dir]);
        let (born, terminal) = born?;
        ends.tty_master = terminal;
        Ok(LaunchedExec::new(born, ends))
    }

    /// Does something to a container of an external runtime. Once sent it goes on even if this future is dropped.
    ///
    /// # Errors
    /// What the runtime says, or the keeper.
    pub async fn runtime_command(&self, command: RuntimeCommand) -> Result<(), LaunchError> {
        let RuntimeCommand { commands, files } = command;
        let answer = self.run(commands).await;
        remove_later(files);
        match answer? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other).into()),
        }
    }

    /// Runs a single command, and gives the keeper's answer.
    pub(crate) async fn run_command(
        &self,
        plan: Vec<u8>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply, KeeperError> {
        let version = self.version.get();
        if version < HOOKS_VERSION {
            return Err(KeeperError::TooOldForHooks(version));
        }
        Ok(self.call(Request::Runtime { plan }, fds).await?.0)
    }

    async fn born_by(
        &self,
        id: &str,
        commands: Commands,
    ) -> Result<(Born, Option<OwnedFd>), LaunchError> {
        match self.run(commands).await? {
            (
                Reply::Launched {
                    pid,
                    start_time_ticks,
                    slot,
                    generation,
                },
                fds,
            ) => {
                // The pidfd, and the terminal if there is one.
                let mut fds = fds.into_iter();
                let born = Born {
                    pidfd: fds.next(),
                    pid,
                    start_time_ticks,
                    slot,
                    generation,
                };
                Ok((born, fds.next()))
            }
            (other, _) => Err(KeeperError::Protocol(format!("{id}: {other:?}")).into()),
        }
    }

    async fn run(&self, mut commands: Commands) -> Result<(Reply, Vec<OwnedFd>), LaunchError> {
        let version = self.version.get();
        if version < RUNTIME_VERSION {
            return Err(KeeperError::TooOldForRuntimes(version).into());
        }
        let fds = std::mem::take(&mut commands.fds);
        let plan = std::mem::take(&mut commands.plan_bytes);
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let answer = self.call(Request::Runtime { plan }, &borrowed).await;
        // The container's ends must be closed here, or its end of file is never seen.
        drop(fds);
        match answer? {
            (
                Reply::Failed {
                    failure: Failure::Runtime,
                    step,
                    errno: wait_status,
                    ..
                },
                _,
            ) => Err(commands.command_failed(step, wait_status).await),
            (
                Reply::Failed {
                    failure: Failure::Launch,
                    step,
                    errno,
                    ..
                },
                _,
            ) => match Step::from_number(step) {
                Some(step) => Err(commands.step_failed(step, errno)),
                None => {
                    Err(KeeperError::Protocol(format!("unknown step {step} of a runtime")).into())
                }
            },
            (Reply::Failed { failure, errno, .. }, _) => {
                Err(KeeperError::from_failure(failure, errno).into())
            }
            answer => Ok(answer),
        }
    }
}
