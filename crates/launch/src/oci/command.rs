//! Command lines, and what a runtime's failure means.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_cgroup::Limits;
use gantry_keeper_proto::plan::Step;
use gantry_keeper_proto::runtime::{NewProcess, RuntimePlan};
use gantry_rt::workers;
use rustix::fs::{Mode, OFlags};

use super::bundle::{Bundle, Runtime, open_dir, write};
use super::mounts::{hidden_hierarchies, mount_namespace};
use super::resources::resources;
use crate::error::{LaunchError, errno_text};
use crate::prepare::{FdTable, inline_or_memfd, text};

/// Longest log of a runtime that is looked at.
const MAX_LOG_BYTES: u64 = 64 * 1024;
/// Exit codes as dockerd gives them to what could not be started.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
const NOT_STARTED: i32 = 128;

/// Commands ready to be run by the keeper.
#[derive(Debug)]
pub(crate) struct Commands {
    pub(crate) plan_bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
    program: PathBuf,
    log: PathBuf,
    /// What each command is called.
    verbs: &'static [&'static str],
}

/// Puts command lines together.
pub(crate) struct Line<'b> {
    bundle: &'b Bundle,
    program: PathBuf,
    log: PathBuf,
}

impl<'b> Line<'b> {
    /// `log` is where the runtime says why it fails.
    pub(crate) fn new(
        bundle: &'b Bundle,
        log: PathBuf,
        verb: &str,
    ) -> Result<Line<'b>, LaunchError> {
        let program = bundle.runtime().program().ok_or_else(|| {
            let name = &bundle.runtime().path;
            runtime_error(
                verb,
                &no_message(
                    &log,
                    &format!("exec: {name:?}: executable file not found in $PATH"),
                ),
            )
        })?;
        Ok(Line {
            bundle,
            program,
            log,
        })
    }

    /// One command of the runtime; the container's id is its last word.
    pub(crate) fn command(&self, words: &[&str]) -> Result<Vec<CString>, LaunchError> {
        let runtime = self.bundle.runtime();
        let (program, root, log) = (
            self.program.display().to_string(),
            self.bundle.state_root().display().to_string(),
            self.log.display().to_string(),
        );
        let global = ["--root", &root, "--log", &log, "--log-format", "json"];
        std::iter::once(program.as_str())
            .chain(runtime.args.iter().map(String::as_str))
            .chain(global)
            .chain(words.iter().copied())
            .map(|word| text("argument of the runtime", word.as_bytes().to_vec()))
            .collect()
    }

    /// The plan of these commands; `verbs` says what each is called.
    pub(crate) fn plan(
        self,
        commands: Vec<Vec<CString>>,
        verbs: &'static [&'static str],
        cwd: &Path,
        trees: Vec<(u8, CString)>,
        process: Option<NewProcess>,
        mut fds: FdTable,
    ) -> Result<Commands, LaunchError> {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")
            .map_err(|e| LaunchError::prepare("read", "/proc/self/mountinfo", e))?;
        let path = format!("PATH={}", Runtime::search_path());
        let plan = RuntimePlan {
            commands,
            env: vec![text("search path", path.into())?],
            root: fds.add(open_dir(Path::new("/"))?)?,
            mount_namespace: fds.add(mount_namespace()?)?,
            cwd: text("path of the bundle", cwd.display().to_string().into())?,
            trees,
            hidden: hidden_hierarchies(&mountinfo),
            process,
            limits: None,
        };
        Ok(Commands {
            plan_bytes: inline_or_memfd(plan.encode(), &mut fds)?,
            fds: fds.into_vec(),
            program: self.program,
            log: self.log,
            verbs,
        })
    }
}

/// What is done to a container that runs.
#[derive(Debug)]
pub enum RuntimeAction {
    /// A signal to its first process.
    Kill(i32),
    /// Freeze every process.
    Pause,
    /// Thaw them.
    Resume,
    /// Other limits.
    Update(Box<Limits>),
    /// Put it away; what still runs is killed.
    Delete,
}

