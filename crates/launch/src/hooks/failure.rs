//! What a hook's failure is called: in the words of the OCI runtime behind dockerd.

use std::os::fd::OwnedFd;

use gantry_keeper_proto::plan::HookEnd;

use super::{Hook, HookKind};
use crate::error::{LaunchError, errno_text};
use crate::oci;

/// A hook that failed.
pub(super) struct FailedHook<'h> {
    pub(super) kind: HookKind,
    /// Its position among those of its kind.
    pub(super) number: usize,
    pub(super) hook: Option<&'h Hook>,
    pub(super) end: HookEnd,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl FailedHook<'_> {
    /// In words.
    pub(super) fn text(&self) -> String {
        let (kind, number) = (self.kind.name(), self.number);
        let why = match self.end {
            HookEnd::NotExecuted(errno) => {
                let path = self.hook.map(|hook| hook.path.as_str()).unwrap_or_default();
                format!("fork/exec {path}: {}", errno_text(errno))
            }
            HookEnd::TimedOut => {
                let ms = self.hook.map_or(0, Hook::timeout_ms);
                let (seconds, tenth) = (ms / 1000, ms % 1000 / 100);
                format!("hook ran past specified timeout of {seconds}.{tenth}s")
            }
            HookEnd::Status(status) => {
                let status = match libc::WIFEXITED(status) {
                    true => format!("exit status {}", libc::WEXITSTATUS(status)),
                    false => format!("signal: {}", libc::WTERMSIG(status)),
                };
                format!("{status}, stdout: {}, stderr: {}", self.stdout, self.stderr)
            }
        };
        format!("error running {kind} hook #{number}: {why}")
    }

    /// As the error of a start.
    pub(super) fn error(&self) -> LaunchError {
        let stage = match self.kind {
            HookKind::Poststart | HookKind::Poststop => "",
            _ => "unable to start container process: error during container init: ",
        };
        let message = format!("runc create failed: {stage}{}", self.text());
        oci::runtime_error("create", &message)
    }
}

/// What was written into a file of a hook's output: its position says how much.
pub(super) fn said(file: &OwnedFd) -> String {
    let read = || {
        let bytes = rustix::fs::tell(file)?;
        let mut said = vec![0; usize::try_from(bytes).unwrap_or(0)];
        let n = rustix::io::pread(file, &mut said, 0)?;
        said.truncate(n);
        rustix::io::Result::Ok(String::from_utf8_lossy(&said).into_owned())
    };
    read().unwrap_or_else(|e| format!("(not readable: {e})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_as_dockers_do() {
        const INIT: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                            runc create failed: unable to start container process: error during container init: ";
        const LATER: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                             runc create failed: ";
        let hook = Hook {
            path: "/h".into(),
            timeout: Some(1),
            ..Hook::default()
        };
        for (kind, end, prefix, text, code) in [
            (
                HookKind::Prestart,
                HookEnd::Status(3 << 8),
                INIT,
                "error running prestart hook #1: exit status 3, stdout: o\n, stderr: e",
                128,
            ),
            (
                HookKind::CreateContainer,
                HookEnd::NotExecuted(libc::ENOENT),
                INIT,
                "error running createContainer hook #1: fork/exec /h: no such file or directory",
                127,
            ),
            (
                HookKind::Poststart,
                HookEnd::TimedOut,
                LATER,
                "error running poststart hook #1: hook ran past specified timeout of 1.0s",
                128,
            ),
        ] {
            let failed = FailedHook {
                kind,
                number: 1,
                hook: Some(&hook),
                end,
                stdout: "o\n".into(),
                stderr: "e".into(),
            };
            let error = failed.error();
            assert_eq!(error.to_string(), format!("{prefix}{text}"));
            assert_eq!(error.exit_code(), code);
        }
    }
}
