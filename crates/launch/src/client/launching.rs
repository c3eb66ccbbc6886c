//! Launches, of containers and of further processes in them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_keeper_proto::msg::{EXEC_VERSION, Failure, Reply, Request};
use gantry_keeper_proto::plan::{Plan, Step};

use super::{KeeperClient, Launched, unexpected};
use crate::error::{ExecStage, KeeperError, LaunchError};
use crate::exec::{self, ExecKind, ExecParts, LaunchedExec, PreparedExec};
use crate::prepare::{LaunchKind, Prepared, PreparedParts};
use crate::root_mount::RootMount;

/// A process as the keeper names it.
#[derive(Debug)]
pub(crate) struct Born {
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) pid: i32,
    pub(crate) start_time_ticks: u64,
    pub(crate) slot: u32,
    pub(crate) generation: u16,
}

/// A step of a launch that failed in the keeper.
struct FailedStep {
    step: Step,
    detail: u32,
    errno: i32,
}

impl KeeperClient {
    /// Launches. Once sent it goes on even if this future is dropped, so run it in a task of its own.
    /// A launch that fails leaves no control group behind.
    pub async fn launch(&self, prepared: Prepared) -> Result<Launched, LaunchError> {
        let parts = match prepared.into_kind() {
            LaunchKind::BuiltIn(parts) => *parts,
            LaunchKind::External(external) => return self.launch_external(*external).await,
        };
        let PreparedParts {
            plan,
            plan_bytes,
            mut fds,
            ends,
            mut group,
        } = parts;
        let version = self.version.get();
        if version < plan.oldest_keeper() {
            return Err(KeeperError::TooOldToShare(version).into());
        }
        let answer = self.born(&plan, plan_bytes, &fds).await;
        let root = RootMount::new(fds.swap_remove(usize::from(plan.rootfs)));
        // The container's ends must be closed here, or its end of file is never seen.
        drop(fds);
        let born = answer?.map_err(|f| launch_error(&plan, f.step, f.detail, f.errno))?;
        Ok(Launched {
            pid: born.pid,
            start_time_ticks: born.start_time_ticks,
            slot: born.slot,
            generation: born.generation,
            stdin: ends.stdin,
            stdout: ends.stdout,
            stderr: ends.stderr,
            tty_master: ends.tty_master,
            pidfd: born.pidfd,
            group: group.take().ok_or(KeeperError::Gone)?,
            root,
        })
    }

    /// Launches a further process of a running container. Once sent it goes on even if this future is dropped.
    pub async fn launch_exec(&self, prepared: PreparedExec) -> Result<LaunchedExec, LaunchError> {
        let prepared = match prepared.into_kind() {
            ExecKind::BuiltIn(parts) => parts,
            ExecKind::External(external) => return self.launch_external_exec(external).await,
        };
        let version = self.version.get();
        if version < EXEC_VERSION {
            return Err(KeeperError::TooOld(version).into());
        }
        let ExecParts {
            plan,
            plan_bytes,
            fds,
            ends,
        } = *prepared;
        if version < plan.oldest_keeper() {
            return Err(KeeperError::TooOldToShare(version).into());
        }
        let answer = self.born(&plan, plan_bytes, &fds).await;
        drop(fds);
        let born = answer?.map_err(|f| exec::error(&plan, f.step, f.errno))?;
        Ok(LaunchedExec::new(born, ends))
    }

    /// Sends a plan; the inner error is a step of the launch that failed.
    async fn born(
        &self,
        plan: &Plan,
        plan_bytes: Vec<u8>,
        fds: &[OwnedFd],
    ) -> Result<Result<Born, FailedStep>, KeeperError> {
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let (reply, fds) = self
            .call(Request::Launch { plan: plan_bytes }, &borrowed)
            .await?;
        match reply {
            Reply::Launched {
                pid,
                start_time_ticks,
                slot,
                generation,
            } => Ok(Ok(Born {
                pidfd: fds.into_iter().next(),
                pid,
                start_time_ticks,
                slot,
                generation,
            })),
            Reply::Failed {
                failure: Failure::Launch,
                step,
                detail,
                errno,
            } => match Step::from_number(step) {
                Some(step) => Ok(Err(FailedStep {
                    step,
                    detail,
                    errno,
                })),
                None => Err(KeeperError::Protocol(format!(
                    "{}: unknown launch step {step}",
                    plan.id
                ))),
            },
            Reply::Failed { failure, errno, .. } => Err(KeeperError::from_failure(failure, errno)),
            other => Err(unexpected(&other)),
        }
    }
}

fn launch_error(plan: &Plan, step: Step, detail: u32, errno: i32) -> LaunchError {
    let program = || {
        plan.argv
            .first()
            .map(|a| a.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let stage = match step {
        Step::LookupNotFound => ExecStage::NotInPath,
        Step::LookupStat => ExecStage::Stat,
        Step::LookupDirectory => ExecStage::IsDirectory,
        Step::LookupPermission => ExecStage::Permission,
        _ => {
            return LaunchError::Child {
                step,
                about: crate::prepare::subject_of(plan, step, detail),
                errno,
            };
        }
    };
    LaunchError::Exec {
        path: program(),
        errno,
        stage,
    }
}
