//! Listening sockets. Every shard waits for the same one; whoever is first accepts.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::net::{SocketFlags, sockopt};

use crate::fd::AsyncFd;
use crate::time::{Either, race};

/// After this long without a byte a TCP client is asked for a sign of life, and again after as long (Go's numbers). A client
/// that is gone but for the end of its input can be told in no other way from one that only ended its input.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// A client that answers none of so many is gone.
pub const KEEPALIVE_PROBES: u32 = 9;

/// A listening socket that any number of shards can open. `Send`: made at boot, given to each shard.
#[derive(Clone, Debug)]
pub struct ListenerHandle {
    socket: Arc<OwnedFd>,
    /// Readable for ever once stopped; never read.
    stop: Arc<OwnedFd>,
    tcp: bool,
}

impl ListenerHandle {
    /// From a bound unix listener (std, so that no SO_REUSEPORT is set).
    pub fn unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Self::new(listener.into(), false)
    }

    /// From a bound TCP listener.
    pub fn tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Self::new(listener.into(), true)
    }

    fn new(socket: OwnedFd, tcp: bool) -> io::Result<Self> {
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(ListenerHandle {
            socket: Arc::new(socket),
            stop: Arc::new(stop),
            tcp,
        })
    }

    /// Opens it on the current shard.
    pub fn open(&self) -> io::Result<Listener> {
        Ok(Listener {
            socket: Rc::new(AsyncFd::new(rustix::io::fcntl_dupfd_cloexec(
                &*self.socket,
                3,
            )?)?),
            stop: Rc::new(AsyncFd::new(rustix::io::fcntl_dupfd_cloexec(
                &*self.stop,
                3,
            )?)?),
            tcp: self.tcp,
        })
    }

    /// Every shard's `accept` answers `None` from now on. Connections in the backlog stay there.
    pub fn stop(&self) -> io::Result<()> {
        match rustix::io::write(&*self.stop, &1u64.to_ne_bytes()) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

fn set_tcp_options(fd: &OwnedFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepintvl(fd, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(fd, KEEPALIVE_PROBES)?;
    Ok(())
}

/// A listening socket on one shard.
#[derive(Clone)]
pub struct Listener {
    socket: Rc<AsyncFd>,
    stop: Rc<AsyncFd>,
    tcp: bool,
}

impl Listener {
    /// The next connection (non-blocking, close-on-exec), or `None` once stopped. Legal to drop: only readiness is asked
    /// of the ring, the accept itself is a plain call.
    pub async fn accept(&self) -> io::Result<Option<OwnedFd>> {
        loop {
            match race(self.stop.readable(), self.socket.readable()).await {
                Either::Left(stopped) => {
                    stopped?;
                    return Ok(None);
                }
                Either::Right(ready) => ready?,
            }
            match rustix::net::accept_with(
                self.socket.as_fd(),
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            ) {
                Ok(fd) => {
                    if self.tcp {
                        set_tcp_options(&fd)?;
                    }
                    return Ok(Some(fd));
                }
                // Another shard was first, or the peer is gone already.
                Err(
                    rustix::io::Errno::AGAIN
                    | rustix::io::Errno::INTR
                    | rustix::io::Errno::CONNABORTED,
                ) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Whether connections are TCP.
    pub fn is_tcp(&self) -> bool {
        self.tcp
    }

    /// Waits until the listener is stopped.
    pub async fn stopped(&self) -> io::Result<()> {
        self.stop.readable().await
    }
}
