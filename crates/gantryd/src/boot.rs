//! The boot: named steps, each logged with its time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use gantry_api::{ApiService, Context, DaemonInfo, Settings};
use gantry_cgroup::{Controller, Hierarchy, Version};
use gantry_engine::{Engine, EngineConfig, PumpKind, Runtimes};
use gantry_image::ImageStore;
use gantry_image::layer::Form;
use gantry_launch::{OverlayMode, Remap};
use gantry_registry::Registry;
use gantry_rt::ShardId;
use gantry_store::Store;

use crate::config::Config;
use crate::files::{self, Identity};
use crate::listen::{self, Listening};
use crate::{probe, remap};

/// How often requests in flight are counted at the end.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// a file or socket of the daemon failed
    #[error("could not {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// another daemon works on this data root
    #[error("the data root {0} is in use by another gantryd")]
    InUse(PathBuf),
    /// another daemon has the pid file
    #[error("process with PID {pid} is still running: the pid file {path} is another gantryd's")]
    Pidfile {
        /// Which file.
        path: PathBuf,
        /// Whose.
        pid: u32,
    },
    /// a file of ours is not what we wrote
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// a host can't be listened on
    #[error("can't listen on {0}: {1}")]
    Host(String, String),
    /// there is no such group
    #[error("group {0} not found")]
    Group(String),
    /// the ids of remapped containers can't be had
    #[error("{0}")]
    Remap(String),
    /// the kernel lacks something
    #[error("this kernel lacks {0}: {1}")]
    Kernel(&'static str, String),
    /// a step failed
    #[error("{0}: {1}")]
    Step(&'static str, String),
}

impl BootError {
    /// A failed operation on a path.
    pub fn io(what: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

/// A daemon that runs.
pub struct Daemon {
    engine: Engine,
    context: Arc<Context>,
    listening: Vec<Listening>,
    pidfile: PathBuf,
    shutdown_timeout: Duration,
    /// Held until the process ends.
    _lock: File,
}

/// Runs one step and logs how long it took.
fn step<R>(name: &'static str, f: impl FnOnce() -> Result<R, BootError>) -> Result<R, BootError> {
    let start = Instant::now();
    let result = f();
    let took_us = start.elapsed().as_micros();
    match &result {
        Ok(_) => tracing::info!(step = name, took_us, "boot"),
        Err(error) => tracing::error!(step = name, took_us, %error, "boot failed"),
    }
    result
}

fn failed<E: std::fmt::Display>(name: &'static str) -> impl FnOnce(E) -> BootError {
    move |e| BootError::Step(name, e.to_string())
}

/// Boots; the daemon answers requests when this returns. A boot that fails leaves no pid file and no socket.
pub fn boot(config: &Config) -> Result<Daemon, BootError> {
    let booted = step("find the remapped ids", || remapped_ids(config)).and_then(|ids| match ids {
        None => steps(config, None),
        Some(ids) => {
            step("make the roots", || {
                files::private_dir(&config.data_root, 0o711)
            })?;
            let mut config = config.clone();
            config.data_root.push(ids.directory());
            steps(&config, Some(ids))
        }
    });
    if booted.is_err() {
        files::remove_pidfile(&config.pidfile);
    }
    booted
}

fn remapped_ids(config: &Config) -> Result<Option<remap::Ids>, BootError> {
    match config.userns_remap.as_str() {
        "" => Ok(None),
        setting => remap::resolve(setting).map_err(BootError::Remap),
    }
}

/// The user namespace of these ids, after a look whether root file systems can be had for it.
fn remapped(config: &Config, ids: Option<remap::Ids>) -> Result<Option<Arc<Remap>>, BootError> {
    const NAME: &str = "set up user namespaces";
    let Some(ids) = ids else { return Ok(None) };
    let remap = Remap::new(&keeper_exe()?, ids.uids, ids.gids).map_err(failed(NAME))?;
    let remap = Arc::new(remap);
    let dir = config.data_root.join("probe-remap");
    files::private_dir(&dir, 0o700)?;
    let probed = gantry_launch::probe_remapped(&dir, &remap).map_err(|e| {
        let needed = "idmapped layers of overlay (Linux 6.15, and a data root on a file system that can map owners)";
        BootError::Kernel(needed, e.to_string())
    });
    std::fs::remove_dir_all(&dir).map_err(|e| BootError::io("remove", &dir, e))?;
    probed.map(|()| Some(remap))
}

/// What new layers will be on this data root: tried there.
fn layer_form(config: &Config) -> Result<Form, BootError> {
    let dir = config.data_root.join("probe-layers");
    remove_probe(&dir)?;
    files::private_dir(&dir, 0o700)?;
    let probed = gantry_image::layer::probe_erofs(&dir);
    remove_probe(&dir)?;
    match probed {
        Ok(()) => Ok(Form::Erofs),
        Err(cause) => {
            tracing::warn!(%cause, "layers are unpacked into directories, not mounted from their files");
            Ok(Form::Directories)
        }
    }
}

/// Also what a daemon left that ended while it tried.
fn remove_probe(dir: &Path) -> Result<(), BootError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(BootError::io("remove", dir, e)),
        _ => Ok(()),
    }
}

fn steps(config: &Config, ids: Option<remap::Ids>) -> Result<Daemon, BootError> {
    let shards = config
        .shards
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    step("raise the limit of open files", raise_nofile)?;
    let warnings = step("probe the kernel", probe_kernel)?;
    let ways = ways();
    let hierarchy = step("find control groups", || {
        let hierarchy = Hierarchy::detect().map_err(failed("find control groups"))?;
        hierarchy
            .check_required()
            .map_err(failed("find control groups"))?;
        Ok(hierarchy)
    })?;
    step("make the roots", || {
        files::private_dir(&config.data_root, 0o711)?;
        files::private_dir(&config.exec_root, 0o711)
    })?;
    let lock = step("lock the data root", || files::lock(&config.data_root))?;
    step("write the pid file", || {
        files::write_pidfile(&config.pidfile)
    })?;
    let identity = step("load the identity", || {
        Identity::load(&config.data_root, gantry_api::text::now_unix_ns())
    })?;
    let store = step("open the metadata store", || {
        Store::open(config.data_root.join("metadata.redb"))
            .map_err(failed("open the metadata store"))
    })?;
    let form = step("probe the form of layers", || layer_form(config))?;
    let images = step("open the images", || {
        ImageStore::open_as(&config.data_root, store.clone(), form)
            .map_err(failed("open the images"))
    })?;
    let remap = step("set up user namespaces", || remapped(config, ids))?;
    let engine = step("open the containers", || {
        let keeper = keeper_exe()?;
        let mut settings = EngineConfig::new(
            config.data_root.clone(),
            config.exec_root.clone(),
            keeper,
            shards,
        );
        settings.cdi_spec_dirs.clone_from(&config.cdi_spec_dirs);
        settings.default_log.clone_from(&config.log);
        settings.pump = ways.pump;
        settings.remap = remap.clone();
        settings.runtimes = config.runtimes.clone();
        Engine::open(settings, store, images.clone()).map_err(failed("open the containers"))
    })?;
    let mut daemon = daemon_info(config, &identity, &hierarchy, warnings);
    daemon.ways = ways.names();
    daemon.ways.push(("layers", form.name()));
    daemon.layer_form = match form {
        Form::Erofs => "tar with EROFS index",
        Form::Directories => "plain directories",
    };
    daemon.userns_remap = remap.is_some();
    let context = Arc::new(Context {
        engine: engine.clone(),
        registry: Registry::new(images.clone(), config.registries.clone()),
        images,
        daemon,
        settings: RwLock::new(settings_of(config)),
    });
    step("start the shards", || start_shards(shards, &engine))?;
    let listening = step("listen", || {
        listen::open(&config.hosts, config.group.as_deref())
    })?;
    step("serve", || serve(shards, &listening, &context))?;
    for l in &listening {
        tracing::info!(host = l.host, "API listens");
    }
    Ok(Daemon {
        engine,
        context,
        listening,
        pidfile: config.pidfile.clone(),
        shutdown_timeout: config.shutdown_timeout,
        _lock: lock,
    })
}

fn start_shards(shards: usize, engine: &Engine) -> Result<(), BootError> {
    const NAME: &str = "start the shards";
    gantry_rt::run(shards, |_| Box::pin(async {})).map_err(failed(NAME))?;
    // All at once: each shard waits until every other knows its containers.
    let (done, results) = std::sync::mpsc::channel();
    for shard in 0..shards {
        let (engine, done) = (engine.clone(), done.clone());
        gantry_rt::mailbox::post(ShardId(shard), move || {
            gantry_rt::spawn("boot.shard", async move {
                // The receiver below waits for every shard.
                let _ = done.send(engine.boot_shard().await.map_err(|e| e.to_string()));
            });
        })
        .map_err(failed(NAME))?;
    }
    drop(done);
    for _ in 0..shards {
        match results.recv() {
            Ok(Ok(_report)) => {}
            Ok(Err(text)) => return Err(BootError::Step(NAME, text)),
            Err(_) => {
                return Err(BootError::Step(
                    NAME,
                    "a shard ended while it booted".to_owned(),
                ));
            }
        }
    }
    Ok(())
}

fn serve(shards: usize, listening: &[Listening], context: &Arc<Context>) -> Result<(), BootError> {
    for shard in 0..shards {
        for l in listening {
            let (handle, context) = (l.handle.clone(), context.clone());
            gantry_rt::mailbox::post(ShardId(shard), move || match handle.open() {
                Ok(listener) => gantry_rt::spawn("api.accept", async move {
                    gantry_rt::http::serve(listener, Rc::new(ApiService::new(context))).await;
                }),
                Err(error) => tracing::error!(%error, "a shard could not open a listener"),
            })
            .map_err(failed("serve"))?;
        }
    }
    Ok(())
}

/// Runtimes as an event shows them: name and path of each.
fn listed(runtimes: &Runtimes) -> String {
    let external = runtimes.external.values();
    let shown: Vec<_> = external.map(|r| format!("{}:{}", r.name, r.path)).collect();
    shown.join(" ")
}

/// What a reload can change.
fn settings_of(config: &Config) -> Settings {
    Settings {
        labels: config.labels.clone(),
        debug: config.debug,
    }
}

impl Daemon {
    /// Puts what can change at runtime in place.
    pub fn reload(&self, config: &Config) {
        let attributes = vec![
            ("name".to_owned(), self.context.daemon.hostname.clone()),
            ("debug".to_owned(), config.debug.to_string()),
            ("labels".to_owned(), format!("{:?}", config.labels)),
            ("log-level".to_owned(), config.log_level.clone()),
            (
                "default-runtime".to_owned(),
                config.runtimes.default.clone(),
            ),
            ("runtimes".to_owned(), listed(&config.runtimes)),
        ];
        self.engine.set_runtimes(config.runtimes.clone());
        self.context.reload(settings_of(config), attributes);
    }

    /// Ends in order: no new connections, requests in flight get their answers, keepers without containers are sent
    /// away. Running containers go on.
    pub fn shutdown(self) {
        listen::close(&self.listening);
        self.drain();
        let engine = self.engine.clone();
        if let Err(error) =
            gantry_rt::block_on_shard(ShardId(0), move || async move { engine.shutdown().await })
        {
            tracing::error!(%error, "the engine was not told that the daemon ends");
        }
        files::remove_pidfile(&self.pidfile);
    }
}

impl Daemon {
    /// Waits until every request that came has its answer.
    fn drain(&self) {
        let in_flight = || -> usize {
            let shards = gantry_rt::stats::snapshot();
            shards.iter().map(|s| s.requests_in_flight).sum()
        };
        let start = Instant::now();
        while in_flight() > 0 {
            if start.elapsed() > self.shutdown_timeout {
                tracing::warn!(requests = in_flight(), "requests are cut off by the end");
                return;
            }
            std::thread::sleep(DRAIN_POLL);
        }
        // The last answer is counted as done when it is handed over, a moment before it is sent.
        std::thread::sleep(DRAIN_POLL);
    }
}

fn raise_nofile() -> Result<(), BootError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .map_err(|e| BootError::Step("raise the limit of open files", e.to_string()))
}

