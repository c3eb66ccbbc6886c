//! `attach/ws`: the opening handshake of RFC 6455, as dockerd answers it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_rt::http::{Hijack, Outcome, Response, ResponseBody, Upgrade};
use gantry_stream::websocket::Opcode;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderName, StatusCode};
use sha1::{Digest, Sha1};

use super::streams;
use crate::error::ApiError;
use crate::reply::Reply;
use crate::service::Call;

/// Clients below this version get messages of text.
const BINARY_SINCE_MINOR: u32 = 28;
/// Below this version every stream is attached, whatever the query says.
const STREAMS_CHOSEN_SINCE_MINOR: u32 = 42;
/// The version of the protocol.
const VERSION: &str = "13";
/// What RFC 6455, section 1.3, appends to a key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a handshake is refused. The texts are those of the library that dockerd uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum BadHandshake {
    #[error("not websocket protocol")]
    NotWebSocket,
    #[error("mismatch challenge/response")]
    NoKey,
    #[error("missing or bad WebSocket Version")]
    Version,
    /// It takes one subprotocol or none.
    #[error("")]
    Protocols,
}

pub(super) async fn attach(call: Call) -> Reply {
    let mut options = streams::attach_options(&call);
    if !call.version.at_least(STREAMS_CHOSEN_SINCE_MINOR) {
        (options.stdin, options.stdout, options.stderr) = (true, true, true);
    }
    let ticket = call.ctx.engine.attach(&call.key, options).await?;
    let headers = match answer(&call.headers) {
        Ok(headers) => headers,
        Err(error) => return refused(error),
    };
    let opcode = if call.version.at_least(BINARY_SINCE_MINOR) {
        Opcode::Binary
    } else {
        Opcode::Text
    };
    Ok(Outcome::Hijack(Hijack {
        upgrade: Some(Upgrade::WEBSOCKET),
        headers,
        on_upgrade: Box::new(move |socket, over_read| {
            ticket.serve_websocket(socket, over_read, opcode);
        }),
    }))
}

/// The headers that accept a handshake.
fn answer(headers: &HeaderMap) -> Result<HeaderMap, BadHandshake> {
    let text = |name: HeaderName| headers.get(name).map_or("", |v| v.to_str().unwrap_or(""));
    let upgrades = text(UPGRADE).eq_ignore_ascii_case("websocket")
        && text(CONNECTION).to_ascii_lowercase().contains("upgrade");
    if !upgrades {
        return Err(BadHandshake::NotWebSocket);
    }
    let key = text(SEC_WEBSOCKET_KEY);
    if key.is_empty() {
        return Err(BadHandshake::NoKey);
    }
    if text(SEC_WEBSOCKET_VERSION) != VERSION {
        return Err(BadHandshake::Version);
    }
    let protocol = text(SEC_WEBSOCKET_PROTOCOL).trim();
    if protocol.contains(',') {
        return Err(BadHandshake::Protocols);
    }
    let mut accepted = HeaderMap::new();
    let accept = HeaderValue::from_str(&accept_key(key)).map_err(|_| BadHandshake::NoKey)?;
    accepted.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        let value = HeaderValue::from_str(protocol).map_err(|_| BadHandshake::Protocols)?;
        accepted.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok(accepted)
}

/// What proves to a client that its key was read.
fn accept_key(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    STANDARD.encode(digest)
}

/// Plain text and the end of the connection: dockerd has taken it from its HTTP server by then.
fn refused(error: BadHandshake) -> Result<Outcome, ApiError> {
    let mut response = Response::new(ResponseBody::full(error.to_string()));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if error == BadHandshake::Version {
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
    }
    Ok(response.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(changed: &[(HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in [
            (UPGRADE, "WebSocket"),
            (CONNECTION, "keep-alive, Upgrade"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (SEC_WEBSOCKET_VERSION, VERSION),
        ]
        .iter()
        .chain(changed)
        {
            map.insert(name, value.parse().expect("a value"));
        }
        map
    }

    #[test]
    fn the_example_of_the_rfc() {
        let accepted = answer(&headers(&[])).expect("a handshake");
        assert_eq!(
            accepted[SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(accepted.len(), 1);
        let chat = answer(&headers(&[(SEC_WEBSOCKET_PROTOCOL, " chat ")])).expect("a handshake");
        assert_eq!(chat[SEC_WEBSOCKET_PROTOCOL], "chat");
    }

    #[test]
    fn what_is_refused() {
        for (name, value, error) in [
            (UPGRADE, "tcp", BadHandshake::NotWebSocket),
            (CONNECTION, "close", BadHandshake::NotWebSocket),
            (SEC_WEBSOCKET_KEY, "", BadHandshake::NoKey),
            (SEC_WEBSOCKET_VERSION, "8", BadHandshake::Version),
            (SEC_WEBSOCKET_PROTOCOL, "a, b", BadHandshake::Protocols),
        ] {
            assert_eq!(answer(&headers(&[(name, value)])), Err(error), "{value}");
        }
    }
}
