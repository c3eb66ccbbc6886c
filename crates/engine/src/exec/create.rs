//! `exec create`.

use std::rc::Rc;

use gantry_stream::keys;

use super::index::Home;
use super::{Exec, ExecConfig, MAX_LIVE_EXECS, Phase, check_container, stage};
use crate::container::{Container, files};
use crate::{EngineError, ids};

/// What a client sends to make an exec.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// All but what is below.
    pub config: ExecConfig,
    /// `NAME=value`, or `NAME` to take one of the container's away.
    pub env: Vec<String>,
    /// Text form of the sequence that detaches.
    pub detach_keys: String,
}

/// Makes an exec; `named` is how the client called the container.
pub(crate) async fn create(
    container: &Rc<Container>,
    named: &str,
    request: ExecRequest,
) -> Result<String, EngineError> {
    let ExecRequest {
        mut config,
        env,
        detach_keys,
    } = request;
    check_container(container, named)?;
    if !config.user.is_empty() {
        let (process, fixed) = (container.process(), container.fixed.clone());
        let user = config.user.clone();
        files::on_worker(move || stage::check_user(process, &user, &fixed)).await?;
    }
    if !detach_keys.is_empty() {
        config.detach_keys = keys::parse(&detach_keys).map_err(|_| {
            // Not the client's fault to dockerd.
            EngineError::System(format!("Invalid escape keys ({detach_keys}) provided"))
        })?;
    }
    let defaults = &container.fixed.config;
    for (own, default) in [
        (&mut config.user, &defaults.user),
        (&mut config.working_dir, &defaults.working_dir),
    ] {
        if own.is_empty() {
            own.clone_from(default);
        }
    }
    // It may have ended while the worker was busy.
    check_container(container, named)?;
    let exec = make(container, config, env)?;
    Ok(exec.id.to_string())
}

/// Makes an exec that checks the container's health. Whether its user is there is found at its start.
pub(crate) fn create_probe(
    container: &Rc<Container>,
    argv: Vec<String>,
) -> Result<Rc<Exec>, EngineError> {
    check_command(&argv)?;
    let own = &container.fixed.config;
    let config = ExecConfig {
        argv,
        attach_stdout: true,
        attach_stderr: true,
        user: own.user.clone(),
        working_dir: own.working_dir.clone(),
        probe: true,
        ..ExecConfig::default()
    };
    make(container, config, Vec::new())
}

/// An exec without a program is none.
pub(super) fn check_command(argv: &[String]) -> Result<(), EngineError> {
    if argv.is_empty() {
        return Err(EngineError::InvalidParameter(
            "No exec command specified".to_owned(),
        ));
    }
    Ok(())
}

fn make(
    container: &Rc<Container>,
    config: ExecConfig,
    env: Vec<String>,
) -> Result<Rc<Exec>, EngineError> {
    if container.execs.live() >= MAX_LIVE_EXECS {
        return Err(EngineError::Unavailable(format!(
            "container {} has {MAX_LIVE_EXECS} execs that are not ended",
            container.id
        )));
    }
    let exec = Exec::new(
        &container.id,
        ids::generate()?.into(),
        config,
        env,
        Phase::Created,
    );
    register(container, &exec);
    container.exec_event(&exec, &format!("exec_create: {}", exec.command_line()), &[]);
    Ok(exec)
}

/// Makes an exec known.
pub(super) fn register(container: &Rc<Container>, exec: &Rc<Exec>) {
    let home = Home {
        shard: container.shard.id,
        container: container.id.clone(),
    };
    container
        .shard
        .shared
        .execs
        .insert(&exec.id, home, exec.shown.clone());
    container.execs.push(exec.clone());
}
