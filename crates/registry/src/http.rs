//! HTTP/1.1 requests to registries and token servers, over connections that are kept; redirects are followed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_rustls::rustls::ClientConfig;

use crate::error::RegistryError;
use crate::net;
use crate::settings::Proxies;
use crate::url::Url;

/// How long the head of an answer may take.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a piece of a body may take.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Redirects that are followed, as Go's client does.
const MAX_REDIRECTS: usize = 10;
/// Connections kept per server.
const MAX_IDLE: usize = 8;
/// Longest answer that is read for its text.
const MAX_ERROR_BYTES: usize = 64 * 1024;
const AGENT: &str = concat!("gantry/", env!("CARGO_PKG_VERSION"), " (linux)");

/// The body of a request.
pub(crate) enum ReqBody {
    Full(Bytes),
    /// Pieces of a known whole length.
    Stream {
        pieces: mpsc::Receiver<Bytes>,
        left_bytes: u64,
    },
}

impl Body for ReqBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream { pieces, left_bytes } => pieces.poll_recv(cx).map(|piece| match piece {
                Some(piece) => {
                    *left_bytes = left_bytes.saturating_sub(piece.len() as u64);
                    Some(Ok(Frame::data(piece)))
                }
                // Cut: the request must not look whole.
                None if *left_bytes > 0 => Some(Err(std::io::ErrorKind::UnexpectedEof.into())),
                None => None,
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::Stream { left_bytes, .. } => *left_bytes == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Full(bytes) => bytes.len() as u64,
            Self::Stream { left_bytes, .. } => *left_bytes,
        })
    }
}

type Sender = SendRequest<ReqBody>;

/// Connections of one session.
pub(crate) struct Http {
    tls: Arc<ClientConfig>,
    proxies: Proxies,
    idle: RefCell<HashMap<String, Vec<Sender>>>,
}

/// An answer whose body is still to be read.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Where it came from, after redirects.
    pub(crate) url: Url,
    body: Incoming,
}

fn go_method(method: &Method) -> String {
    let (first, rest) = method.as_str().split_at(1);
    format!("{first}{}", rest.to_lowercase())
}

/// A request as Go's errors show it.
pub(crate) fn shown(method: &Method, url: &Url) -> String {
    format!("{} \"{url}\"", go_method(method))
}

fn failed(method: &Method, url: &Url, why: impl std::fmt::Display) -> RegistryError {
    RegistryError::Network(format!("{}: {why}", shown(method, url)))
}

/// A broken connection, in Go's words.
fn broken(e: &hyper::Error) -> String {
    use std::error::Error;
    if e.is_incomplete_message() || e.is_closed() || e.is_canceled() {
        return "EOF".to_owned();
    }
    match e.source().and_then(|s| s.downcast_ref::<std::io::Error>()) {
        Some(io) => crate::error::errno_text(io),
        None => e.to_string(),
    }
}

/// The request as it goes on the wire.
fn request(
    method: &Method,
    url: &Url,
    proxy: Option<&Url>,
    headers: &HeaderMap,
    body: ReqBody,
) -> Result<Request<ReqBody>, RegistryError> {
    // A proxy of plain HTTP wants the whole URL.
    let proxy = proxy.filter(|_| !url.https);
    let mut request = Request::builder()
        .method(method)
        .uri(match proxy {
            Some(_) => url.to_string(),
            None => url.path_and_query.clone(),
        })
        .header(HOST, &url.authority)
        .header(USER_AGENT, AGENT);
    if let Some(all) = request.headers_mut() {
        all.extend(headers.iter().map(|(n, v)| (n.clone(), v.clone())));
    }
    if let Some(value) = proxy.and_then(net::proxy_authorization) {
        request = request.header("Proxy-Authorization", value);
    }
    request.body(body).map_err(|e| failed(method, url, e))
}

impl Http {
    pub(crate) fn new(tls: Arc<ClientConfig>, proxies: Proxies) -> Self {
        Self {
            tls,
            proxies,
            idle: RefCell::default(),
        }
    }

