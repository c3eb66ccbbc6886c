//! `attach`: a client's connection becomes the container's streams.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use gantry_rt::fd::AsyncFd;
use gantry_rt::{Either, ShardId, mailbox, race};
use gantry_stream::websocket::{self, Opcode};
use gantry_stream::{ContainerIo, Stream, SubscribeOptions, Subscription, attach, keys, mux};

use super::{Container, Run, logs};
use crate::EngineError;
use crate::model::{AttachOptions, LogsOptions, Status};
use crate::shard::ShardEngine;

/// Clients attached to one container at once.
pub const MAX_ATTACHED: usize = 1024;

/// A checked attach; give it the connection.
pub struct AttachTicket {
    shard: usize,
    id: String,
    tty: bool,
    options: AttachOptions,
    detach_keys: Vec<u8>,
    wire: Wire,
}

/// What goes over the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// Multiplexed frames, or raw bytes of a terminal.
    Docker,
    /// Messages of a WebSocket.
    WebSocket(Opcode),
}

impl AttachTicket {
    /// Whether the container has a terminal (raw stream) or not (multiplexed frames).
    pub fn tty(&self) -> bool {
        self.tty
    }

    /// As [`AttachTicket::serve`], after the handshake of a WebSocket: output goes out in messages of this opcode.
    pub fn serve_websocket(mut self, socket: OwnedFd, over_read: Bytes, opcode: Opcode) {
        self.wire = Wire::WebSocket(opcode);
        self.serve(socket, over_read);
    }

    /// Serves the connection in the background, on the shard of the container. `over_read` is what
    /// had been read past the request's head.
    pub fn serve(self, socket: OwnedFd, over_read: Bytes) {
        let id = self.id.clone();
        let posted = mailbox::post(ShardId(self.shard), move || {
            let container = ShardEngine::current().and_then(|shard| shard.get(&self.id));
            match container {
                Ok(container) => begin(&container, self, socket, over_read),
                Err(e) => tracing::debug!(error = %e, "an attached container went away"),
            }
        });
        if let Err(e) = posted {
            tracing::warn!(id, error = %e, "an attach was dropped");
        }
    }
}

/// What can be said of a request before its container is known.
pub(crate) fn parse_detach_keys(options: &AttachOptions) -> Result<Vec<u8>, EngineError> {
    match options.detach_keys.as_deref() {
        None | Some("") => Ok(keys::DEFAULT_DETACH_KEYS.to_vec()),
        Some(text) => keys::parse(text).map_err(|_| {
            EngineError::InvalidParameter(format!("Invalid detach keys ({text}) provided"))
        }),
    }
}

/// Checks a request on the owner shard; `named` is how the client called the container.
pub(crate) fn check(
    container: &Rc<Container>,
    named: &str,
    mut options: AttachOptions,
) -> Result<AttachTicket, EngineError> {
    let detach_keys = parse_detach_keys(&options)?;
    match container.status() {
        Status::Paused => {
            return Err(EngineError::Conflict(format!(
                "container {named} is paused, unpause the container before attach"
            )));
        }
        Status::Restarting => {
            return Err(EngineError::Conflict(format!(
                "container {} is restarting, wait until the container is running",
                container.id
            )));
        }
        Status::Removing | Status::Dead => {
            return Err(EngineError::Conflict(format!(
                "container {} is marked for removal",
                container.id
            )));
        }
        _ => {}
    }
    if container.inner.borrow().attached >= MAX_ATTACHED {
        return Err(EngineError::Unavailable(format!(
            "more than {MAX_ATTACHED} clients are attached to this container"
        )));
    }
    options.stdin &= container.fixed.config.open_stdin;
    Ok(AttachTicket {
        shard: container.shard.id,
        id: container.id.to_string(),
        tty: container.fixed.config.tty,
        options,
        detach_keys,
        wire: Wire::Docker,
    })
}

/// Counts a client while it is attached.
struct Counted(Rc<Container>);

impl Counted {
    fn new(container: &Rc<Container>) -> Self {
        container.inner.borrow_mut().attached += 1;
        Self(container.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.inner.borrow_mut().attached -= 1;
    }
}

fn begin(container: &Rc<Container>, ticket: AttachTicket, socket: OwnedFd, over_read: Bytes) {
    container.event("attach", &[]);
    let counted = Counted::new(container);
    // Subscribed here and now, not in the task: no output is missed, and what the log has at this
    // moment is not sent twice.
    let stream = ticket.options.stream;
    let live = container
        .run()
        .filter(|_| stream && wants_streams(&ticket.options))
        .map(|run| subscribe(&run, &ticket.options));
    let past = if ticket.options.logs {
        Some(log_reader(container, &ticket))
    } else {
        None
    };
    // One that does not run is waited for: clients attach before they start.
    let waits = live.is_none() && stream && wants_streams(&ticket.options);
    let pending = waits.then(|| container.pending_attach(&ticket.options));
    let container = container.clone();
    gantry_rt::spawn("container.attach", async move {
        let _counted = counted;
        let socket = match AsyncFd::new_nonblocking(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(id = %container.id, %error, "a client's socket cannot be used");
                return;
            }
        };
        let ended = match past {
            Some(Ok(reader)) => !send_log(&container, reader, &socket, ticket.wire).await,
            Some(Err(EngineError::NotImplemented(why)))
                if ticket.wire == Wire::Docker && !stream =>
            {
                say(&socket, ticket.tty, &format!("Error attaching: {why}\n")).await;
                true
            }
            Some(Err(e)) => {
                tracing::warn!(id = %container.id, error = %e, "attach goes on without the log");
                false
            }
            None => false,
        };
        if ended {
            return;
        }
        let live = match (live, pending) {
            (Some(live), _) => Some(live),
            (None, Some(mut pending)) => {
                match race(pending.recv(), left(&socket, ticket.wire)).await {
                    Either::Left(live) => live,
                    Either::Right(()) => None,
                }
            }
            (None, None) => None,
        };
        match (live, ticket.wire) {
            (Some(live), _) => serve(&container, ticket, live, socket, over_read).await,
            (None, Wire::WebSocket(_)) => websocket::close(&socket).await,
            (None, Wire::Docker) => {}
        }
    });
}

