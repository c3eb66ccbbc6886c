//! HTTP/1.1 requests to a service, one after the other on a connection that is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_LENGTH, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_rustls::rustls::ClientConfig;

use crate::error::{Refused, SinkError};
use crate::go::{self, Url};
use crate::net::{Address, dial};
use crate::tls;

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// For messages.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

pub(crate) struct Client {
    base: Base,
    conn: Option<SendRequest<Full<Bytes>>>,
}

/// A service by its URL.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// Scheme and authority, without a password; for messages.
    shown: String,
    /// The authority.
    host: String,
    address: Address,
}

impl Base {
    /// `url` needs a scheme and a host. Of `https` the machine's certificates are believed.
    pub(crate) fn new(url: &Url) -> Result<Base, Refused> {
        let config = match url.scheme.as_str() {
            "https" => Some(tls::client(&tls::Files::default())?),
            _ => None,
        };
        Base::with_tls(url, config, "")
    }

    /// With certificates of one's own; `name` is whose certificate is wanted, empty: the host's.
    pub(crate) fn with_tls(
        url: &Url,
        config: Option<Arc<ClientConfig>>,
        name: &str,
    ) -> Result<Base, Refused> {
        let default = if url.scheme == "https" { 443 } else { 80 };
        let port = match url.port() {
            "" => default,
            text => u16::try_from(go::parse_uint(text, 65535)?).unwrap_or_default(),
        };
        let host = url.hostname().to_owned();
        let address = match config {
            None => Address::Tcp(host, port),
            Some(config) => Address::Tls {
                name: if name.is_empty() { &host } else { name }.to_owned(),
                host,
                port,
                config,
            },
        };
        let user = url.user.as_deref().map(|user| {
            let name = user.split(':').next().unwrap_or_default();
            format!("{name}:***@")
        });
        Ok(Base {
            shown: format!("{}://{}{}", url.scheme, user.unwrap_or_default(), url.host),
            host: url.host.clone(),
            address,
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

impl Client {
    pub(crate) fn new(base: Base) -> Client {
        Client { base, conn: None }
    }

    pub(crate) fn host(&self) -> &str {
        self.base.host()
    }

    /// One request and its answer. An error has the URL in front, as Go's client words it.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Answer, SinkError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.base.host());
        if method != "GET" {
            request = request.header(CONTENT_LENGTH, body.len());
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| SinkError::passing(e.to_string()))?;
        let sent = tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(request)).await;
        let sent = sent.unwrap_or_else(|_| Err(SinkError::passing("i/o timeout")));
        sent.map_err(|e| {
            self.conn = None;
            let (first, rest) = method.split_at(1);
            let verb = format!("{first}{}", rest.to_lowercase());
            let url = go::quoted(&format!("{}{path}", self.base.shown));
            SinkError::passing(format!("{verb} {url}: {e}"))
        })
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, SinkError> {
        let failed = |e: hyper::Error| SinkError::passing(e.to_string());
        let usable = match &mut self.conn {
            Some(conn) => conn.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let stream = TokioIo::new(dial(&self.base.address).await?);
            let (mut conn, driver) = handshake(stream).await.map_err(failed)?;
            tokio::task::spawn_local(async move {
                if let Err(e) = driver.await {
                    tracing::debug!(error = %e, "a connection of a log driver has ended");
                }
            });
            conn.ready().await.map_err(failed)?;
            self.conn = Some(conn);
        }
        let Some(conn) = &mut self.conn else {
            return Err(SinkError::passing("no connection"));
        };
        let answer: Response<_> = conn.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
        let body = body.await.map_err(|e| SinkError::passing(e.to_string()))?;
        Ok(Answer {
            status,
            body: body.to_bytes(),
        })
    }
}

/// A URL of a service: scheme `http` or `https`, and a host.
pub(crate) fn service_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text)?;
    if !matches!(url.scheme.as_str(), "http" | "https") || url.host.is_empty() {
        return Err(format!("{} is no URL of a service", go::quoted(text)));
    }
    Ok(url)
}
