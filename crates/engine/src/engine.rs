//! The handle the rest of the daemon holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_image::ImageStore;
use gantry_rt::ShardId;
use gantry_store::Store;

use crate::accounts_cache::AccountsCache;
use crate::boot::{self, BootPlan, BootReport};
use crate::config::EngineConfig;
use crate::container::attach::AttachTicket;
use crate::container::logs::LogStream;
use crate::container::{
    Container, attach, create, freeze, kill, logs, remove, rename, start, stop, top, update, wait,
};
use crate::events::{Bus, EventStream, EventsQuery};
use crate::exec::index::ExecIndex;
use crate::index::Index;
use crate::launch_spec::SeccompCache;
use crate::model::*;
use crate::runtimes::{Chosen, Runtimes};
use crate::shard::{Shared, on_shard};
use crate::storage_quota::{self, StorageQuotas};
use crate::volumes::{Volumes, image_mount};
use crate::wait_handle::WaitHandle;
use crate::{EngineError, apparmor, ids, list, mounts};

/// The engine; cheap to clone, usable on every shard.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

/// The shard that owns a new container.
pub(crate) fn home_shard(id: &str, shards: usize) -> usize {
    let head = id
        .get(..8)
        .and_then(|digits| usize::from_str_radix(digits, 16).ok())
        .unwrap_or(0);
    head % shards.max(1)
}

impl Engine {
    /// Opens the engine's state. Blocks; call it before the shards run, then [`Engine::boot_shard`]
    /// on every one of them.
    pub fn open(
        config: EngineConfig,
        store: Store,
        images: Arc<ImageStore>,
    ) -> Result<Engine, EngineError> {
        let boot = BootPlan::load(&config, &store)?;
        // Images that were removed while containers used them, and the containers since.
        images.reap(&|id| boot.user_of_image(id).map(|user| (user, false)))?;
        let init_layer = config.init_layer_dir();
        gantry_launch::make_init_layer(&init_layer)
            .map_err(|e| EngineError::io(format!("make {}", init_layer.display()), e))?;
        image_mount::make_empty_layers(&config)?;
        crate::container::files::install_init(&config.init_program_path())?;
        let owner = config.remap.as_ref().map(|remap| remap.root());
        let volumes = Volumes::load(&config.data_root, owner, &store, boot.volume_users())?;
        let quotas = StorageQuotas::open(&config.data_root, boot.storage_quotas())?;
        apparmor::prepare();
        let index = Index::new(config.shards);
        let shared = Shared {
            store,
            images,
            volumes,
            index,
            bus: Bus::default(),
            seccomp: SeccompCache::new()?,
            accounts: AccountsCache::default(),
            quotas,
            runtimes: Chosen::new(config.runtimes.clone()),
            execs: ExecIndex::default(),
            boot,
            closing: AtomicBool::new(false),
            config,
        };
        Ok(Engine {
            shared: Arc::new(shared),
        })
    }

    /// Log driver and options of containers that name none.
    pub fn default_log(&self) -> &LogConfig {
        &self.shared.config.default_log
    }

    /// The runtimes there are.
    pub fn runtimes(&self) -> Arc<Runtimes> {
        self.shared.runtimes.get()
    }

    /// Replaces the runtimes; containers that run keep theirs.
    pub fn set_runtimes(&self, runtimes: Runtimes) {
        self.shared.runtimes.set(runtimes);
    }

    /// Brings the current shard up: connects its keeper, adopts what runs, reconciles the records.
    /// Returns when every shard knows its containers.
    pub async fn boot_shard(&self) -> Result<BootReport, EngineError> {
        boot::boot_shard(self.shared.clone()).await
    }

    /// The daemon goes down: nothing new is started, streams of events end, and keepers without
    /// containers are sent away. Running containers go on.
    pub async fn shutdown(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.bus.close();
        for shard in 0..self.shared.config.shards {
            let told = on_shard(shard, |engine| async move {
                engine.released().await;
                let keepers = engine.keepers.borrow().clone();
                for keeper in keepers {
                    keeper.shutdown_if_empty().await?;
                }
                Ok(())
            });
            if let Err(e) = told.await {
                tracing::warn!(shard, error = %e, "a keeper was not told that the daemon ends");
            }
        }
    }