fn probe_kernel() -> Result<Vec<String>, BootError> {
    let mut warnings = Vec::new();
    for missing in probe::run() {
        if missing.fatal {
            return Err(BootError::Kernel(missing.feature, missing.cause));
        }
        tracing::warn!(
            feature = missing.feature,
            cause = missing.cause,
            "the kernel lacks a feature"
        );
        warnings.push(format!(
            "WARNING: no {}: {}",
            missing.feature, missing.cause
        ));
    }
    Ok(warnings)
}

/// Which of two ways is gone where newer kernels have a better one.
struct Ways {
    pump: PumpKind,
    overlay: OverlayMode,
}

impl Ways {
    fn names(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            ("output", self.pump.name()),
            ("overlay", self.overlay.name()),
        ]
    }
}

/// Asks the kernel; what it lacks is logged, with what is done instead.
fn ways() -> Ways {
    let pump = match probe::output_ring() {
        None => PumpKind::Ring,
        Some(cause) => {
            tracing::warn!(
                cause,
                "container output is read by epoll and read(2), not by multishot reads"
            );
            PumpKind::Reads
        }
    };
    let overlay = gantry_launch::overlay_mode();
    if overlay == OverlayMode::Mount {
        tracing::warn!(
            cause = "no overlay option lowerdir+: the kernel is older than 6.7",
            "root file systems are mounted by mount(2), in a mount namespace per start"
        );
    }
    Ways { pump, overlay }
}

