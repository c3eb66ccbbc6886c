//! Connections to registries, in the guest lane: directly or through a proxy, plain or TLS. Errors are worded as Go's
//! `net` does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::error::{RegistryError, errno_text};
use crate::tls;
use crate::url::Url;

/// How long a connection may take to come about, as Docker's.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a handshake may take, as Docker's.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer of a proxy to CONNECT.
const MAX_PROXY_HEAD_BYTES: usize = 8 * 1024;

pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

pub(crate) type Conn = Box<dyn Duplex>;

fn network(text: String) -> RegistryError {
    RegistryError::Network(text)
}

pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The addresses of a host.
pub(crate) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, RegistryError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let failed = |why: &str| network(format!("dial tcp: lookup {bare}: {why}"));
    match within(DIAL_TIMEOUT, tokio::net::lookup_host((bare, port))).await {
        Ok(found) => {
            let found: Vec<SocketAddr> = found.collect();
            if found.is_empty() {
                return Err(failed("no such host"));
            }
            Ok(found)
        }
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Err(failed("i/o timeout")),
        Err(_) => Err(failed("no such host")),
    }
}

async fn dial_tcp(host: &str, port: u16) -> Result<TcpStream, RegistryError> {
    let mut first_error = None;
    for address in resolve(host, port).await? {
        match within(DIAL_TIMEOUT, TcpStream::connect(address)).await {
            Ok(stream) => {
                if let Err(e) = stream.set_nodelay(true) {
                    tracing::debug!(error = %e, "a connection to a registry stays with Nagle's delay");
                }
                return Ok(stream);
            }
            Err(e) => {
                let step = match e.kind() {
                    io::ErrorKind::TimedOut => "",
                    _ => "connect: ",
                };
                first_error
                    .get_or_insert_with(|| format!("dial tcp {address}: {step}{}", errno_text(&e)));
            }
        }
    }
    Err(network(first_error.unwrap_or_default()))
}

/// Connects to the server of `url`, through `proxy` if there is one.
pub(crate) async fn dial(
    url: &Url,
    tls: &Arc<ClientConfig>,
    proxy: Option<&Url>,
) -> Result<Conn, RegistryError> {
    let Some(proxy) = proxy else {
        let stream = dial_tcp(&url.host, url.port).await?;
        if !url.https {
            return Ok(Box::new(stream));
        }
        return handshake(Box::new(stream), &url.host, tls).await;
    };
    let stream = dial_tcp(&proxy.host, proxy.port)
        .await
        .map_err(|e| network(format!("proxyconnect tcp: {e}")))?;
    let mut conn: Conn = Box::new(stream);
    if proxy.https {
        conn = handshake(conn, &proxy.host, tls).await?;
    }
    if !url.https {
        return Ok(conn);
    }
    let tunnelled = within(DIAL_TIMEOUT, connect_through(&mut conn, url, proxy)).await;
    tunnelled.map_err(|e| network(errno_text(&e)))?;
    handshake(conn, &url.host, tls).await
}

async fn handshake(conn: Conn, host: &str, tls: &Arc<ClientConfig>) -> Result<Conn, RegistryError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(|e| network(format!("tls: {e}")))?;
    let connector = TlsConnector::from(tls.clone());
    match within(HANDSHAKE_TIMEOUT, connector.connect(name, conn)).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(e) if e.kind() == io::ErrorKind::TimedOut => {
            Err(network("net/http: TLS handshake timeout".to_owned()))
        }
        Err(e) => Err(network(tls::handshake_text(&e))),
    }
}

/// `Proxy-Authorization` of a proxy's URL.
pub(crate) fn proxy_authorization(proxy: &Url) -> Option<String> {
    let user = percent_encoding::percent_decode_str(proxy.user.as_deref()?).decode_utf8_lossy();
    Some(format!("Basic {}", STANDARD.encode(user.as_bytes())))
}

/// Asks a proxy for a tunnel (RFC 9110, 9.3.6).
async fn connect_through(conn: &mut Conn, url: &Url, proxy: &Url) -> io::Result<()> {
    let target = format!("{}:{}", url.host, url.port);
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(value) = proxy_authorization(proxy) {
        head.push_str(&format!("Proxy-Authorization: {value}\r\n"));
    }
    head.push_str("\r\n");
    conn.write_all(head.as_bytes()).await?;
    conn.flush().await?;
    let mut answer = Vec::new();
    // One by one: what follows the head belongs to the tunnel.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_PROXY_HEAD_BYTES {
            return Err(io::Error::other("the proxy's answer is too long"));
        }
        answer.push(conn.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&answer);
    let line = line.lines().next().unwrap_or_default();
    let status = line.split_once(' ').map_or("", |(_, rest)| rest);
    if status.starts_with('2') {
        return Ok(());
    }
    // As Go: the reason alone.
    let reason = status.split_once(' ').map_or(status, |(_, reason)| reason);
    Err(io::Error::other(reason.to_owned()))
}
