//! `create`: a record, a directory, a name.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use gantry_image::Image;
use gantry_store::{Batch, Table};

use super::rename::{in_use, name_error, name_key};
use super::{Container, files, later};
use crate::command::{self, ImageDefaults};
use crate::model::*;
use crate::shard::{ShardEngine, Shared};
use crate::storage_quota::Reserved;
use crate::{EngineError, capabilities, clock, launch_spec, names, signals, volumes};

/// Made-up names tried before giving up.
const MAX_NAME_ATTEMPTS: u32 = 64;

/// Checks a request against the image and the rules; nothing is changed. Runs on any shard.
pub(crate) fn check(
    spec: &mut CreateSpec,
    image: &Image,
    shared: &Shared,
) -> Result<Vec<String>, EngineError> {
    if let Some(name) = &spec.name {
        names::validate(name)?;
    }
    command::merge(&mut spec.config, &image_defaults(image));
    command::resolve_argv(&spec.config)?;
    capabilities::resolve(
        &spec.host.cap_add,
        &spec.host.cap_drop,
        spec.host.privileged,
        shared.seccomp.available_caps(),
    )?;
    if !spec.config.stop_signal.is_empty() {
        signals::parse(&spec.config.stop_signal)?;
    }
    let dir = &mut spec.config.working_dir;
    if !dir.is_empty() && !dir.starts_with('/') {
        return Err(EngineError::InvalidParameter(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        )));
    }
    *dir = command::clean_path(dir);
    for item in &spec.config.env {
        if item.is_empty() || item.starts_with('=') || item.contains('\0') {
            return Err(EngineError::InvalidParameter(format!(
                "invalid environment variable: {item}"
            )));
        }
    }
    if spec.host.auto_remove && spec.host.restart != RestartPolicy::No {
        return Err(EngineError::InvalidParameter(
            "can't create 'AutoRemove' container with restart policy".to_owned(),
        ));
    }
    spec.host.log.fill_from(&shared.config.default_log);
    super::logs::check_config(&spec.config, &spec.host.log)?;
    Ok(Vec::new())
}

/// Docker's words for limits that the kernel has no place for.
const DISCARDED: &[(&str, &str)] = &[
    (
        "memory limit",
        "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
    ),
    (
        "swap limit",
        "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
    ),
    (
        "memory reservation",
        "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
    ),
    (
        "memory swappiness",
        "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
    ),
    (
        "oom kill disable",
        "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
    ),
    (
        "cpu shares",
        "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.",
    ),
    (
        "cpu cfs period",
        "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
    ),
    (
        "cpu cfs quota",
        "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
    ),
    (
        "cpuset cpus",
        "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
    ),
    (
        "cpuset mems",
        "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
    ),
    (
        "pids limit",
        "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
    ),
    (
        "kernel memory TCP",
        "Your kernel does not support kernel memory TCP limit capabilities or the cgroup is not mounted. Limitation discarded.",
    ),
    (
        "blkio weight",
        "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
    ),
];

/// What the client should know about its limits: those that this kernel can't set are not in force. A group of the
/// container's own is asked, since a hierarchy's root does not have all the files.
pub(crate) async fn limit_warnings(
    shared: &Arc<Shared>,
    id: &ContainerId,
    host: &HostSpec,
) -> Vec<String> {
    if host.limits == ResourceLimits::default() {
        return Vec::new();
    }
    let (hierarchy, parent) = (
        shared.seccomp.hierarchy.clone(),
        launch_spec::cgroup_parent(shared, host),
    );
    let (limits, id) = (launch_spec::limits(host), id.to_string());
    let asked = files::on_worker(move || {
        let group = gantry_cgroup::Group::create(&hierarchy, &parent, &id)?;
        let unsupported = group.unsupported(&limits);
        group.remove()?;
        Ok(unsupported?)
    });
    let unsupported = match asked.await {
        Ok(names) => names,
        Err(e) => {
            // The start will say so again, and fail.
            tracing::warn!(error = %e, "a control group can't be asked for its limits");
            return Vec::new();
        }
    };
    let mut warnings: Vec<String> = unsupported
        .into_iter()
        .map(|name| {
            let known = DISCARDED.iter().find(|(n, _)| *n == name);
            known.map_or_else(
                || format!("Your kernel does not support the {name}. It is discarded."),
                |(_, text)| (*text).to_owned(),
            )
        })
        .collect();
    warnings.dedup();
    warnings
}

