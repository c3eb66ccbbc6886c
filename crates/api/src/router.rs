//! From a method and a path to an operation of the table.

use percent_encoding::percent_decode_str;

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
    /// The path is not in its shortest form; this one is.
    Redirect(String),
}

/// Finds the operation of a request. `path` is as on the wire, without the query.
pub fn route(method: &str, path: &str) -> Result<Matched, RouteError> {
    if let Some(clean) = cleaned(path) {
        return Err(RouteError::Redirect(clean));
    }
    let (version_text, rest) = split_version(path);
    let verb = Verb::parse(method).ok_or(RouteError::NotFound)?;
    let (operation, parameter) = find(verb, rest).ok_or(RouteError::NotFound)?;
    let version = match version_text {
        Some(text) => version::check(text).map_err(RouteError::Version)?,
        None => ApiVersion::CURRENT,
    };
    Ok(Matched {
        operation,
        parameter,
        version,
    })
}

fn find(verb: Verb, path: &str) -> Option<(Operation, String)> {
    // Literal paths win over parameters: `/images/json` is not the image called `json`.
    if let Some(row) = ROUTES.iter().find(|r| r.verb == verb && r.pattern == path) {
        return (!row.pattern.contains('{')).then(|| (row.operation, String::new()));
    }
    ROUTES.iter().filter(|r| r.verb == verb).find_map(|r| {
        let raw = parameter_of(r.pattern, path)?;
        let decoded = percent_decode_str(raw).decode_utf8().ok()?;
        Some((r.operation, decoded.into_owned()))
    })
}

/// The text in the place of the pattern's parameter. Names may contain slashes, ids may not.
fn parameter_of<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let (head, tail) = pattern.split_once('{')?;
    let (kind, tail) = tail.split_once('}')?;
    let value = path.strip_prefix(head)?.strip_suffix(tail)?;
    let slashes_allowed = kind == "name" || head == "/networks/";
    (!value.is_empty() && (slashes_allowed || !value.contains('/'))).then_some(value)
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
    let messy = path.contains("//") || path.split('/').any(|s| s == "." || s == "..");
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
            ("GET", "/containers/a/b/json"),
            ("GET", "/containers/%ff/json"),
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
