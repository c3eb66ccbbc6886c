//! Errors, with the texts Docker's clients know where they know one.

use std::io;

use gantry_cgroup::CgroupError;
use gantry_keeper_proto::msg::Failure;
use gantry_keeper_proto::plan::Step;

/// How far the search for the program came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecStage {
    /// No executable file of that name in any directory of PATH.
    NotInPath,
    /// A path was named, and looking at it failed.
    Stat,
    /// It is a directory.
    IsDirectory,
    /// It may not be executed.
    Permission,
}

/// Why a container was not launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// the program cannot be executed (text as the OCI runtime behind dockerd words it)
    #[error(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create \
         failed: unable to start container process: error during container init: exec: {path:?}: {}",
        exec_reason(.path, *.errno, *.stage)
    )]
    Exec {
        /// The program as it was named.
        path: String,
        /// Error of the last attempt.
        errno: i32,
        /// How far it came.
        stage: ExecStage,
    },
    /// a step between clone and exec failed
    #[error(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create \
         failed: unable to start container process: error during container init: {}",
        child_reason(*.step, .about.as_deref().unwrap_or_default(), *.errno)
    )]
    Child {
        /// Which.
        step: Step,
        /// On what, if it was one of several.
        about: Option<String>,
        /// The errno.
        errno: i32,
    },
    /// a further process of a container could not be started (text as the OCI runtime behind dockerd words it)
    #[error("OCI runtime exec failed: exec failed: unable to start container process: {reason}")]
    Join {
        /// Why.
        reason: String,
        /// Exit code Docker gives to it: 127 not found, 126 not executable, 128 otherwise.
        exit_code: i32,
    },
    /// a user or group that the container's user namespace does not have (text as the OCI runtime behind dockerd words it)
    #[error(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create \
         failed: unable to start container process: error during container init: {0}"
    )]
    Unmapped(String),
    /// an external runtime refused or failed (text as dockerd words it)
    #[error("{message}")]
    Runtime {
        /// What dockerd says of it.
        message: String,
        /// Exit code Docker gives to it: 127 not found, 126 not executable, 128 otherwise.
        exit_code: i32,
    },
    /// something the daemon does beforehand failed
    #[error("failed to prepare the container: {step} {about}: {}", io_text(.source))]
    Prepare {
        /// What was done.
        step: &'static str,
        /// On what.
        about: String,
        /// The error.
        source: io::Error,
    },
    /// the control group could not be made
    #[error("{prefix}{0}", prefix = group_prefix(.0))]
    Cgroup(#[from] CgroupError),
    /// a value cannot be used
    #[error("invalid {what} {value:?}")]
    Invalid {
        /// Which.
        what: &'static str,
        /// It.
        value: String,
    },
    /// a mount is to share with the host, and its source does not
    #[error("path {path} is mounted on {mount} but it is not {needed}")]
    Propagation {
        /// The source.
        path: String,
        /// The mount it lies on.
        mount: String,
        /// What it would have to be.
        needed: String,
    },
    /// a directory is to be mounted onto a file, or a file onto a directory (text as the OCI runtime and dockerd word it)
    #[error(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create \
         failed: unable to start container process: error during container init: {what}: not a directory: Are you \
         trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the \
         expected type"
    )]
    MountKind {
        /// What was mounted where.
        what: String,
    },
    /// something cannot be mounted (text as the OCI runtime words it)
    #[error(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create \
         failed: unable to start container process: error during container init: error mounting {source_name:?} to \
         rootfs at {target:?}: {reason}"
    )]
    Mount {
        /// What was to be mounted.
        source_name: String,
        /// Where.
        target: String,
        /// Why not.
        reason: String,
    },
    /// a path inside a volume or image that cannot be mounted (texts of dockerd)
    #[error("{}", subpath_text(base, subpath, source))]
    Subpath {
        /// The volume's directory, or the image.
        base: String,
        /// The path in it.
        subpath: String,
        /// Why not.
        source: io::Error,
    },
    /// too many files or mounts for one launch
    #[error("the container needs more than {0} files at launch")]
    TooManyFiles(usize),
    /// the keeper could not be asked
    #[error(transparent)]
    Keeper(#[from] KeeperError),
}

