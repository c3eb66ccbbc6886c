//! What is different about a container of an external runtime: it is asked to signal, freeze, limit and put away what it
//! started, by commands that the keeper runs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gantry_cgroup::{Limits, UNLIMITED};
use gantry_launch::{Bundle, LaunchSpec, Prepared, RuntimeAction, RuntimeCommand};

use super::{Container, Run, files};
use crate::EngineError;
use crate::model::FixedView;
use crate::shard::{ShardEngine, Shared};
use crate::signals;

/// How long a command may take. What hangs goes on, but nobody waits for it any more.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// The bundle of the next start; `None` for the built-in launcher.
///
/// # Errors
/// dockerd's, if the container's runtime is not configured any more.
pub(crate) fn of_start(container: &Container) -> Result<Option<Arc<Bundle>>, EngineError> {
    let shared = &container.shard.shared;
    let runtimes = shared.runtimes.get();
    let runtime = runtimes.find(&container.fixed.host.runtime)?;
    Ok(runtime.map(|runtime| {
        let exec_root = &shared.config.exec_root;
        Arc::new(Bundle::new(exec_root, &container.id, runtime.clone()))
    }))
}

/// Prepares a start, by the built-in launcher if there is no bundle. Blocks.
pub(crate) fn prepare(
    shared: &Shared,
    fixed: &FixedView,
    spec: &LaunchSpec,
    bundle: Option<&Bundle>,
) -> Result<Prepared, EngineError> {
    let Some(bundle) = bundle else {
        return Ok(gantry_launch::prepare(spec)?);
    };
    let seccomp = if fixed.host.privileged {
        None
    } else {
        let profile = shared.seccomp.profile(&fixed.host.security.seccomp)?;
        let (caps, kernel) = (spec.capabilities.bounding, shared.seccomp.kernel);
        profile.map(|profile| gantry_launch::oci_seccomp(&profile, caps, kernel))
    };
    Ok(gantry_launch::prepare_external(spec, bundle, seccomp)?)
}

/// Has a runtime do something.
async fn command(
    shard: &ShardEngine,
    bundle: &Arc<Bundle>,
    action: RuntimeAction,
) -> Result<(), EngineError> {
    let bundle = bundle.clone();
    let prepared = files::on_worker(move || Ok(RuntimeCommand::new(&bundle, &action)?)).await?;
    // Not necessarily the one of the container: that may have died.
    let keeper = shard.keeper()?;
    match gantry_rt::timeout(COMMAND_LIMIT, keeper.client().runtime_command(prepared)).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(EngineError::System(format!(
            "the runtime did not answer for {} s",
            COMMAND_LIMIT.as_secs()
        ))),
    }
}

/// Freezes or thaws a container.
pub(crate) async fn set_frozen(
    container: &Rc<Container>,
    run: &Run,
    frozen: bool,
) -> Result<(), EngineError> {
    if let Some(bundle) = &run.bundle {
        let action = match frozen {
            true => RuntimeAction::Pause,
            false => RuntimeAction::Resume,
        };
        return command(&container.shard, bundle, action).await;
    }
    let group = run.group.clone();
    files::on_worker(move || match frozen {
        true => Ok(group.freeze()?),
        false => Ok(group.thaw()?),
    })
    .await
}

/// Sets limits of a container that lives.
pub(crate) async fn limit(
    container: &Container,
    run: &Run,
    limits: Limits,
) -> Result<(), EngineError> {
    let Some(bundle) = &run.bundle else {
        return limit_group(run, limits).await;
    };
    // What runtimes have no common word for is set past them.
    let unlimited = |limit: &i64| *limit == UNLIMITED;
    let lifted = Limits {
        pids_max: limits.pids_max.filter(unlimited),
        cpu_quota_us: limits.cpu_quota_us.filter(unlimited),
        ..Limits::default()
    };
    let rest = Limits {
        pids_max: limits.pids_max.filter(|l| !unlimited(l)),
        cpu_quota_us: limits.cpu_quota_us.filter(|l| !unlimited(l)),
        ..limits
    };
    if lifted != Limits::default() {
        limit_group(run, lifted).await?;
    }
    if rest == Limits::default() {
        return Ok(());
    }
    let action = RuntimeAction::Update(Box::new(rest));
    command(&container.shard, bundle, action).await
}

