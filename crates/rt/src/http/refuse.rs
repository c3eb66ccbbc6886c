//! What Go's net/http refuses before any handler sees it, with its answers.

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use hyper::{Method, Uri, Version};

/// An answer below the service: status line and body. The connection ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: &'static str,
    body: &'static str,
}

impl Refusal {
    const fn with_status(status: &'static str) -> Self {
        Refusal {
            status,
            body: status,
        }
    }

    /// The whole response as it goes out.
    pub(super) fn bytes(self) -> Vec<u8> {
        let Refusal { status, body } = self;
        if body.is_empty() {
            return format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                .into_bytes();
        }
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

const BAD_REQUEST: Refusal = Refusal::with_status("400 Bad Request");
const MISSING_HOST: Refusal = Refusal::with_status("400 Bad Request: missing required Host header");
const MALFORMED_HOST: Refusal = Refusal::with_status("400 Bad Request: malformed Host header");
const TRANSFER_ENCODING: Refusal = Refusal {
    status: "501 Not Implemented",
    body: "Unsupported transfer encoding",
};
const EXPECTATION: Refusal = Refusal {
    status: "417 Expectation Failed",
    body: "",
};

/// The answer to input that hyper cannot parse, by the head hyper would have sent.
pub(super) fn unparsed(hyper_head: &[u8]) -> Refusal {
    match hyper_head.get(9..12) {
        Some(b"431" | b"414") => Refusal::with_status("431 Request Header Fields Too Large"),
        Some(b"505") => Refusal::with_status("505 HTTP Version Not Supported"),
        _ => BAD_REQUEST,
    }
}

/// Whether a request that hyper has parsed is refused.
pub(super) fn check(req: &hyper::Request<Incoming>) -> Option<Refusal> {
    let headers = req.headers();
    target(req.method(), req.uri())
        .or_else(|| host(req.version(), headers))
        .or_else(|| transfer_encoding(headers))
        .or_else(|| expectation(headers))
}

fn target(method: &Method, uri: &Uri) -> Option<Refusal> {
    let path = uri.path();
    let rooted = path.starts_with('/') || path == "*" || method == Method::CONNECT;
    (!rooted || !escapes_are_whole(path.as_bytes())).then_some(BAD_REQUEST)
}

/// Each `%` is followed by two hexadecimal digits.
fn escapes_are_whole(path: &[u8]) -> bool {
    path.iter().enumerate().all(|(at, &byte)| {
        byte != b'%'
            || path
                .get(at + 1..at + 3)
                .is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    })
}

fn host(version: Version, headers: &HeaderMap) -> Option<Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_11 => Some(MISSING_HOST),
        (None, _) => None,
        (Some(_), Some(_)) => Some(BAD_REQUEST),
        (Some(host), None) => {
            let valid = host
                .as_bytes()
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(b));
            (!valid).then_some(MALFORMED_HOST)
        }
    }
}

/// One `chunked` or nothing: hyper would also take the last of a list.
fn transfer_encoding(headers: &HeaderMap) -> Option<Refusal> {
    let mut all = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = all.next()?;
    let chunked = first
        .as_bytes()
        .trim_ascii()
        .eq_ignore_ascii_case(b"chunked");
    (!chunked || all.next().is_some()).then_some(TRANSFER_ENCODING)
}

fn expectation(headers: &HeaderMap) -> Option<Refusal> {
    let expected = headers.get(header::EXPECT)?.as_bytes();
    let known = expected.is_empty() || expected.eq_ignore_ascii_case(b"100-continue");
    (!known).then_some(EXPECTATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (path, whole) in [
            ("/a%2Fb", true),
            ("/a%ff", true),
            ("/%zz", false),
            ("/%", false),
            ("/%2", false),
            ("/a", true),
        ] {
            assert_eq!(escapes_are_whole(path.as_bytes()), whole, "{path}");
        }
    }

    #[test]
    fn hosts() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::HOST, header::HeaderValue::from_static(value));
            }
            host(Version::HTTP_11, &headers)
        };
        for good in ["d", "", "localhost:2375", "[::1]:80", "api.moby.localhost"] {
            assert_eq!(of(&[good]), None, "{good}");
        }
        for bad in ["a b", "/var/run/docker.sock", "a@b", "a\\b"] {
            assert_eq!(of(&[bad]), Some(MALFORMED_HOST), "{bad}");
        }
        assert_eq!(of(&[]), Some(MISSING_HOST));
        assert_eq!(of(&["a", "a"]), Some(BAD_REQUEST));
    }

    #[test]
    fn encodings() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                let value = header::HeaderValue::from_static(value);
                headers.append(header::TRANSFER_ENCODING, value);
            }
            transfer_encoding(&headers)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["Chunked"]), None);
        for bad in [
            &["gzip, chunked"][..],
            &["chunked", "chunked"],
            &["identity"],
        ] {
            assert_eq!(of(bad), Some(TRANSFER_ENCODING), "{bad:?}");
        }
    }
}