    /// Runs an operation on the owner shard of the container that `key` means.
    pub(crate) async fn on_owner<R, F, Fut>(&self, key: &str, f: F) -> Result<R, EngineError>
    where
        R: Send + 'static,
        F: FnOnce(std::rc::Rc<Container>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<R, EngineError>> + 'static,
    {
        let (shard, view) = self.shared.index.resolve(key)?;
        let id = view.id.clone();
        on_shard(
            shard,
            move |engine| async move { f(engine.get(&id)?).await },
        )
        .await
    }

    /// Makes a container.
    pub async fn create(&self, mut spec: CreateSpec) -> Result<Created, EngineError> {
        if self.shared.is_closing() {
            return Err(EngineError::Unavailable(
                "the daemon is shutting down".to_owned(),
            ));
        }
        self.runtimes().find(&spec.host.runtime)?;
        let image = self.shared.images.snapshot().resolve(&spec.config.image)?;
        // Until the container is visible to who removes images.
        let hold = self.shared.images.hold(&image.id)?;
        if let NetworkMode::Container(other) = &mut spec.host.network_mode
            && let Ok(view) = self.inspect(other)
        {
            // A name may come to mean another container.
            *other = view.id.to_string();
        }
        let mut warnings = create::check(&mut spec, &image, &self.shared)?;
        mounts::plan(&self.shared, &mut spec)?;
        let mounted = image_mount::hold(&self.shared, &mut spec.mounts)?;
        mounts::check_sources(&spec.mounts).await?;
        let quota = storage_quota::reserve(&self.shared, &spec.storage_options).await?;
        let id: ContainerId = ids::generate()?.into();
        warnings.extend(create::limit_warnings(&self.shared, &id, &spec.host).await);
        let shard = home_shard(&id, self.shared.config.shards);
        let new_id = id.clone();
        on_shard(shard, move |engine| async move {
            let made = create::create(engine, new_id, spec, image, quota).await;
            drop((hold, mounted));
            made
        })
        .await?;
        Ok(Created {
            id: id.to_string(),
            warnings,
        })
    }

    /// Starts it; `NotModified` if it runs.
    pub async fn start(&self, key: &str) -> Result<(), EngineError> {
        self.on_owner(key, |c| async move { start::start(&c).await })
            .await
    }

    /// Stops it: signal, grace, kill. `NotModified` if it does not run.
    pub async fn stop(&self, key: &str, options: StopOptions) -> Result<(), EngineError> {
        let view = self.inspect(key)?;
        self.on_owner(&view.id, |c| async move { stop::stop(&c, &options).await })
            .await
            .map_err(|e| e.prefixed(&format!("cannot stop container: {key}: ")))
    }

    /// Stops it if it runs, and starts it.
    pub async fn restart(&self, key: &str, options: StopOptions) -> Result<(), EngineError> {
        let view = self.inspect(key)?;
        self.on_owner(
            &view.id,
            |c| async move { stop::restart(&c, &options).await },
        )
        .await
        .map_err(|e| e.prefixed(&format!("Cannot restart container {key}: ")))
    }

    /// Sends a signal (name or number; empty means KILL).
    pub async fn kill(&self, key: &str, signal: &str) -> Result<(), EngineError> {
        let signal = signal.to_owned();
        self.on_owner(key, |c| async move { kill::kill(&c, &signal).await })
            .await
            .map_err(|e| e.prefixed(&format!("cannot kill container: {key}: ")))
    }

    /// Freezes its processes.
    pub async fn pause(&self, key: &str) -> Result<(), EngineError> {
        self.on_owner(key, |c| async move { freeze::pause(&c).await })
            .await
    }

    /// Thaws its processes.
    pub async fn unpause(&self, key: &str) -> Result<(), EngineError> {
        self.on_owner(key, |c| async move { freeze::unpause(&c).await })
            .await
    }

    /// Registers a wait; await the handle for the result.
    pub async fn wait(
        &self,
        key: &str,
        condition: WaitCondition,
    ) -> Result<WaitHandle, EngineError> {
        let (reply, receiver) = gantry_rt::reply::channel();
        self.on_owner(
            key,
            move |c| async move { wait::register(&c, condition, reply) },
        )
        .await?;
        Ok(WaitHandle::new(receiver))
    }

    /// Removes it.
    pub async fn remove(&self, key: &str, options: RemoveOptions) -> Result<(), EngineError> {
        let called = key.to_owned();
        self.on_owner(key, move |c| async move {
            remove::remove(&c, &called, options).await
        })
        .await
    }

    /// Gives it another name.
    pub async fn rename(&self, key: &str, new_name: &str) -> Result<(), EngineError> {
        let new_name = new_name.to_owned();
        self.on_owner(key, |c| async move { rename::rename(&c, &new_name).await })
            .await
    }

    /// Changes its limits and restart policy; durable when this returns.
    pub async fn update(&self, key: &str, change: UpdateSpec) -> Result<(), EngineError> {
        self.on_owner(key, |c| async move { update::update(&c, change).await })
            .await
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, key: &str, rows: u16, columns: u16) -> Result<(), EngineError> {
        self.on_owner(key, move |c| async move {
            c.running("")?.keeper.resize(&c.id, rows, columns).await?;
            c.event(
                "resize",
                &[("height", rows.to_string()), ("width", columns.to_string())],
            );
            Ok(())
        })
        .await
    }

    /// Its processes.
    pub async fn top(&self, key: &str, ps_args: &str) -> Result<Top, EngineError> {
        let ps_args = ps_args.to_owned();
        self.on_owner(key, |c| async move { top::top(&c, &ps_args).await })
            .await
    }

    /// Checks an attach; the connection is given to the ticket afterwards.
    pub async fn attach(
        &self,
        key: &str,
        options: AttachOptions,
    ) -> Result<AttachTicket, EngineError> {
        attach::parse_detach_keys(&options)?;
        let named = key.to_owned();
        self.on_owner(key, |c| async move { attach::check(&c, &named, options) })
            .await
    }

    /// Opens its log.
    pub async fn logs(&self, key: &str, options: LogsOptions) -> Result<LogStream, EngineError> {
        // Made on the owner: a client that hangs up before the answer arrives drops it there, and the log is closed.
        let opening = self.on_owner(key, |c| async move { logs::open(&c, &options) });
        LogStream::new(opening.await?)
    }

    /// The container with this id, name or unambiguous id prefix, as it is now.
    pub fn inspect(&self, key: &str) -> Result<Arc<ContainerView>, EngineError> {
        Ok(self.shared.index.resolve(key)?.1)
    }

    /// Containers that match, newest first.
    pub fn list(&self, options: &ListOptions) -> Result<Vec<Arc<ContainerView>>, EngineError> {
        let images = self.shared.images.snapshot();
        let ancestor_ids = |reference: &str| match images.resolve(reference) {
            Ok(image) => {
                let descends =
                    |other: &Arc<gantry_image::Image>| other.diff_ids.starts_with(&image.diff_ids);
                let mut ids: Vec<String> = images
                    .list()
                    .iter()
                    .filter(|i| descends(i))
                    .map(|i| i.id.to_string())
                    .collect();
                ids.push(image.id.to_string());
                ids
            }
            Err(_) => Vec::new(),
        };
        list::list(&self.shared.index, options, &ancestor_ids)
    }

    /// Past events that match, then new ones. The stream must be awaited on a shard.
    pub fn events(&self, query: &EventsQuery) -> Result<EventStream, EngineError> {
        self.shared.bus.subscribe(query)
    }

    /// Tells the world about an event of another kind of object (images).
    pub fn publish_event(
        &self,
        kind: &'static str,
        action: &str,
        id: &str,
        attributes: Vec<(String, String)>,
    ) {
        self.shared
            .bus
            .publish(kind, action.to_owned(), id.to_owned(), attributes);
    }

    /// Numbers for `/info`.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for view in self.shared.index.all() {
            counts.containers += 1;
            match view.state.status {
                Status::Running | Status::Restarting => counts.running += 1,
                Status::Paused => counts.paused += 1,
                _ => counts.stopped += 1,
            }
        }
        counts
    }

    /// Clients of the events stream that were ended because they fell behind.
    pub fn dropped_event_subscribers(&self) -> u64 {
        self.shared.bus.dropped_subscribers()
    }

    /// A container that uses this image: its id, and whether it runs (running ones first).
    pub fn image_user(&self, image_id: &str) -> Option<(ContainerId, bool)> {
        self.shared.image_user(image_id)
    }

    /// The shard that owns a container, for diagnostics.
    pub fn owner(&self, key: &str) -> Result<ShardId, EngineError> {
        Ok(ShardId(self.shared.index.resolve(key)?.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_shards_are_in_range_and_spread() {
        let mut seen = [0; 4];
        for _ in 0..400 {
            seen[home_shard(&ids::generate().unwrap(), 4)] += 1;
        }
        assert!(seen.iter().all(|n| *n > 40), "{seen:?}");
        assert_eq!(home_shard("short", 4), 0);
    }
}