/// Waits until a client that is not served yet has left. One that only ended its input has, if it speaks WebSocket.
async fn left(socket: &AsyncFd, wire: Wire) {
    match wire {
        Wire::Docker => attach::hang_up(socket).await,
        Wire::WebSocket(_) => attach::input_ended(socket).await,
    }
}

/// Whether there is anything to connect; without, an attach has ended when its log is sent.
fn wants_streams(options: &AttachOptions) -> bool {
    options.stdin || options.stdout || options.stderr
}

/// A started run with a subscription made before its first output.
pub(crate) struct Live {
    run: Rc<Run>,
    subscription: Subscription,
}

fn subscribe(run: &Rc<Run>, options: &AttachOptions) -> Live {
    let wanted = SubscribeOptions {
        stdout: options.stdout && options.stream,
        stderr: options.stderr && options.stream,
    };
    Live {
        run: run.clone(),
        subscription: run.io.subscribe(wanted),
    }
}

/// A client that attached before the start.
pub(crate) struct PendingAttach {
    options: AttachOptions,
    reply: gantry_rt::sync::mpsc::Sender<Live>,
}

impl Container {
    fn pending_attach(&self, options: &AttachOptions) -> gantry_rt::sync::mpsc::Receiver<Live> {
        let (reply, receiver) = gantry_rt::sync::mpsc::channel(1);
        let mut pending = self.pending.borrow_mut();
        pending.retain(|p: &PendingAttach| !p.reply.is_closed());
        pending.push(PendingAttach {
            options: options.clone(),
            reply,
        });
        receiver
    }

    /// Gives clients that wait for the start their subscription; before the first read.
    pub(crate) fn serve_pending_attaches(&self, run: &Rc<Run>) {
        for pending in self.pending.take() {
            // A client that left meanwhile has closed its end.
            if pending
                .reply
                .try_send(subscribe(run, &pending.options))
                .is_err()
            {
                tracing::trace!("an attached client left before the start");
            }
        }
    }

    /// The start failed or the container is gone: their connections are closed.
    pub(crate) fn close_pending_attaches(&self) {
        self.pending.take();
    }
}

async fn serve(
    container: &Rc<Container>,
    ticket: AttachTicket,
    live: Live,
    socket: AsyncFd,
    over_read: Bytes,
) {
    let Live { run, subscription } = live;
    let AttachTicket {
        tty,
        options,
        detach_keys,
        wire,
        ..
    } = ticket;
    let wanted = attach::AttachOptions {
        stdin: options.stdin,
        stdout: options.stdout,
        stderr: options.stderr,
        tty,
        multiplexed: !tty,
        detach_keys,
        stdin_once: container.fixed.config.stdin_once,
        farewell: "",
    };
    let io: Rc<ContainerIo> = run.io.clone();
    let (keeper, id) = (run.keeper.clone(), container.id.clone());
    let close_stdin = move || keeper.close_stdin_later(&id);
    let end = match wire {
        Wire::Docker => {
            attach::serve(subscription, socket, over_read, io, wanted, close_stdin).await
        }
        Wire::WebSocket(opcode) => {
            let client = websocket::Client {
                socket,
                over_read,
                opcode,
            };
            websocket::serve(subscription, client, io, wanted, close_stdin).await
        }
    };
    if end == attach::AttachEnd::Detached {
        container.event("detach", &[]);
    }
}

/// Tells a client, as output, what went wrong: the answer's head is out.
pub(crate) async fn say(socket: &AsyncFd, raw: bool, text: &str) {
    let mut bytes = BytesMut::new();
    if raw {
        bytes.extend_from_slice(text.as_bytes());
    } else {
        mux::put_frame(&mut bytes, Stream::Stdout as u8, text.as_bytes());
    }
    if let Err(e) = socket.send_all(&bytes).await {
        tracing::debug!(error = %e, "a client left before it heard what went wrong");
    }
}

fn log_reader(
    container: &Rc<Container>,
    ticket: &AttachTicket,
) -> Result<gantry_logs::LogStream, EngineError> {
    let options = &ticket.options;
    let wanted = LogsOptions {
        stdout: options.stdout,
        stderr: options.stderr,
        ..LogsOptions::default()
    };
    let raw = ticket.tty || ticket.wire != Wire::Docker;
    logs::snapshot(container, &wanted, raw)
}

/// Sends the log as it was when the client attached; false if the client is gone. A log that cannot be read ends
/// there, and that is said.
async fn send_log(
    container: &Rc<Container>,
    mut reader: gantry_logs::LogStream,
    socket: &AsyncFd,
    wire: Wire,
) -> bool {
    while let Some(chunk) = reader.next().await {
        match chunk {
            Ok(chunk) => {
                let sent = match wire {
                    Wire::Docker => socket.send_all(&chunk).await,
                    Wire::WebSocket(opcode) => websocket::send(socket, opcode, chunk).await,
                };
                if let Err(e) = sent {
                    tracing::debug!(error = %e, "a client left while its log was sent");
                    return false;
                }
            }
            Err(e) => {
                tracing::warn!(id = %container.id, error = %e, "attach goes on without the rest of the log");
                return true;
            }
        }
    }
    true
}