fn subpath_text(base: &str, subpath: &str, source: &io::Error) -> String {
    let whole = format!("{}/{}", base.trim_end_matches('/'), subpath);
    match source.raw_os_error() {
        Some(libc::ENOENT) => {
            format!("cannot access path {whole}: lstat {whole}: no such file or directory")
        }
        Some(libc::EXDEV) => format!(
            "path concatenation escapes the base directory, base: {base}, subpath: {subpath}"
        ),
        Some(libc::ELOOP) => format!(
            "error while resolving symlinks in combined path {whole:?}: EvalSymlinks: too many links"
        ),
        Some(libc::ENOTDIR) => {
            format!("error while resolving symlinks in combined path {whole:?}: not a directory")
        }
        _ => format!("cannot access path {whole}: {source}"),
    }
}

impl LaunchError {
    /// Exit code `docker run` shows for it: 127 not found, 126 not executable, 128 otherwise.
    pub fn exit_code(&self) -> i32 {
        match self {
            LaunchError::Exec {
                stage: ExecStage::NotInPath,
                ..
            } => 127,
            LaunchError::Exec {
                errno: libc::ENOENT,
                ..
            } => 127,
            LaunchError::Exec { .. } => 126,
            LaunchError::Join { exit_code, .. } | LaunchError::Runtime { exit_code, .. } => {
                *exit_code
            }
            LaunchError::MountKind { .. } => 127,
            _ => 128,
        }
    }

    /// A tmpfs that the kernel refuses.
    pub(crate) fn mount_tmpfs(target: &str, flags: &str, data: &str, e: io::Error) -> LaunchError {
        let errno = io_text(&e);
        LaunchError::Mount {
            source_name: "tmpfs".to_owned(),
            target: target.to_owned(),
            reason: format!("mount src=tmpfs, dst={target}, flags={flags}, data={data}: {errno}"),
        }
    }

    pub(crate) fn prepare(
        step: &'static str,
        about: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> LaunchError {
        LaunchError::Prepare {
            step,
            about: about.into(),
            source: source.into(),
        }
    }
}

/// Why the keeper did not do something.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// the keeper could not be started
    #[error("the keeper could not be started: {step}: {source}")]
    Start {
        /// What failed.
        step: &'static str,
        /// The error.
        source: io::Error,
    },
    /// the keeper speaks another protocol
    #[error("the keeper speaks protocol version {0}, which this daemon does not")]
    Version(u32),
    /// the keeper is of an earlier version, which cannot do this
    #[error(
        "the keeper speaks protocol version {0}, which cannot start processes in running containers"
    )]
    TooOld(u32),
    /// the keeper is of an earlier version, which cannot do this
    #[error(
        "the keeper speaks protocol version {0}; sharing namespaces needs version 3; user namespaces, labels and joining \
         PID namespaces need version 4. Keepers end with the last of their containers"
    )]
    TooOldToShare(u32),
    /// the keeper is of an earlier version, which does not know external runtimes
    #[error("the keeper speaks protocol version {0}, which cannot run external runtimes")]
    TooOldForRuntimes(u32),
    /// the keeper is of an earlier version, which does not know hooks
    #[error("the keeper speaks protocol version {0}, which cannot run hooks")]
    TooOldForHooks(u32),
    /// the connection to the keeper is gone
    #[error("the connection to the keeper is gone")]
    Gone,
    /// too many requests to the keeper at once
    #[error("too many requests to the keeper at once")]
    Busy,
    /// the connection to the keeper failed
    #[error("the connection to the keeper failed: {0}")]
    Io(#[from] io::Error),
    /// the keeper's answer was not understood
    #[error("the keeper's answer was not understood: {0}")]
    Protocol(String),
    /// the keeper has no such container
    #[error("the keeper has no such container")]
    NoContainer,
    /// the keeper has that container already
    #[error("the keeper has that container already")]
    Exists,
    /// the container has ended
    #[error("the container has ended")]
    Ended,
    /// the container has no terminal
    #[error("the container has no terminal")]
    NoTerminal,
    /// the keeper still has containers
    #[error("the keeper still has containers")]
    NotEmpty,
    /// a system call of the keeper failed
    #[error("a system call of the keeper failed: {}", errno_text(*.0))]
    System(i32),
}

