//! Having hooks run, by the keeper.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_keeper_proto::msg::{Failure, Reply};
use gantry_keeper_proto::plan::{HookEnd, Step};
use gantry_keeper_proto::runtime::{CommandLimits, RuntimePlan};
use gantry_rt::fd::AsyncFd;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::failure::{FailedHook, said};
use super::prepare::{HostView, OUTPUT_BYTES, State, command, fill, memfd};
use super::{Hook, HookBundle, HookKind, PreparedHooks};
use crate::client::KeeperClient;
use crate::error::{KeeperError, LaunchError};
use crate::prepare::{FdTable, inline_or_memfd, text};

/// Process id, as it is written where the container's first process is the first of its process ids.
const FIRST_PID: i32 = 1;

impl PreparedHooks {
    /// Waits until the container's first process is there, has the hooks run that belong before its program, and lets it
    /// go on. A process that gives up before says itself why: no error here.
    pub(crate) async fn before(&mut self, keeper: &KeeperClient) -> Result<(), LaunchError> {
        let Some(gate) = self.gate.take() else {
            return Ok(());
        };
        let failed = |e: io::Error| LaunchError::prepare("wait for", "the container's process", e);
        let gate = AsyncFd::new(gate).map_err(failed)?;
        let Some(pid) = arrival(&gate).await.map_err(failed)? else {
            return Ok(());
        };
        let state = State::new(&self.bundle, "creating", Some(pid)).json()?;
        for kind in [HookKind::Prestart, HookKind::CreateRuntime] {
            self.run_all(keeper, kind, &state).await?;
        }
        let inside = if self.own_pids { FIRST_PID } else { pid };
        for (file, status) in [
            (&self.create_state, "creating"),
            (&self.start_state, "created"),
        ] {
            fill(
                file,
                &State::new(&self.bundle, status, Some(inside)).json()?,
            )?;
        }
        match gate.send(b"1").await {
            Ok(_) => Ok(()),
            // It has gone meanwhile.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(e) => Err(failed(e)),
        }
    }

    /// Has the hooks run that belong behind the start of the program.
    pub(crate) async fn after(&self, keeper: &KeeperClient, pid: i32) -> Result<(), LaunchError> {
        let state = State::new(&self.bundle, "running", Some(pid)).json()?;
        self.run_all(keeper, HookKind::Poststart, &state).await
    }

    async fn run_all(
        &self,
        keeper: &KeeperClient,
        kind: HookKind,
        state: &[u8],
    ) -> Result<(), LaunchError> {
        let hooks = self.hooks.get(&kind).into_iter().flatten();
        for (number, hook) in hooks.enumerate() {
            run(
                keeper,
                &self.host,
                &self.bundle,
                (kind, number, hook),
                state,
            )
            .await?
            .map_err(|failed| failed.error())?;
        }
        Ok(())
    }

    /// The error of a hook that the container's first process ran.
    pub(crate) fn create_error(&self, detail: u32, errno: i32) -> LaunchError {
        let kind = HookKind::CreateContainer;
        let (number, end) = HookEnd::decode(detail, errno);
        FailedHook {
            kind,
            number,
            hook: self.hooks.get(&kind).and_then(|hooks| hooks.get(number)),
            end,
            stdout: said(&self.stdout),
            stderr: said(&self.stderr),
        }
        .error()
    }
}

impl KeeperClient {
    /// Runs what belongs behind the end of a container. As the specification has it, each runs whatever became of those
    /// before; what failed is only logged.
    ///
    /// # Errors
    /// The kernel's, or the keeper's.
    pub async fn run_poststop(
        &self,
        bundle: &HookBundle,
        hooks: &[Hook],
    ) -> Result<(), LaunchError> {
        if hooks.is_empty() {
            return Ok(());
        }
        let host = HostView::open()?;
        let state = State::new(bundle, "stopped", None).json()?;
        for (number, hook) in hooks.iter().enumerate() {
            let which = (HookKind::Poststop, number, hook);
            if let Err(failed) = run(self, &host, bundle, which, &state).await? {
                tracing::warn!(id = bundle.id(), "{}", failed.text());
            }
        }
        Ok(())
    }
}

