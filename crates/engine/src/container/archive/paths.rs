//! Paths as dockerd reads them.

use rustix::io::Errno;

use crate::EngineError;

/// The last part of a path, as Go's `filepath.Base`.
pub(super) fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed {
        "" if path.is_empty() => ".",
        "" => "/",
        trimmed => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

/// The absolute path without `.` and `..`, but with the slash or dot at its end that says that a directory is meant.
pub(super) fn absolute(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if base(path) == "." && !path.is_empty() {
        if !clean.ends_with('/') {
            clean.push('/');
        }
        clean.push('.');
    }
    if path.ends_with('/') && !clean.ends_with('/') {
        clean.push('/');
    }
    clean
}

/// What dockerd says when it can't look at a path.
pub(super) fn last_error(what: &str, path: &str, container: &str, e: Errno) -> EngineError {
    match e {
        Errno::NOENT => not_found(path, container),
        e => EngineError::System(format!("{what} {path}: {}", errno_text(e))),
    }
}

pub(super) fn not_found(path: &str, container: &str) -> EngineError {
    EngineError::NotFound(format!(
        "Could not find the file {path} in container {container}"
    ))
}

/// An errno in Go's words, which are glibc's in lower case.
fn errno_text(e: Errno) -> String {
    let text = std::io::Error::from(e).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    let first = chars.next().into_iter().flat_map(char::to_lowercase);
    first.chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_has_them() {
        for (path, clean, last) in [
            ("/", "/", "/"),
            ("", "/", "."),
            ("d", "/d", "d"),
            ("/d/e/..", "/d", ".."),
            ("..", "/", ".."),
            ("/dl/.", "/dl/.", "."),
            ("/.", "/.", "."),
            ("/d/../etc/./", "/etc/./", "."),
            ("//d//f", "/d/f", "f"),
            ("/d/f/", "/d/f/", "f"),
        ] {
            assert_eq!(
                (absolute(path).as_str(), base(path)),
                (clean, last),
                "{path}"
            );
        }
        let text = last_error("lstat", "/d/f/", "c", Errno::NOTDIR).to_string();
        assert_eq!(text, "lstat /d/f/: not a directory");
    }
}
