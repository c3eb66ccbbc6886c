//! Launches, of containers and of further processes in them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;

use gantry_cgroup::Group;
use gantry_keeper_proto::msg::{EXEC_VERSION, Failure, Reply, Request};
use gantry_keeper_proto::plan::{Plan, Step};
use gantry_rt::Either;

use super::{KeeperClient, Launched, unexpected};
use crate::error::{ExecStage, KeeperError, LaunchError};
use crate::exec::{self, ExecKind, ExecParts, LaunchedExec, PreparedExec};
use crate::hooks::PreparedHooks;
use crate::prepare::{DaemonEnds, GroupGuard, LaunchKind, Prepared, PreparedParts};
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

/// The keeper's answer to a plan.
type BornAnswer = Result<Result<Born, FailedStep>, KeeperError>;

/// Closes the container's ends here, or its end of file is never seen.
fn keep_root(plan: &Plan, mut fds: Vec<OwnedFd>) -> RootMount {
    RootMount::new(fds.swap_remove(usize::from(plan.rootfs)))
}

impl Launched {
    pub(super) fn new(born: Born, ends: DaemonEnds, group: Group, root: RootMount) -> Launched {
        Launched {
            process: LaunchedExec::new(born, ends),
            group,
            root,
        }
    }
}

impl KeeperClient {
    /// Launches. Once sent it goes on even if this future is dropped, so run it in a task of its own.
    /// A launch that fails leaves no control group behind.
    pub async fn launch(&self, prepared: Prepared) -> Result<Launched, LaunchError> {
        let (launched, mut group) = match prepared.into_kind() {
            LaunchKind::BuiltIn(mut parts) => {
                let mut group = std::mem::take(&mut parts.group);
                (self.launch_built_in(*parts, &mut group).await, group)
            }
            LaunchKind::External(mut external) => {
                let mut group = std::mem::take(&mut external.group);
                (self.launch_external(*external, &mut group).await, group)
            }
        };
        if launched.is_err() {
            group.put_away().await;
        }
        launched
    }

    async fn launch_built_in(
        &self,
        parts: PreparedParts,
        group: &mut GroupGuard,
    ) -> Result<Launched, LaunchError> {
        let PreparedParts {
            plan,
            plan_bytes,
            fds,
            ends,
            group: _,
            mut hooks,
        } = parts;
        let version = self.version.get();
        if version < plan.oldest_keeper() {
            return Err(KeeperError::TooOldToShare(version).into());
        }
        let launch = (&plan, plan_bytes, fds);
        let (answer, root) = match &mut hooks {
            None => {
                let (plan, bytes, fds) = launch;
                (self.born(plan, bytes, &fds).await, keep_root(plan, fds))
            }
            Some(hooks) => {
                let (answer, root, ran) = self.born_with(launch, hooks).await;
                // One of the host's namespaces failed: the container's process only says that nobody let it go on.
                ran?;
                (answer, root)
            }
        };
        let born = answer?.map_err(|f| match (&hooks, f.step) {
            (Some(hooks), Step::HookCreate) => hooks.create_error(f.detail, f.errno),
            _ => launch_error(&plan, f.step, f.detail, f.errno),
        })?;
        if let Some(hooks) = &hooks
            && let Err(e) = hooks.after(self, born.pid).await
        {
            if let Err(left) = self.signal(&plan.id, libc::SIGKILL).await {
                tracing::warn!(id = plan.id, error = %left, "a container whose start failed was not ended");
            }
            return Err(e);
        }
        let group = group.take().ok_or(KeeperError::Gone)?;
        Ok(Launched::new(born, ends, group, root))
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

    /// As `born`, while the hooks of the host's namespaces run.
    async fn born_with(
        &self,
        (plan, bytes, fds): (&Plan, Vec<u8>, Vec<OwnedFd>),
        hooks: &mut PreparedHooks,
    ) -> (BornAnswer, RootMount, Result<(), LaunchError>) {
        let mut ran = pin!(hooks.before(self));
        let (answer, done) = {
            let mut born = pin!(self.born(plan, bytes, &fds));
            match gantry_rt::race(ran.as_mut(), born.as_mut()).await {
                Either::Left(ran) => (born.await, Some(ran)),
                Either::Right(answer) => (answer, None),
            }
        };
        // The process's end of the gate goes, too: nobody comes any more.
        let root = keep_root(plan, fds);
        match done {
            Some(ran) => (answer, root, ran),
            None => (answer, root, ran.await),
        }
    }

    /// Sends a plan; the inner error is a step of the launch that failed.
    async fn born(&self, plan: &Plan, plan_bytes: Vec<u8>, fds: &[OwnedFd]) -> BornAnswer {
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