/// Runs one in the host's namespaces.
async fn run<'h>(
    keeper: &KeeperClient,
    host: &HostView,
    bundle: &HookBundle,
    (kind, number, hook): (HookKind, usize, &'h Hook),
    state: &[u8],
) -> Result<Result<(), FailedHook<'h>>, LaunchError> {
    let input = memfd(None)?;
    fill(&input, state)?;
    let (stdout, stderr) = (memfd(Some(OUTPUT_BYTES))?, memfd(Some(OUTPUT_BYTES))?);
    let (plan, fds) = plan(host, bundle, hook, [&input, &stdout, &stderr])?;
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let end = match keeper.run_command(plan, &borrowed).await? {
        Reply::Done => return Ok(Ok(())),
        Reply::Failed {
            failure: Failure::Runtime,
            detail,
            errno: wait_status,
            ..
        } => match detail {
            0 => HookEnd::Status(wait_status),
            _ => HookEnd::TimedOut,
        },
        Reply::Failed {
            failure: Failure::Launch,
            step,
            errno,
            ..
        } => match Step::from_number(step) {
            Some(Step::RuntimeExec) => HookEnd::NotExecuted(errno),
            Some(step) => {
                return Err(LaunchError::Child {
                    step,
                    about: Some(hook.path.clone()),
                    errno,
                });
            }
            None => {
                let text = format!("unknown step {step} of a hook");
                return Err(KeeperError::Protocol(text).into());
            }
        },
        Reply::Failed { failure, errno, .. } => {
            return Err(KeeperError::from_failure(failure, errno).into());
        }
        other => return Err(KeeperError::Protocol(format!("unexpected {other:?}")).into()),
    };
    Ok(Err(FailedHook {
        kind,
        number,
        hook: Some(hook),
        end,
        stdout: said(&stdout),
        stderr: said(&stderr),
    }))
}

fn plan(
    host: &HostView,
    bundle: &HookBundle,
    hook: &Hook,
    stdio: [&OwnedFd; 3],
) -> Result<(Vec<u8>, Vec<OwnedFd>), LaunchError> {
    let mut fds = FdTable::default();
    let command = command(hook)?;
    let [stdin, stdout, stderr] = stdio;
    let limits = CommandLimits {
        program: command.path,
        stdio: [
            fds.add_copy(stdin)?,
            fds.add_copy(stdout)?,
            fds.add_copy(stderr)?,
        ],
        timeout_ms: command.timeout_ms,
    };
    let plan = RuntimePlan {
        commands: vec![command.argv],
        env: command.env,
        root: fds.add_copy(&host.root)?,
        mount_namespace: fds.add_copy(&host.mount_namespace)?,
        cwd: text(
            "path of the bundle",
            bundle.dir().display().to_string().into(),
        )?,
        trees: Vec::new(),
        hidden: Vec::new(),
        process: None,
        limits: Some(limits),
    };
    let bytes = inline_or_memfd(plan.encode(), &mut fds)?;
    Ok((bytes, fds.into_vec()))
}

/// The process id of who says by a byte that it is there; `None` at the end.
async fn arrival(gate: &AsyncFd) -> io::Result<Option<i32>> {
    loop {
        let mut byte = [0u8; 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut byte)];
        let flags = RecvFlags::DONTWAIT;
        match rustix::net::recvmsg(gate.as_fd(), &mut parts, &mut control, flags) {
            Ok(message) if message.bytes == 0 => return Ok(None),
            Ok(_) => {
                let credentials = control.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials),
                    _ => None,
                });
                let pid = credentials.map(|of| of.pid.as_raw_nonzero().get());
                return pid.map(Some).ok_or(io::ErrorKind::InvalidData.into());
            }
            Err(rustix::io::Errno::AGAIN) => gate.readable().await?,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