/// An action ready to be done: [`crate::KeeperClient::runtime_command`].
#[derive(Debug)]
pub struct RuntimeCommand {
    pub(crate) commands: Commands,
    /// Files that are of no use any more once it is done.
    pub(crate) files: Vec<PathBuf>,
}

impl RuntimeCommand {
    /// Prepares it. Blocks.
    ///
    /// # Errors
    /// The kernel's, or that there is no such runtime.
    pub fn new(bundle: &Bundle, action: &RuntimeAction) -> Result<RuntimeCommand, LaunchError> {
        /// Several may be under way for one container.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = bundle.dir();
        let log = dir.join(format!("log-{number}.json"));
        let mut files = vec![log.clone()];
        let verbs: &'static [&'static str] = match action {
            RuntimeAction::Kill(_) => &["kill"],
            RuntimeAction::Pause => &["pause"],
            RuntimeAction::Resume => &["resume"],
            RuntimeAction::Update(_) => &["update"],
            RuntimeAction::Delete => &["delete"],
        };
        let verb = verbs.first().copied().unwrap_or_default();
        let line = Line::new(bundle, log, verb)?;
        let id = bundle.id();
        let argv = match action {
            RuntimeAction::Kill(signal) => line.command(&[verb, id, &signal.to_string()])?,
            RuntimeAction::Pause | RuntimeAction::Resume => line.command(&[verb, id])?,
            RuntimeAction::Delete => line.command(&[verb, "--force", id])?,
            RuntimeAction::Update(limits) => {
                let path = dir.join(format!("update-{number}.json"));
                let json = serde_json::to_vec(&resources(limits)).map_err(std::io::Error::from);
                let json = json.map_err(|e| LaunchError::prepare("write", "the limits", e))?;
                write(&path, &json)?;
                files.push(path.clone());
                let path = path.display().to_string();
                line.command(&[verb, "--resources", &path, id])?
            }
        };
        let commands = line.plan(vec![argv], verbs, dir, Vec::new(), None, FdTable::default())?;
        Ok(RuntimeCommand { commands, files })
    }
}

impl Commands {
    /// Why a command failed: in the runtime's words, if it left any. `at` is its position.
    pub(crate) async fn command_failed(&self, at: u32, wait_status: i32) -> LaunchError {
        let verb = self.verbs.get(at as usize).copied().unwrap_or("command");
        let log = self.log.clone();
        let said = workers::run(move || last_error(&log)).await.ok().flatten();
        let message = said.unwrap_or_else(|| {
            let status = match libc::WIFEXITED(wait_status) {
                true => format!("exit status {}", libc::WEXITSTATUS(wait_status)),
                false => format!("signal {}", libc::WTERMSIG(wait_status)),
            };
            let program = self.program.display();
            no_message(
                &self.log,
                &format!("{program} did not terminate successfully: {status}"),
            )
        });
        runtime_error(verb, &message)
    }

    /// Why the keeper could not run a command.
    pub(crate) fn step_failed(&self, step: Step, errno: i32) -> LaunchError {
        let verb = self.verbs.first().copied().unwrap_or("command");
        let why = errno_text(errno);
        let message = match step {
            Step::RuntimeExec => {
                let reason = format!("fork/exec {}: {why}", self.program.display());
                no_message(&self.log, &reason)
            }
            other => format!("{}: {why}", other.text()),
        };
        runtime_error(verb, &message)
    }
}

/// Removes what a command needed, on a worker; nobody waits.
pub(crate) fn remove_later(files: Vec<PathBuf>) {
    gantry_rt::spawn("launch.runtime-files", async move {
        let removed = workers::run(move || {
            for path in files {
                let removed = match path.is_dir() {
                    true => std::fs::remove_dir_all(&path),
                    false => std::fs::remove_file(&path),
                };
                match removed {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        tracing::warn!(path = %path.display(), error = %e, "a file of a runtime is left");
                    }
                    _ => {}
                }
            }
        });
        if let Err(e) = removed.await {
            tracing::warn!(error = %e, "files of a runtime are left");
        }
    });
}

