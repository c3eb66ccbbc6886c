//! A client's connection becomes the streams of the exec it starts.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::Bytes;
use gantry_rt::fd::AsyncFd;
use gantry_rt::{ShardId, mailbox};
use gantry_stream::{SubscribeOptions, attach, keys};

use super::index::Home;
use super::start::{Live, start};
use super::{Exec, not_found};
use crate::EngineError;
use crate::container::Container;
use crate::container::attach::say;
use crate::shard::ShardEngine;

/// What a client says when it starts an exec.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExecStart {
    /// It takes the output raw, as that of a terminal, instead of in frames.
    pub raw: bool,
    /// Size of the terminal: rows, columns; instead of the one given at its creation.
    pub console_size: Option<(u16, u16)>,
}

/// A start whose connection is still to come.
pub struct ExecTicket {
    shard: usize,
    container: String,
    id: String,
    options: ExecStart,
}

impl ExecTicket {
    pub(super) fn new(home: Home, id: &str, options: ExecStart) -> Self {
        Self {
            shard: home.shard,
            container: home.container.to_string(),
            id: id.to_owned(),
            options,
        }
    }

    /// Starts the exec and serves the connection in the background, on the shard of the container. `over_read` is
    /// what had been read past the request.
    pub fn serve(self, socket: OwnedFd, over_read: Bytes) {
        let id = self.id.clone();
        let posted = mailbox::post(ShardId(self.shard), move || {
            gantry_rt::spawn("exec.attach", async move {
                serve(self, socket, over_read).await;
            });
        });
        if let Err(e) = posted {
            tracing::warn!(id, error = %e, "the start of an exec was dropped");
        }
    }
}

async fn serve(ticket: ExecTicket, socket: OwnedFd, over_read: Bytes) {
    let raw = ticket.options.raw;
    let socket = match AsyncFd::new_nonblocking(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(id = ticket.id, %error, "a client's socket cannot be used");
            return;
        }
    };
    let (container, exec) = match find(&ticket) {
        Ok(found) => found,
        Err(e) => return say(&socket, raw, &format!("{e}\r\n")).await,
    };
    let wanted = SubscribeOptions {
        stdout: exec.config().attach_stdout,
        // A client without frames has no place for it.
        stderr: exec.config().attach_stderr && !raw,
    };
    let started = start(&container, &exec, ticket.options, Some(wanted)).await;
    attach::answer_taken(&socket).await;
    match started {
        Ok(live) => stream(&container, &exec, live, wanted, raw, socket, over_read).await,
        Err(e) => {
            tracing::debug!(id = %exec.key, error = %e, "an exec could not be started");
            say(&socket, raw, &format!("{e}\r\n")).await;
        }
    }
}

fn find(ticket: &ExecTicket) -> Result<(Rc<Container>, Rc<Exec>), EngineError> {
    let missing = || not_found(&ticket.id);
    let container = ShardEngine::current()?
        .get(&ticket.container)
        .map_err(|_| missing())?;
    let exec = container.execs.get(&ticket.id).ok_or_else(missing)?;
    Ok((container, exec))
}

async fn stream(
    container: &Rc<Container>,
    exec: &Rc<Exec>,
    live: Live,
    wanted: SubscribeOptions,
    raw: bool,
    socket: AsyncFd,
    over_read: Bytes,
) {
    let config = exec.config();
    let Some(subscription) = live
        .subscription
        .filter(|_| wanted.stdout || wanted.stderr || config.attach_stdin)
    else {
        // Nothing to wait for: the connection ends here, the exec goes on.
        return;
    };
    let detach_keys = match config.detach_keys.as_slice() {
        [] => keys::DEFAULT_DETACH_KEYS,
        own => own,
    };
    let wire = attach::AttachOptions {
        stdin: config.attach_stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
        tty: config.tty,
        multiplexed: !raw,
        detach_keys: detach_keys.to_vec(),
        stdin_once: true,
        farewell: "exec attach failed: error on attach stdin: read escape sequence\r\n",
    };
    let (keeper, key) = (live.keeper, exec.key.as_str().into());
    let close_stdin = move || keeper.close_stdin_later(&key);
    let end = attach::serve(subscription, socket, over_read, live.io, wire, close_stdin).await;
    if end == attach::AttachEnd::Detached {
        container.exec_event(exec, "exec_detach", &[]);
    }
}
