//! From a method and a path to an operation of the table.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::operations::{Operation, ROUTES, Verb};
use crate::version::{self, ApiVersion, VersionError};

/// A path that leads to an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// Which operation.
    pub operation: Operation,
    /// The decoded path parameter, empty when the pattern has none.
    pub parameter: String,
    /// Version of the request.
    pub version: ApiVersion,
}

/// Why no operation is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteError {
    /// No such path, or not with this method.
    NotFound,
    /// The version is refused.
    Version(VersionError),
    /// The path is not in its shortest form; this one is, escaped for a `Location` header.
    Redirect(String),
    /// `OPTIONS` on whatever path.
    Options,
}

/// What a URL's path may hold as it is, besides letters and digits (Go's `encodePath`).
const ESCAPED_IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// Finds the operation of a request. `path` is as on the wire, without the query.
///
/// As in dockerd, patterns are matched with the decoded path: `%2F` separates like `/`, and `%2e%2e` is a dot segment.
pub fn route(method: &str, path: &str) -> Result<Matched, RouteError> {
    if method == "OPTIONS" && path == "*" {
        return Err(RouteError::Options);
    }
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    if let Some(clean) = cleaned(&decoded) {
        let escaped = utf8_percent_encode(&clean, ESCAPED_IN_PATHS).to_string();
        return Err(RouteError::Redirect(escaped));
    }
    let (version_text, rest) = split_version(&decoded);
    let found = match method {
        "OPTIONS" => None,
        _ => {
            let verb = Verb::parse(method).ok_or(RouteError::NotFound)?;
            Some(find(verb, rest).ok_or(RouteError::NotFound)?)
        }
    };
    let version = match version_text {
        Some(text) => version::check(text).map_err(RouteError::Version)?,
        None => ApiVersion::CURRENT,
    };
    let (operation, parameter) = found.ok_or(RouteError::Options)?;
    Ok(Matched {
        operation,
        parameter: parameter.to_owned(),
        version,
    })
}

fn find(verb: Verb, path: &str) -> Option<(Operation, &str)> {
    // Literal paths win over parameters: `/images/json` is not the image called `json`.
    if let Some(row) = ROUTES.iter().find(|r| r.verb == verb && r.pattern == path) {
        return (!row.pattern.contains('{')).then_some((row.operation, ""));
    }
    ROUTES
        .iter()
        .filter(|r| r.verb == verb)
        .find_map(|r| Some((r.operation, parameter_of(r.pattern, path)?)))
}

/// The text in the place of the pattern's parameter. In dockerd's patterns those of the daemon's own objects match
/// anything, also slashes and the empty text (the handler says that there is no such thing); those of swarm do not.
fn parameter_of<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let (head, tail) = pattern.split_once('{')?;
    let (kind, tail) = tail.split_once('}')?;
    let value = path.strip_prefix(head)?.strip_suffix(tail)?;
    let anything = kind == "name" || matches!(head, "/containers/" | "/exec/" | "/networks/");
    (anything || (!value.is_empty() && !value.contains('/'))).then_some(value)
}

/// `/v1.48/info` is `1.48` and `/info`.
fn split_version(path: &str) -> (Option<&str>, &str) {
    let Some(rest) = path.strip_prefix("/v") else {
        return (None, path);
    };
    let Some(slash) = rest.find('/') else {
        return (None, path);
    };
    let text = &rest[..slash];
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return (None, path);
    }
    (Some(text), &rest[slash..])
}

/// The path with doubled slashes and dot segments removed, if that changes it.
fn cleaned(path: &str) -> Option<String> {
    let messy = !path.starts_with('/')
        || path.contains("//")
        || path.split('/').any(|s| s == "." || s == "..");
    if !messy {
        return None;
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let mut clean = format!("/{}", segments.join("/"));
    if path.ends_with('/') && clean.len() > 1 {
        clean.push('/');
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(method: &str, path: &str) -> (Operation, String) {
        let m = route(method, path).unwrap();
        (m.operation, m.parameter)
    }

    #[test]
    fn names_with_slashes() {
        assert_eq!(
            ok("GET", "/v1.30/images/a/b/c:1/json"),
            (Operation::ImageInspect, "a/b/c:1".into())
        );
        assert_eq!(
            ok("GET", "/images/a%2Fb/json"),
            (Operation::ImageInspect, "a/b".into())
        );
        assert_eq!(
            ok("GET", "/images/json"),
            (Operation::ImageList, String::new())
        );
        assert_eq!(
            ok("GET", "/images/get"),
            (Operation::ImageGetAll, String::new())
        );
        assert_eq!(
            ok("DELETE", "/images/x/y:z"),
            (Operation::ImageDelete, "x/y:z".into())
        );
        assert_eq!(
            ok("GET", "/plugins/privileges"),
            (Operation::GetPluginPrivileges, String::new())
        );
    }

    #[test]
    fn not_found() {
        for (method, path) in [
            ("GET", "/nosuch"),
            ("POST", "/info"),
            ("PATCH", "/info"),
            ("GET", "/vx/info"),
            ("GET", "/"),
            ("GET", "/v1.48"),
            ("GET", "/v1.99/nosuch"),
            ("GET", "/services/a/b"),
            ("GET", "/services/"),
            ("GET", "/containers/{id}/json/"),
        ] {
            assert_eq!(
                route(method, path),
                Err(RouteError::NotFound),
                "{method} {path}"
            );
        }
    }

    #[test]
    fn paths_are_matched_decoded() {
        for (path, key) in [
            ("/containers/a/b/json", "a/b"),
            ("/containers/a%2Fb/json", "a/b"),
            ("/containers/%ff/json", "\u{fffd}"),
            ("/v1%2e48/containers/%C3%A9/%6ason", "é"),
        ] {
            assert_eq!(ok("GET", path), (Operation::ContainerInspect, key.into()));
        }
        assert_eq!(ok("GET", "/%5fping").0, Operation::SystemPing);
        assert_eq!(
            ok("DELETE", "/images/"),
            (Operation::ImageDelete, String::new())
        );
        assert_eq!(ok("GET", "/networks/").0, Operation::NetworkList);
        for (path, to) in [
            ("/containers/%2e%2e/json", "/json"),
            ("/images/a%2F%2Fb/json", "/images/a/b/json"),
            ("/a%20b//c", "/a%20b/c"),
            ("*", "/%2A"),
        ] {
            assert_eq!(route("GET", path), Err(RouteError::Redirect(to.into())));
        }
    }

    #[test]
    fn options_are_answered_everywhere() {
        for path in ["*", "/nosuch", "/v1.48/containers/json"] {
            assert_eq!(route("OPTIONS", path), Err(RouteError::Options));
        }
        assert!(matches!(
            route("OPTIONS", "/v1.10/info"),
            Err(RouteError::Version(_))
        ));
    }

    #[test]
    fn versions_and_redirects() {
        assert!(matches!(
            route("GET", "/v1.10/info"),
            Err(RouteError::Version(VersionError::TooOld(_)))
        ));
        assert!(matches!(
            route("GET", "/v1.99/info"),
            Err(RouteError::Version(VersionError::TooNew(_)))
        ));
        assert_eq!(
            route("GET", "//v1.48//info"),
            Err(RouteError::Redirect("/v1.48/info".into()))
        );
        assert_eq!(
            route("GET", "/../../info"),
            Err(RouteError::Redirect("/info".into()))
        );
        assert_eq!(route("GET", "/v1.24/info").unwrap().version.minor, 24);
    }
}