impl KeeperError {
    pub(crate) fn from_failure(failure: Failure, errno: i32) -> KeeperError {
        match failure {
            Failure::NoContainer => KeeperError::NoContainer,
            Failure::Exists => KeeperError::Exists,
            Failure::Ended => KeeperError::Ended,
            Failure::NoTerminal => KeeperError::NoTerminal,
            Failure::NotEmpty => KeeperError::NotEmpty,
            Failure::System => KeeperError::System(errno),
            Failure::Launch | Failure::Protocol | Failure::Runtime => {
                KeeperError::Protocol(format!("{failure:?}"))
            }
        }
    }
}

/// What dockerd and its runtime say in front of a limit that the kernel or the runtime refuses. The runtime sets most
/// limits late, those of real-time scheduling with the group.
fn group_prefix(error: &CgroupError) -> String {
    let stage = match error {
        CgroupError::Write { path, .. } if path.to_string_lossy().contains("/cpu.rt_") => {
            "unable to apply cgroup configuration"
        }
        CgroupError::Write { .. } | CgroupError::TooFewShares | CgroupError::TooManyShares => {
            "error during container init: error setting cgroup config for procHooks process"
        }
        _ => return "failed to prepare the container: ".to_owned(),
    };
    format!(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create \
         failed: unable to start container process: {stage}: "
    )
}

/// What failed in the child: in the words of the OCI runtime behind dockerd where clients may know them.
fn child_reason(step: Step, about: &str, errno: i32) -> String {
    let is_file = errno == libc::ENOTDIR;
    let errno = errno_text(errno);
    match step {
        Step::Hostname => format!("sethostname: {errno}"),
        Step::Rlimit => format!(
            "error setting rlimits for ready process: error setting rlimit type {about}: {errno}"
        ),
        Step::Sysctl => format!("failed to write sysctl {about}: {errno}"),
        // What dockerd says, which makes the directory itself.
        Step::Cwd if is_file => format!("Cannot mkdir: {about} is not a directory"),
        Step::Cwd => format!("chdir to cwd ({about:?}) set in config.json failed: {errno}"),
        _ if about.is_empty() => format!("{}: {errno}", step.text()),
        _ => format!("{} {about}: {errno}", step.text()),
    }
}

fn exec_reason(path: &str, errno: i32, stage: ExecStage) -> String {
    match stage {
        ExecStage::NotInPath => "executable file not found in $PATH".to_owned(),
        // dockerd adds its guess about bind mounts to every such error.
        ExecStage::Stat if errno == libc::ENOTDIR => format!(
            "stat {path}: {}: Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified \
             host path exists and is the expected type",
            errno_text(errno)
        ),
        ExecStage::Stat => format!("stat {path}: {}", errno_text(errno)),
        ExecStage::IsDirectory => "is a directory: permission denied".to_owned(),
        ExecStage::Permission => "permission denied".to_owned(),
    }
}

fn io_text(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), errno_text)
}

/// An errno as Go (and so Docker) words it.
pub(crate) fn errno_text(errno: i32) -> String {
    // Go's table is glibc's in lower case.
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => format!("errno {errno}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(path: &str, errno: i32, stage: ExecStage) -> (String, i32) {
        let error = LaunchError::Exec {
            path: path.into(),
            errno,
            stage,
        };
        let code = error.exit_code();
        (
            error
                .to_string()
                .split("container init: ")
                .nth(1)
                .unwrap_or_default()
                .to_owned(),
            code,
        )
    }

    #[test]
    fn exec_errors_read_as_dockers_do() {
        let missing = exec("nosuch", libc::ENOENT, ExecStage::NotInPath);
        assert_eq!(
            missing,
            (
                "exec: \"nosuch\": executable file not found in $PATH".into(),
                127
            )
        );
        let stat = exec("/nosuch", libc::ENOENT, ExecStage::Stat);
        assert_eq!(
            stat,
            (
                "exec: \"/nosuch\": stat /nosuch: no such file or directory".into(),
                127
            )
        );
        let denied = exec("/etc/passwd", libc::EACCES, ExecStage::Permission);
        assert_eq!(
            denied,
            ("exec: \"/etc/passwd\": permission denied".into(), 126)
        );
        let dir = exec("/etc", libc::EISDIR, ExecStage::IsDirectory);
        assert_eq!(
            dir,
            (
                "exec: \"/etc\": is a directory: permission denied".into(),
                126
            )
        );
    }
}
