//! Connections of the senders, in the guest lane.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::error::{SinkError, errno_text};

/// How long a connection may take to come about.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one write to a connection may take.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a service may leave what was sent, or a question whether it is still there, without an answer of its kernel.
const UNANSWERED_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection may be idle before that is asked.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Where a service listens for a stream of bytes.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    /// Host and port.
    Tcp(String, u16),
    Tls {
        host: String,
        port: u16,
        /// Whose certificate is wanted.
        name: String,
        config: Arc<ClientConfig>,
    },
    Unix(PathBuf),
}

pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// A connection.
pub(crate) type Conn = Box<dyn Duplex>;

/// Connects; errors are worded as Go's `net.Dial` does.
pub(crate) async fn dial(address: &Address) -> Result<Conn, SinkError> {
    match address {
        Address::Unix(path) => {
            let connected = within(DIAL_TIMEOUT, UnixStream::connect(path)).await;
            let failed = |e| SinkError::passing(unix_error("unix", path, &e));
            Ok(Box::new(connected.map_err(failed)?))
        }
        Address::Tcp(host, port) => Ok(Box::new(dial_tcp(host, *port).await?)),
        Address::Tls {
            host,
            port,
            name,
            config,
        } => {
            let tcp = dial_tcp(host, *port).await?;
            let name = ServerName::try_from(name.clone());
            let name = name.map_err(|e| SinkError::passing(format!("tls: {e}")))?;
            let connector = TlsConnector::from(config.clone());
            let stream = within(DIAL_TIMEOUT, connector.connect(name, tcp)).await;
            let failed = |e: io::Error| SinkError::passing(format!("tls: {}", errno_text(&e)));
            Ok(Box::new(stream.map_err(failed)?))
        }
    }
}

pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn unix_error(network: &str, path: &Path, e: &io::Error) -> String {
    format!(
        "dial {network} {}: connect: {}",
        path.display(),
        errno_text(e)
    )
}

/// An empty host is this machine.
async fn resolve(network: &str, host: &str, port: u16) -> Result<Vec<SocketAddr>, SinkError> {
    let name = if host.is_empty() { "localhost" } else { host };
    let found = within(DIAL_TIMEOUT, tokio::net::lookup_host((name, port))).await;
    let failed = |why: &str| SinkError::passing(format!("dial {network}: lookup {host}: {why}"));
    let found: Vec<SocketAddr> = match found {
        Ok(found) => found.collect(),
        Err(e) if e.kind() == io::ErrorKind::TimedOut => return Err(failed("i/o timeout")),
        Err(_) => return Err(failed("no such host")),
    };
    if found.is_empty() {
        return Err(failed("no such host"));
    }
    Ok(found)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    // Batches are written whole; waiting for more would only delay them.
    stream.set_nodelay(true)?;
    // What is written to a machine that is gone is lost, so that it is noticed soon.
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    let millis = u32::try_from(UNANSWERED_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, millis)?;
    Ok(())
}

async fn dial_tcp(host: &str, port: u16) -> Result<TcpStream, SinkError> {
    let mut last = None;
    for address in resolve("tcp", host, port).await? {
        match within(DIAL_TIMEOUT, TcpStream::connect(address)).await {
            Ok(stream) => {
                if let Err(e) = prepare(&stream) {
                    tracing::debug!(error = %e, "a connection of a log driver stays as the kernel makes it");
                }
                return Ok(stream);
            }
            Err(e) => {
                let why = errno_text(&e);
                let shown = if host.is_empty() {
                    format!(":{port}")
                } else {
                    address.to_string()
                };
                last.get_or_insert(match e.kind() {
                    io::ErrorKind::TimedOut => format!("dial tcp {shown}: {why}"),
                    _ => format!("dial tcp {shown}: connect: {why}"),
                });
            }
        }
    }
    Err(SinkError::passing(last.unwrap_or_default()))
}

/// Writes all of it, unless the other side has hung up or takes too long.
pub(crate) async fn write(conn: &mut Conn, bytes: &[u8], limit: Duration) -> Result<(), SinkError> {
    if hung_up(conn).await {
        return Err(SinkError::passing("write: broken pipe"));
    }
    let write = async {
        conn.write_all(bytes).await?;
        conn.flush().await
    };
    let failed = |e: io::Error| SinkError::io("write", &e);
    within(limit, write).await.map_err(failed)
}

/// The other side's end of the stream is seen before it swallows what is written next. What it says is thrown away.
async fn hung_up(conn: &mut Conn) -> bool {
    let mut scratch = [0u8; 4096];
    std::future::poll_fn(|cx| {
        // What is said without end must not keep us from writing.
        for _ in 0..16 {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut *conn).poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Ready(false),
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(true),
            }
        }
        Poll::Ready(false)
    })
    .await
}

/// A connection that is made when it is needed, and again after a failure.
pub(crate) struct StreamConn {
    address: Address,
    conn: Option<Conn>,
    write_timeout: Duration,
}

impl StreamConn {
    pub(crate) fn new(address: Address, write_timeout: Duration) -> StreamConn {
        StreamConn {
            address,
            conn: None,
            write_timeout,
        }
    }

    /// The connection, made if there is none.
    pub(crate) async fn get(&mut self) -> Result<&mut Conn, SinkError> {
        if self.conn.is_none() {
            self.conn = Some(dial(&self.address).await?);
        }
        self.conn
            .as_mut()
            .ok_or_else(|| SinkError::passing("no connection"))
    }

    pub(crate) fn close(&mut self) {
        self.conn = None;
    }

    /// Writes all of it. After an error the connection is gone.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let limit = self.write_timeout;
        let written = write(self.get().await?, bytes, limit).await;
        if written.is_err() {
            self.conn = None;
        }
        written
    }
}

/// A socket for datagrams.
pub(crate) enum Datagram {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Datagram {
    pub(crate) async fn udp(host: &str, port: u16) -> Result<Datagram, SinkError> {
        let mut last = SinkError::passing("dial udp: no address");
        for address in resolve("udp", host, port).await? {
            let local: SocketAddr = match address {
                SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
                SocketAddr::V6(_) => ([0u16; 8], 0).into(),
            };
            let opened = async {
                let socket = UdpSocket::bind(local).await?;
                socket.connect(address).await?;
                Ok(socket)
            };
            match opened.await {
                Ok(socket) => return Ok(Datagram::Udp(socket)),
                Err(e) => last = SinkError::io(&format!("dial udp {address}: connect"), &e),
            }
        }
        Err(last)
    }

    pub(crate) fn unix(path: &Path) -> Result<Datagram, SinkError> {
        let opened = UnixDatagram::unbound().and_then(|socket| {
            socket.connect(path)?;
            Ok(Datagram::Unix(socket))
        });
        opened.map_err(|e| SinkError::passing(unix_error("unixgram", path, &e)))
    }

    pub(crate) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = async {
            match self {
                Datagram::Udp(socket) => socket.send(bytes).await,
                Datagram::Unix(socket) => socket.send(bytes).await,
            }
        };
        within(WRITE_TIMEOUT, sent).await.map(drop)
    }
}