/// The keeper lies beside this program.
fn keeper_exe() -> Result<PathBuf, BootError> {
    let own = std::env::current_exe()
        .map_err(|e| BootError::io("find", Path::new("/proc/self/exe"), e))?;
    let keeper = own.with_file_name("gantry-keeper");
    match std::fs::metadata(&keeper) {
        Ok(_) => Ok(keeper),
        Err(e) => Err(BootError::io("find the keeper", &keeper, e)),
    }
}

/// Whether block I/O has weights: always on version 2, where the controller is; on version 1 the kernel says it by a file.
fn weighs_io(hierarchy: &Hierarchy, file: &str) -> bool {
    match hierarchy.version() {
        Version::V2 => hierarchy.has(Controller::Blkio),
        Version::V1 | Version::Hybrid => hierarchy.root_has_file(Controller::Blkio, file),
    }
}

fn daemon_info(
    config: &Config,
    identity: &Identity,
    hierarchy: &Hierarchy,
    mut warnings: Vec<String>,
) -> DaemonInfo {
    let uname = rustix::system::uname();
    let (operating_system, os_version) = probe::operating_system();
    for controller in hierarchy.missing() {
        warnings.push(format!(
            "WARNING: No {} cgroup controller",
            controller.name()
        ));
    }
    DaemonInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        git_commit: option_env!("GANTRY_GIT_COMMIT").unwrap_or("").to_owned(),
        build_time: option_env!("GANTRY_BUILD_TIME").unwrap_or("").to_owned(),
        id: identity.id.clone(),
        data_root: config.data_root.clone(),
        log_driver: config.log.driver.clone(),
        userns_remap: false,
        kernel_version: uname.release().to_string_lossy().into_owned(),
        operating_system,
        os_version,
        hostname: uname.nodename().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism()
            .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        memory_bytes: probe::memory_bytes(),
        cgroup_version: if hierarchy.version() == Version::V2 {
            "2"
        } else {
            "1"
        },
        cgroup_controllers: [
            Controller::Cpu,
            Controller::Cpuset,
            Controller::Memory,
            Controller::Pids,
            Controller::Blkio,
        ]
        .iter()
        .filter(|c| hierarchy.has(**c))
        .map(|c| c.name().to_owned())
        .collect(),
        blkio_weight: weighs_io(hierarchy, "blkio.weight"),
        blkio_weight_device: weighs_io(hierarchy, "blkio.weight_device"),
        cdi_spec_dirs: config.cdi_spec_dirs.clone(),
        swap_limit: hierarchy.has_swap_limit(),
        backing_filesystem: probe::filesystem_name(&config.data_root),
        networks: identity.networks(),
        warnings,
        ways: Vec::new(),
        layer_form: "",
    }
}
