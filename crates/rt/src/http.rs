//! HTTP/1.1 on a shard: hyper's codec on an adapter of ours ([`io`](self::io)), no `Send` anywhere.
//!
//! ```ignore
//! rt::http::serve(listener_handle.open()?, Rc::new(service)).await
//! ```
//! A handler's future and a response's stream are polled by the connection's own task. When the client hangs up, both
//! are dropped at once. Work that must not be cut goes to a task of its own ([`crate::spawn`], [`crate::mailbox::call`]).

mod body;
mod conn;
mod io;
mod refuse;
mod serve;

pub use body::{Body, BodyError, BodyTx, ClientGone, ResponseBody};
pub use conn::serve_connection;
pub use serve::serve;

use std::future::Future;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use ::http::HeaderMap;
use bytes::Bytes;

/// Largest request head (Go's DefaultMaxHeaderBytes and its 4 KiB of slop); above it 431.
pub const MAX_HEAD_BYTES: usize = (1 << 20) + 4096;

/// Most header lines in a request; above it 431. hyper's default: a test keeps it true.
pub const MAX_HEADERS: usize = 100;

/// A request head that is not complete this long after its first byte closes the connection.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// A connection without a request this long is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A complete (not streamed) response of which the client takes no byte this long closes the connection. Streams may
/// stand still as long as the client likes (`docker logs -f | less`).
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How often deadlines of an active connection are looked at; an idle one is parked after the same time.
const TICK: Duration = Duration::from_secs(1);

/// Deadlines of a connection. [`serve`] uses [`Timeouts::DEFAULT`].
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// See [`HEAD_TIMEOUT`].
    pub head: Duration,
    /// See [`IDLE_TIMEOUT`].
    pub idle: Duration,
    /// See [`WRITE_STALL_TIMEOUT`].
    pub write_stall: Duration,
    /// Precision of the others.
    pub tick: Duration,
}

impl Timeouts {
    /// Those of the daemon.
    pub const DEFAULT: Self = Timeouts {
        head: HEAD_TIMEOUT,
        idle: IDLE_TIMEOUT,
        write_stall: WRITE_STALL_TIMEOUT,
        tick: TICK,
    };
}

/// Open connections per shard; further ones wait in the listen backlog.
pub const MAX_CONNECTIONS: usize = 8192;

/// A request on this shard.
pub type Request = ::http::Request<Body>;

/// A response.
pub type Response = ::http::Response<ResponseBody>;

/// What a service answers.
pub enum Outcome {
    /// An ordinary response.
    Response(Response),
    /// The connection stops being HTTP.
    Hijack(Hijack),
}

impl From<Response> for Outcome {
    fn from(response: Response) -> Self {
        Outcome::Response(response)
    }
}

/// How a 101 is written: `101 <reason>` with `Connection: Upgrade` and `Upgrade: <protocol>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// After the status.
    pub reason: &'static str,
    /// Value of `Upgrade:`.
    pub protocol: &'static str,
}

impl Upgrade {
    /// Docker's own.
    pub const TCP: Self = Upgrade {
        reason: "UPGRADED",
        protocol: "tcp",
    };
    /// RFC 6455.
    pub const WEBSOCKET: Self = Upgrade {
        reason: "Switching Protocols",
        protocol: "websocket",
    };
}

/// Gets the socket and what the client had sent beyond its request.
pub type OnUpgrade = Box<dyn FnOnce(OwnedFd, Bytes)>;

/// Takes the connection away from HTTP. The request's body, if any, is read to its end first.
pub struct Hijack {
    /// `Some`: a 101. `None`: `200 OK`, no framing.
    pub upgrade: Option<Upgrade>,
    /// Further headers (Content-Type, Api-Version, …), written as they are.
    pub headers: HeaderMap,
    /// Called on this shard once the head is on its way. The socket is non-blocking.
    pub on_upgrade: OnUpgrade,
}

/// What answers requests; one per shard.
pub trait Service: 'static {
    /// Answers a request. Dropped when the client hangs up.
    fn call(self: Rc<Self>, req: Request) -> impl Future<Output = Outcome> + 'static;
}