    /// One request and the head of its answer, without redirects.
    pub(crate) async fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: ReqBody,
    ) -> Result<Answer, RegistryError> {
        let proxy = match self.proxies.of(url.https, &url.host, url.port) {
            Some(text) => Some(Url::parse(text)?),
            None => None,
        };
        // What may be sent twice is, if a kept connection turns out to be closed, as Go's client does.
        let again = match &body {
            ReqBody::Full(bytes) if matches!(*method, Method::GET | Method::HEAD) => {
                Some(ReqBody::Full(bytes.clone()))
            }
            _ => None,
        };
        let request = request(method, url, proxy.as_ref(), headers, body)?;
        let (mut conn, kept) = match self.idle_one(url) {
            Some(conn) => (conn, true),
            None => (self.connect(method, url, proxy.as_ref()).await?, false),
        };
        let answer: Response<Incoming> = match conn.try_send_request(request).await {
            Ok(answer) => answer,
            Err(mut e) => {
                let unsent = e.take_message();
                let request = match (unsent, again) {
                    (Some(request), _) => request,
                    (None, Some(body)) if kept => {
                        self::request(method, url, proxy.as_ref(), headers, body)?
                    }
                    _ => return Err(failed(method, url, broken(e.error()))),
                };
                conn = self.connect(method, url, proxy.as_ref()).await?;
                let sent = conn.send_request(request).await;
                sent.map_err(|e| failed(method, url, broken(&e)))?
            }
        };
        self.keep(url, conn);
        let (parts, body) = answer.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            url: url.clone(),
            body,
        })
    }

    fn idle_one(&self, url: &Url) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(&origin(url))?;
        kept.retain(|conn| !conn.is_closed());
        let at = kept.iter().position(Sender::is_ready)?;
        Some(kept.swap_remove(at))
    }

    /// For the next request; it is ready again when this answer is read.
    fn keep(&self, url: &Url, conn: Sender) {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry(origin(url)).or_default();
        if kept.len() < MAX_IDLE {
            kept.push(conn);
        }
    }

    async fn connect(
        &self,
        method: &Method,
        url: &Url,
        proxy: Option<&Url>,
    ) -> Result<Sender, RegistryError> {
        let conn = net::dial(url, &self.tls, proxy)
            .await
            .map_err(|e| failed(method, url, e))?;
        let (sender, driver) = http1::handshake(TokioIo::new(conn))
            .await
            .map_err(|e| failed(method, url, broken(&e)))?;
        tokio::task::spawn_local(async move {
            if let Err(e) = driver.await {
                tracing::debug!(error = %e, "a connection to a registry has ended");
            }
        });
        Ok(sender)
    }

    /// As [`Http::send`] within the time for a head; redirects are followed. Credentials go to the same server only.
    pub(crate) async fn fetch(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Answer, RegistryError> {
        let (mut at, mut headers) = (url.clone(), headers.clone());
        for _ in 0..=MAX_REDIRECTS {
            let sent = self.send(method, &at, &headers, ReqBody::Full(Bytes::new()));
            let answer = head_in_time(method, &at, sent).await?;
            let to = answer.headers.get(LOCATION).and_then(|v| v.to_str().ok());
            let (true, Some(to)) = (is_redirect(answer.status), to) else {
                return Ok(answer);
            };
            let next = answer.url.join(to)?;
            if !next.same_origin(&at) {
                headers.remove(AUTHORIZATION);
            }
            at = next;
            answer.discard().await;
        }
        Err(failed(
            method,
            url,
            format_args!("stopped after {MAX_REDIRECTS} redirects"),
        ))
    }
}

