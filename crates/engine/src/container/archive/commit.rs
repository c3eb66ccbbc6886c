//! `commit`: an image of a container's changes.

use std::rc::Rc;

use gantry_image::tree::{Packer, Whiteouts};
use gantry_image::{CommitOptions, Healthcheck, ImageConfig, Reference};
use rustix::fs::{Mode, OFlags};

use crate::EngineError;
use crate::container::{Container, freeze};
use crate::engine::Engine;
use crate::model::{ContainerConfig, FixedView, Status};
use crate::shard::Shared;

/// How an image is made of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitSpec {
    /// Its processes are frozen meanwhile.
    pub pause: bool,
    /// The image's name.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// Comment.
    pub comment: String,
    /// How its containers run, instead of as this one.
    pub config: Option<ImageConfig>,
    /// Instructions of a Dockerfile, which change that.
    pub changes: Vec<String>,
}

impl Engine {
    /// Makes an image of a container's changes, with its events; answers its id.
    ///
    /// # Errors
    /// No such container, or one that is being removed; changes that are not allowed; the kernel's.
    pub async fn commit(&self, key: &str, spec: CommitSpec) -> Result<String, EngineError> {
        self.on_owner(key, |c| async move { commit(&c, spec).await })
            .await
    }
}

async fn commit(container: &Rc<Container>, spec: CommitSpec) -> Result<String, EngineError> {
    let refused = |what: &str| {
        let id = &container.id;
        EngineError::Conflict(format!("You cannot commit container {id} which is {what}"))
    };
    match container.status() {
        Status::Dead => return Err(refused("Dead")),
        Status::Removing => return Err(refused("being removed")),
        _ => {}
    }
    let options = options(&container.fixed.config, &spec)?;
    let paused = spec.pause && container.status() == Status::Running;
    if paused {
        freeze::pause(container).await?;
    }
    let made = make(container, options).await;
    if let Ok(id) = &made {
        tell(container, id, &spec);
    }
    if paused && let Err(e) = freeze::unpause(container).await {
        // Somebody else may have thawed or ended it.
        tracing::debug!(id = %container.id, error = %e, "a committed container is not thawed");
    }
    made
}

/// What the image is to have, or why its changes are refused.
fn options(config: &ContainerConfig, spec: &CommitSpec) -> Result<CommitOptions, EngineError> {
    let own = image_config(config);
    let mut wanted = spec.config.clone().unwrap_or_else(|| own.clone());
    wanted.change(&spec.changes)?;
    wanted.merge(&own);
    Ok(CommitOptions {
        reference: spec.reference.clone(),
        author: spec.author.clone(),
        comment: spec.comment.clone(),
        created_by: config
            .cmd
            .as_ref()
            .map_or_else(String::new, |words| words.join(" ")),
        config: wanted,
    })
}

/// How a container runs, as an image says it.
fn image_config(config: &ContainerConfig) -> ImageConfig {
    let keys = |list: &[String]| {
        let empty = || serde_json::Value::Object(serde_json::Map::new());
        (!list.is_empty()).then(|| list.iter().map(|key| (key.clone(), empty())).collect())
    };
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let health = |check: &crate::model::HealthCheck| Healthcheck {
        test: check.test.clone(),
        interval_ns: check.interval_ns,
        timeout_ns: check.timeout_ns,
        start_period_ns: check.start_period_ns,
        start_interval_ns: check.start_interval_ns,
        retries: check.retries,
    };
    ImageConfig {
        user: config.user.clone(),
        exposed_ports: keys(&config.exposed_ports),
        env: some(&config.env),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        healthcheck: config.health.as_ref().map(health),
        volumes: keys(&config.volumes),
        working_dir: config.working_dir.clone(),
        on_build: some(&config.on_build),
        labels: (!config.labels.is_empty()).then(|| config.labels.clone()),
        stop_signal: Some(config.stop_signal.clone()).filter(|s| !s.is_empty()),
        shell: some(&config.shell),
        args_escaped: None,
    }
}

async fn make(container: &Rc<Container>, options: CommitOptions) -> Result<String, EngineError> {
    // One that does not run is neither started nor removed meanwhile.
    let _guard = match container.status().is_alive() {
        true => None,
        false => Some(container.ops.lock().await),
    };
    if container.gone.get() {
        return Err(EngineError::NoSuchContainer(container.id.to_string()));
    }
    let (shared, fixed) = (container.shard.shared.clone(), container.fixed.clone());
    super::on_long_worker(move || take(&shared, &fixed, options)).await
}

fn take(shared: &Shared, fixed: &FixedView, options: CommitOptions) -> Result<String, EngineError> {
    let snapshot = shared.images.snapshot();
    let parent = snapshot
        .of_container(&fixed.image_id)
        .ok_or_else(|| EngineError::NoSuchImage(fixed.image_id.clone()))?;
    let path = fixed.upper_path();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = match rustix::fs::open(&path, flags, Mode::empty()) {
        // It was never started.
        Err(rustix::io::Errno::NOENT) => None,
        other => {
            let failed =
                |e: rustix::io::Errno| EngineError::io(path.display().to_string(), e.into());
            Some(other.map_err(failed)?)
        }
    };
    // On disk the owners are the image's, whatever the container's user namespace.
    let owner = |uid, gid| (uid, gid);
    let id = shared.images.commit(parent, options, |to| {
        let mut packer = Packer::new(to, &owner, Whiteouts::Layer);
        if let Some(upper) = &upper {
            use std::os::fd::AsFd;
            packer.add(upper.as_fd(), c".", b"")?;
        }
        packer.finish()
    })?;
    Ok(id)
}

/// The events, in Docker's order.
fn tell(container: &Rc<Container>, id: &str, spec: &CommitSpec) {
    let shared = &container.shard.shared;
    let labels = shared
        .images
        .snapshot()
        .get(id)
        .and_then(|i| i.config.labels.clone());
    let tell = |action: &str, name: &str| {
        let mut attributes: Vec<(String, String)> = labels
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        attributes.retain(|(key, _)| key != "name");
        attributes.push(("name".to_owned(), name.to_owned()));
        shared
            .bus
            .publish("image", action.to_owned(), id.to_owned(), attributes);
    };
    tell("create", id);
    let name = spec
        .reference
        .as_ref()
        .map(Reference::familiar)
        .unwrap_or_default();
    if !name.is_empty() {
        tell("tag", &name);
    }
    container.event(
        "commit",
        &[
            ("comment", spec.comment.clone()),
            ("imageID", id.to_owned()),
            ("imageRef", name),
        ],
    );
}
