//! An exec by an external runtime. Blocking: on a worker.

use std::path::PathBuf;

use gantry_keeper_proto::runtime::NewProcess;

use super::PID_FILE;
use super::bundle::{Bundle, write};
use super::command::{Commands, Line};
use super::config::{ProcessParts, process};
use super::prepare::streams;
use crate::error::LaunchError;
use crate::exec::{ExecSpec, PreparedExec};
use crate::prepare::{DaemonEnds, FdTable, Streams, text};

/// An exec by an external runtime, ready.
#[derive(Debug)]
pub(crate) struct ExternalExec {
    pub(crate) commands: Commands,
    pub(crate) ends: DaemonEnds,
    /// Of no use any more once it runs.
    pub(crate) dir: PathBuf,
}

/// Process document, pipes and command of one exec. The runtime loads the container's filter itself.
pub fn prepare_exec(spec: &ExecSpec, bundle: &Bundle) -> Result<PreparedExec, LaunchError> {
    let name = spec.id.rsplit('.').next().unwrap_or_default();
    let dir = bundle.make_exec_dir(name)?;
    let mut fds = FdTable::default();
    let wanted = Streams {
        tty: spec.tty,
        console_size: spec.console_size,
        open_stdin: spec.open_stdin,
        uid: spec.uid,
        remap: None,
    };
    let streams = streams(wanted, &dir, &mut fds)?;
    let document = process(&ProcessParts {
        argv: &spec.argv,
        env: &spec.env,
        cwd: &spec.cwd,
        user: (spec.uid, spec.gid),
        groups: &spec.groups,
        tty: spec.tty,
        console_size: spec.console_size,
        capabilities: &spec.capabilities,
        no_new_privs: spec.no_new_privs,
        rlimits: &spec.rlimits,
        oom_score_adj: spec.oom_score_adj,
        apparmor_profile: spec.apparmor_profile.as_deref(),
    })?;
    let json = serde_json::to_vec(&document).map_err(std::io::Error::from);
    let json = json.map_err(|e| LaunchError::prepare("write", "the process", e))?;
    let process_file = dir.join("process.json");
    write(&process_file, &json)?;
    let line = Line::new(bundle, dir.join("log.json"), "exec")?;
    let (process_file, pid_file) = (
        process_file.display().to_string(),
        dir.join(PID_FILE).display().to_string(),
    );
    let mut words = vec!["exec", "--detach", "--pid-file", &pid_file];
    words.extend(["--process", &process_file]);
    if let Some((_, name)) = streams.console {
        words.extend(["--console-socket", name]);
    }
    words.push(bundle.id());
    let hybrid = spec.group.hybrid_procs()?;
    let process = NewProcess {
        id: spec.id.clone(),
        pid_dir: streams.pid_dir,
        pid_file: text("name", PID_FILE.into())?,
        stdio: streams.stdio,
        console: streams.console.map(|(fd, _)| fd),
        console_size: spec.console_size,
        cgroup_procs: hybrid.map(|fd| fds.add(fd)).transpose()?,
        oom_counter: None,
        log_nonblocking: true,
    };
    let commands = vec![line.command(&words)?];
    Ok(PreparedExec::external(ExternalExec {
        commands: line.plan(commands, &["exec"], &dir, Vec::new(), Some(process), fds)?,
        ends: streams.ends,
        dir,
    }))
}