fn origin(url: &Url) -> String {
    format!(
        "{}{}:{}",
        if url.https { "s" } else { "" },
        url.host,
        url.port
    )
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

pub(crate) async fn head_in_time(
    method: &Method,
    url: &Url,
    sent: impl Future<Output = Result<Answer, RegistryError>>,
) -> Result<Answer, RegistryError> {
    let limit = HEAD_TIMEOUT + net::DIAL_TIMEOUT;
    tokio::time::timeout(limit, sent).await.unwrap_or_else(|_| {
        Err(failed(
            method,
            url,
            "net/http: timeout awaiting response headers",
        ))
    })
}

impl Answer {
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> &str {
        let value = self.headers.get(name).map(HeaderValue::to_str);
        value.and_then(Result::ok).unwrap_or_default()
    }

    /// The next piece; `None` at the end. One that takes too long is an error.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let frame = tokio::time::timeout(STALL_TIMEOUT, self.body.frame()).await;
            let frame = frame.map_err(|_| RegistryError::Network("i/o timeout".to_owned()))?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
                Some(Err(e)) if e.is_incomplete_message() => {
                    return Err(RegistryError::Network("unexpected EOF".to_owned()));
                }
                Some(Err(e)) => return Err(RegistryError::Network(broken(&e))),
            }
        }
    }

    /// The whole body within a time; a longer one than `limit_bytes` is refused.
    pub(crate) async fn collect(mut self, limit_bytes: usize) -> Result<Bytes, RegistryError> {
        let url = self.url.to_string();
        let read = async {
            let mut all = BytesMut::new();
            while let Some(piece) = self.piece().await? {
                if all.len() + piece.len() > limit_bytes {
                    return Err(RegistryError::Protocol(format!(
                        "the answer of {url} is longer than {limit_bytes} bytes"
                    )));
                }
                all.extend_from_slice(&piece);
            }
            Ok(all.freeze())
        };
        tokio::time::timeout(HEAD_TIMEOUT, read)
            .await
            .unwrap_or_else(|_| Err(RegistryError::Network("i/o timeout".to_owned())))
    }

    /// Reads a short rest, so that the connection can be used again.
    pub(crate) async fn discard(self) {
        if let Err(error) = self.collect(MAX_ERROR_BYTES).await {
            tracing::debug!(%error, "an answer is not read to its end");
        }
    }

    /// What an answer that is an error means.
    pub(crate) async fn into_error(self) -> RegistryError {
        let status = self.status;
        if status.is_server_error() {
            self.discard().await;
            return RegistryError::Status(status);
        }
        match self.collect(MAX_ERROR_BYTES).await {
            Ok(body) => error_of(status, &body),
            Err(error) => error,
        }
    }
}

/// The first error of an answer in the specification's form, else one made of its status.
fn error_of(status: StatusCode, body: &[u8]) -> RegistryError {
    #[derive(serde::Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<One>,
        #[serde(default)]
        details: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let parsed: Option<Errors> = serde_json::from_slice(body).ok();
    let details = parsed.as_ref().and_then(|p| p.details.clone());
    if let Some(first) = parsed.and_then(|p| p.errors.into_iter().next()) {
        let code = first.code.to_lowercase().replace('_', " ");
        let message = if first.message.is_empty() {
            code.clone()
        } else {
            first.message
        };
        return RegistryError::Answer {
            status,
            code,
            message,
        };
    }
    let (code, usual) = match status.as_u16() {
        401 => ("unauthorized", "authentication required"),
        403 => ("denied", "requested access to the resource is denied"),
        404 => ("unknown", "not found"),
        429 => ("toomanyrequests", "too many requests"),
        _ => return RegistryError::Status(status),
    };
    RegistryError::Answer {
        status,
        code: code.to_owned(),
        message: details.unwrap_or_else(|| usual.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_registries() {
        let text = |status: u16, body: &str| {
            error_of(StatusCode::from_u16(status).unwrap(), body.as_bytes()).to_string()
        };
        assert_eq!(
            text(
                404,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#
            ),
            "manifest unknown: manifest unknown"
        );
        assert_eq!(text(429, "<html>"), "toomanyrequests: too many requests");
        assert_eq!(
            text(401, r#"{"details":"incorrect username or password"}"#),
            "unauthorized: incorrect username or password"
        );
        assert_eq!(
            text(418, ""),
            "received unexpected HTTP status: 418 I'm a teapot"
        );
    }
}