async fn limit_group(run: &Run, limits: Limits) -> Result<(), EngineError> {
    let group = run.group.clone();
    files::on_worker(move || Ok(group.apply(&limits).map(drop)?)).await
}

/// Signals the first process; false when it has ended and its exit is on the way.
pub(crate) async fn signal(
    container: &Container,
    run: &Run,
    number: i32,
) -> Result<bool, EngineError> {
    let directly = |number| {
        run.keeper
            .signal(&container.id, container.process(), number)
    };
    let Some(bundle) = &run.bundle else {
        return directly(number).await;
    };
    match command(&container.shard, bundle, RuntimeAction::Kill(number)).await {
        Ok(()) => Ok(true),
        // Whatever the runtime's trouble is, the process is the keeper's child.
        Err(e) if number == signals::KILL => {
            tracing::warn!(id = %container.id, error = %e, "the runtime does not kill; the keeper does");
            directly(number).await
        }
        // A signal that is none: is it there?
        Err(e) => match directly(0).await {
            Ok(false) => Ok(false),
            _ => Err(e),
        },
    }
}

/// Has the runtime forget a container that has ended, or that never came to be, and removes its bundle.
pub(crate) async fn put_away(shard: &ShardEngine, bundle: &Arc<Bundle>) {
    let id = bundle.id();
    let looked = {
        let bundle = bundle.clone();
        files::on_worker(move || Ok(bundle.has_state())).await
    };
    if looked.unwrap_or(true)
        && let Err(e) = command(shard, bundle, RuntimeAction::Delete).await
    {
        tracing::warn!(id, error = %e, "the runtime does not put the container away");
    }
    let removed = {
        let bundle = bundle.clone();
        files::on_worker(move || {
            bundle
                .remove()
                .map_err(|e| EngineError::io("remove a bundle", e))
        })
    };
    if let Err(e) = removed.await {
        tracing::warn!(id, error = %e, "a bundle is left");
    }
}

/// The bundle that a container has.
pub(crate) async fn found(
    shared: &Arc<Shared>,
    id: &str,
) -> Result<Option<Arc<Bundle>>, EngineError> {
    let (shared, id) = (shared.clone(), id.to_owned());
    files::on_worker(move || look(&shared, &id)).await
}

/// As [`found`]. Blocks.
pub(crate) fn look(shared: &Shared, id: &str) -> Result<Option<Arc<Bundle>>, EngineError> {
    let opened = Bundle::open(&shared.config.exec_root, id);
    let bundle = opened.map_err(|e| EngineError::io("read the note of a bundle", e))?;
    Ok(bundle.map(Arc::new))
}

/// Puts away what starts and exits left in the midst of which an earlier daemon died.
pub(crate) async fn sweep(shard: &Rc<ShardEngine>) {
    let shared = shard.shared.clone();
    let listed = files::on_worker(move || {
        Bundle::ids(&shared.config.exec_root).map_err(|e| EngineError::io("list the bundles", e))
    });
    let ids = match listed.await {
        Ok(ids) => ids,
        Err(e) => return tracing::warn!(error = %e, "left bundles can't be looked for"),
    };
    for id in ids {
        if !shard.has_left(&id) {
            continue;
        }
        match found(&shard.shared, &id).await {
            Ok(Some(bundle)) => put_away(shard, &bundle).await,
            Ok(None) => {}
            Err(e) => tracing::warn!(id, error = %e, "a left bundle is not readable"),
        }
    }
}