/// What containerd says when the runtime did not say why.
fn no_message(log: &Path, reason: &str) -> String {
    format!(
        "unable to retrieve OCI runtime error (open {}: no such file or directory): {reason}",
        log.display()
    )
}

/// The message of the last line of level `error` in a runtime's log.
fn last_error(path: &Path) -> Option<String> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    let file = std::fs::File::from(file);
    file.take(MAX_LOG_BYTES).read_to_end(&mut bytes).ok()?;
    last_error_in(&bytes)
}

fn last_error_in(log: &[u8]) -> Option<String> {
    let lines = log.split(|b| *b == b'\n').rev();
    lines
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .find(|line| line["level"] == "error")
        .and_then(|line| Some(line["msg"].as_str()?.trim().to_owned()))
}

/// Text and exit code as dockerd makes them of a runtime's failure: it goes by words in the message.
pub(crate) fn runtime_error(verb: &str, message: &str) -> LaunchError {
    const KIND_ADVICE: &str = ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified \
                               host path exists and is the expected type";
    let lower = message.to_lowercase();
    let has = |words: &str| lower.contains(words);
    let (advice, exit_code) = if has("permission denied") || has("is a directory") {
        ("", NOT_EXECUTABLE)
    } else if has("not a directory") {
        (KIND_ADVICE, NOT_FOUND)
    } else if has("executable file not found") || has("no such file or directory") {
        ("", NOT_FOUND)
    } else {
        ("", NOT_STARTED)
    };
    let task = match verb {
        "create" => "failed to create task for container: failed to create shim task: ",
        _ => "",
    };
    LaunchError::Runtime {
        message: format!("{task}OCI runtime {verb} failed: {message}{advice}"),
        exit_code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_counts() {
        let log = br#"{"level":"warning","msg":"w","time":"t"}
{"level":"error","msg":"first","time":"t"}
{"level":"error","msg":"runc create failed: x\n","time":"t"}
{"level":"info","msg":"i"}
{"level":"err"#;
        assert_eq!(last_error_in(log).as_deref(), Some("runc create failed: x"));
        assert_eq!(last_error_in(b"not json\n"), None);
    }

    #[test]
    fn exit_codes_go_by_words() {
        for (verb, message, code, text) in [
            (
                "create",
                "runc create failed: exec: \"x\": executable file not found in $PATH",
                127,
                "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create \
                 failed: exec: \"x\": executable file not found in $PATH",
            ),
            (
                "create",
                "open executable: Permission denied",
                126,
                "failed to create task for container: failed to create shim task: OCI runtime create failed: open \
                 executable: Permission denied",
            ),
            ("start", "what", 128, "OCI runtime start failed: what"),
            (
                "exec",
                "mount: not a directory",
                127,
                "OCI runtime exec failed: mount: not a directory: Are you trying to mount a directory onto a file (or \
                 vice-versa)? Check if the specified host path exists and is the expected type",
            ),
        ] {
            let error = runtime_error(verb, message);
            assert_eq!(error.exit_code(), code, "{message}");
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn command_lines() {
        let root = tempfile::tempdir().expect("directory");
        let runtime = Runtime {
            name: "r".into(),
            path: "/bin/r".into(),
            args: vec!["--systemd-cgroup=false".into()],
        };
        let bundle = Bundle::new(root.path(), "c", runtime);
        let line = Line::new(&bundle, "/l".into(), "kill").expect("line");
        let words: Vec<String> = line
            .command(&["kill", "c", "9"])
            .expect("words")
            .into_iter()
            .map(|w| w.into_string().expect("text"))
            .collect();
        let state = root.path().join("oci-state/r").display().to_string();
        assert_eq!(
            words,
            [
                "/bin/r",
                "--systemd-cgroup=false",
                "--root",
                &state,
                "--log",
                "/l",
                "--log-format",
                "json",
                "kill",
                "c",
                "9"
            ]
        );
    }
}
