//! Everything about a start that is decided here. Blocking: on a worker.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use gantry_cgroup::Group;
use gantry_launch::{Bundle, ExecSpec, PreparedExec};

use super::{ExecConfig, note};
use crate::launch_spec::{c_strings, capability_masks, oom_score_adj, process_rights};
use crate::model::FixedView;
use crate::orphan::ProcessName;
use crate::shard::Shared;
use crate::user::{self, Accounts};
use crate::{EngineError, apparmor, command};

/// Exit code Docker gives to a program that is not there.
const NOT_FOUND: i32 = 127;
/// What runc says first of everything that goes wrong with an exec.
const FAILED: &str = "OCI runtime exec failed: exec failed: ";

/// What a start needs of its container and its exec.
pub(super) struct Inputs {
    pub(super) shared: Arc<Shared>,
    pub(super) fixed: Arc<FixedView>,
    pub(super) group: Arc<Group>,
    pub(super) bundle: Option<Arc<Bundle>>,
    pub(super) init: ProcessName,
    pub(super) hostname: String,
    pub(super) key: String,
    pub(super) config: ExecConfig,
    pub(super) env: Vec<String>,
    pub(super) console_size: Option<(u16, u16)>,
    pub(super) open_stdin: bool,
}

/// Prepares a start and leaves the note about it.
pub(super) fn stage(inputs: Inputs) -> Result<PreparedExec, EngineError> {
    let spec = build(&inputs)?;
    let prepared = match &inputs.bundle {
        None => gantry_launch::prepare_exec(spec)?,
        Some(bundle) => gantry_launch::prepare_external_exec(&spec, bundle)?,
    };
    note::write(&inputs.shared.config, &inputs.key, &inputs.config)?;
    Ok(prepared)
}

fn gone() -> EngineError {
    EngineError::Conflict("the container has ended".to_owned())
}

/// Root directory and pidfd of the container's first process.
fn open(init: ProcessName) -> Result<(OwnedFd, OwnedFd), EngineError> {
    init.open_with_root()
        .map_err(|e| EngineError::io("open the container's first process and its root", e))?
        .ok_or_else(gone)
}

/// Refuses a `user[:group]` that the container does not have: here that is the client's mistake.
pub(super) fn check_user(
    init: ProcessName,
    user: &str,
    fixed: &FixedView,
) -> Result<(), EngineError> {
    let (root, _) = open(init)?;
    user::resolve(user, &fixed.host.group_add, &Accounts::read_root(&root)?)
        .map(drop)
        .map_err(|e| EngineError::InvalidParameter(e.to_string()))
}

fn build(inputs: &Inputs) -> Result<ExecSpec, EngineError> {
    let Inputs { fixed, config, .. } = inputs;
    let (root, init) = open(inputs.init)?;
    // As the container's files are now.
    let accounts = Accounts::read_root(&root)?;
    let who = user::resolve(&config.user, &fixed.host.group_add, &accounts)?;
    let rights = process_rights(&inputs.shared, fixed)?;
    let mask = if config.privileged {
        inputs.shared.seccomp.available_caps()
    } else {
        rights.capabilities
    };
    let env = command::exec_env(
        &fixed.config,
        &inputs.hostname,
        config.tty,
        &inputs.env,
        &who.home,
    );
    Ok(ExecSpec {
        id: inputs.key.clone(),
        init,
        root,
        argv: argv(&config.argv)?,
        env: environment(&env)?,
        cwd: working_directory(&config.working_dir)?,
        uid: who.uid,
        gid: who.gid,
        groups: who.groups,
        tty: config.tty,
        console_size: inputs.console_size.or(config.console_size),
        open_stdin: inputs.open_stdin,
        capabilities: capability_masks(mask, who.uid),
        // As runc: a privileged exec keeps the container's filter.
        seccomp: rights.seccomp,
        no_new_privs: fixed.host.security.no_new_privileges,
        rlimits: rights.rlimits,
        oom_score_adj: oom_score_adj(&fixed.host),
        remap: inputs.shared.config.remap_of(&fixed.host).cloned(),
        apparmor_profile: apparmor::profile_of(&fixed.host)?,
        group: inputs.group.clone(),
    })
}

fn argv(words: &[String]) -> Result<Vec<CString>, EngineError> {
    let program = words.first().map(String::as_str).unwrap_or_default();
    if program.contains('\0') {
        let shown = program.replace('\0', "\\x00");
        return Err(EngineError::BadCommand {
            message: format!(
                "{FAILED}unable to start container process: exec: \"{shown}\": executable file not found in $PATH"
            ),
            exit_code: NOT_FOUND,
        });
    }
    c_strings(words, "argument")
}

fn environment(env: &[String]) -> Result<Vec<CString>, EngineError> {
    if env.iter().any(|item| item.starts_with('=')) {
        return Err(EngineError::System(format!(
            "{FAILED}unable to start container process: invalid environment variable: name cannot be empty"
        )));
    }
    c_strings(env, "environment variable")
}

fn working_directory(path: &str) -> Result<String, EngineError> {
    match path {
        "" => Ok("/".to_owned()),
        path if path.starts_with('/') => Ok(path.to_owned()),
        _ => Err(EngineError::System(format!(
            "{FAILED}Cwd must be an absolute path"
        ))),
    }
}