fn image_defaults(image: &Image) -> ImageDefaults {
    let config = &image.config;
    fn keys<V>(map: &Option<BTreeMap<String, V>>) -> Vec<String> {
        map.iter().flat_map(|m| m.keys().cloned()).collect()
    }
    ImageDefaults {
        entrypoint: config.entrypoint.clone().unwrap_or_default(),
        cmd: config.cmd.clone().unwrap_or_default(),
        env: config.env.clone().unwrap_or_default(),
        working_dir: config.working_dir.clone(),
        user: config.user.clone(),
        labels: config.labels.clone().unwrap_or_default(),
        exposed_ports: keys(&config.exposed_ports),
        volumes: keys(&config.volumes),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        shell: config.shell.clone().unwrap_or_default(),
        on_build: config.on_build.clone().unwrap_or_default(),
        health: config.healthcheck.as_ref().map(|check| HealthCheck {
            test: check.test.clone(),
            interval_ns: check.interval_ns,
            timeout_ns: check.timeout_ns,
            start_period_ns: check.start_period_ns,
            start_interval_ns: check.start_interval_ns,
            retries: check.retries,
        }),
    }
}

/// Makes the container; runs on the shard that will own it.
pub(crate) async fn create(
    shard: Rc<ShardEngine>,
    id: ContainerId,
    spec: CreateSpec,
    image: Arc<Image>,
    quota: Reserved,
) -> Result<(), EngineError> {
    let (path, args) = command::resolve_argv(&spec.config)?;
    let CreateSpec {
        name,
        mut config,
        mut host,
        mounts,
        wire,
        ..
    } = spec;
    if config.hostname.is_empty() {
        config.hostname = match host.network_mode {
            NetworkMode::Host => files::host_name(),
            _ => crate::ids::short(&id).to_owned(),
        };
    }
    host.storage_quota = quota.quota();
    let name = reserve(&shard, &id, name.as_deref())?;
    let acquired = match volumes::acquire(&shard.shared, &id, mounts).await {
        Ok((acquired, points)) => {
            host.mounts = points;
            acquired
        }
        Err(e) => {
            shard.shared.index.release_name(&name, &id);
            return Err(e);
        }
    };
    let container = Container::new(
        &shard,
        ContainerRecord {
            version: RECORD_VERSION,
            id: id.to_string(),
            name: name.clone(),
            created_unix_ns: clock::unix_ns(),
            image_id: image.id.to_string(),
            path,
            args,
            config,
            host,
            wire: wire.to_string(),
            state: StateRecord {
                sequence: 1,
                ..StateRecord::default()
            },
            restart_count: 0,
        },
    );
    if let Err(e) = make_durable(&container, &name, &acquired, &image).await {
        shard.shared.index.release_name(&name, &id);
        files::discard_later(&container.fixed.dir);
        return Err(e);
    }
    acquired.finish();
    quota.keep();
    shard.containers.borrow_mut().insert(id, container.clone());
    container.publish();
    container.event("create", &[]);
    later::copy_record(&container);
    Ok(())
}

fn reserve(
    shard: &ShardEngine,
    id: &ContainerId,
    wanted: Option<&str>,
) -> Result<String, EngineError> {
    let index = &shard.shared.index;
    if let Some(wanted) = wanted {
        let name = names::validate(wanted)?;
        index
            .reserve_name(name, id)
            .map_err(|holder| in_use(name, &holder))?;
        return Ok(name.to_owned());
    }
    for attempt in 0..MAX_NAME_ATTEMPTS {
        let name = names::generate(attempt)?;
        if index.reserve_name(&name, id).is_ok() {
            return Ok(name);
        }
    }
    Err(EngineError::System(
        "no free container name was found".to_owned(),
    ))
}

async fn make_durable(
    container: &Rc<Container>,
    name: &str,
    acquired: &volumes::Acquired,
    image: &Arc<Image>,
) -> Result<(), EngineError> {
    let record = container.record_bytes()?;
    files::make_dirs_early(container).await?;
    volumes::populate(acquired, &container.fixed, image).await?;
    let mut batch = Batch::new();
    acquired.put(&mut batch)?;
    batch
        .require_absent(Table::Containers, &*container.id)
        .require_absent(Table::Meta, name_key(name))
        .put(Table::Containers, &*container.id, record)
        .put(Table::Meta, name_key(name), container.id.as_bytes());
    container
        .shard
        .shared
        .store
        .commit(batch)
        .await
        .map_err(|e| name_error(e, name))
}
