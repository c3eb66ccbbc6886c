//! The engine's part on one shard, and what all shards share.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gantry_image::{Image, ImageStore};
use gantry_launch::Lower;
use gantry_rt::ShardId;
use gantry_rt::mailbox::{self, CallError};
use gantry_store::Store;
use rustc_hash::FxHashMap;

use crate::accounts_cache::AccountsCache;
use crate::boot::BootPlan;
use crate::config::EngineConfig;
use crate::container::Container;
use crate::container::later::{self, Later};
use crate::container::logs::OpenLogs;
use crate::container::remember::{self, Unremembered};
use crate::events::Bus;
use crate::exec::index::ExecIndex;
use crate::index::Index;
use crate::journal::{JournalEntry, StateJournal};
use crate::keeper::KeeperLink;
use crate::launch_spec::SeccompCache;
use crate::model::ContainerId;
use crate::oom::OomWatcher;
use crate::runtimes::Chosen;
use crate::storage_quota::StorageQuotas;
use crate::volumes::{Volumes, image_mount};
use crate::{EngineError, health};

/// What all shards share; `Send + Sync`.
pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) store: Store,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) volumes: Volumes,
    pub(crate) index: Index,
    pub(crate) bus: Bus,
    pub(crate) seccomp: SeccompCache,
    pub(crate) accounts: AccountsCache,
    pub(crate) quotas: StorageQuotas,
    pub(crate) runtimes: Chosen,
    pub(crate) execs: ExecIndex,
    pub(crate) boot: BootPlan,
    /// The daemon goes down: nothing new is started, containers go on.
    pub(crate) closing: AtomicBool,
}

impl Shared {
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The layers of an image for the launcher, top first. Blocks.
    pub(crate) fn layers_of(&self, image: &Image) -> Result<Vec<Lower>, EngineError> {
        let layers = self.images.rootfs(image)?.into_iter();
        let lower = |layer| match layer {
            gantry_image::layer::Lower::Dir(path) => Lower::from(path),
            gantry_image::layer::Lower::Mount(mount) => Lower::mounted(mount),
        };
        Ok(layers.map(lower).collect())
    }

    /// What lies below a container of an image, top first. Blocks.
    pub(crate) fn lowers_of(&self, image: &Image) -> Result<Vec<Lower>, EngineError> {
        let mut lowers = self.layers_of(image)?;
        lowers.push(self.config.init_layer_dir().into());
        Ok(lowers)
    }

    /// A container that was made from this image or mounts it, a running one first, and whether it runs.
    pub(crate) fn image_user(&self, image_id: &str) -> Option<(ContainerId, bool)> {
        self.index
            .all()
            .into_iter()
            .filter(|view| image_mount::uses(&view.fixed, image_id))
            .map(|view| (view.id.clone(), view.state.status.is_alive()))
            .max_by_key(|(_, runs)| *runs)
    }

    /// Deletes images that were removed while containers used them, and that none uses any more. Blocks.
    pub(crate) fn reap_images(&self) -> Result<(), EngineError> {
        let users = |id: &String| {
            self.image_user(id)
                .map(|(user, runs)| (user.to_string(), runs))
        };
        Ok(self.images.reap(&users)?)
    }
}

thread_local! {
    static SHARD: OnceCell<Rc<ShardEngine>> = const { OnceCell::new() };
}

/// How long the end of the daemon waits for ended containers to be put away.
const RELEASE_WAIT: Duration = Duration::from_secs(2);
/// How often it looks.
const RELEASE_POLL: Duration = Duration::from_millis(5);

/// The engine on this shard: owner of its containers.
pub(crate) struct ShardEngine {
    pub(crate) id: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) containers: RefCell<FxHashMap<ContainerId, Rc<Container>>>,
    /// The first one launches; further ones are left from a daemon with more shards.
    pub(crate) keepers: RefCell<Vec<Rc<KeeperLink>>>,
    pub(crate) journal: RefCell<StateJournal>,
    pub(crate) open_logs: OpenLogs,
    /// Its containers that may be killed for lack of memory.
    pub(crate) oom: OomWatcher,
    /// When its containers are probed.
    pub(crate) health: health::clock::Clock,
    /// Whose start is not on disk yet.
    pub(crate) unremembered: Unremembered,
    /// What is to be done with them in a while.
    pub(crate) later: Later,
    pub(crate) booted: Cell<bool>,
}

impl ShardEngine {
    /// Makes the engine of the current shard; once.
    pub(crate) fn install(
        shared: Arc<Shared>,
        journal: StateJournal,
    ) -> Result<Rc<Self>, EngineError> {
        let oom = OomWatcher::new(shared.seccomp.hierarchy.version())?;
        let shard = Rc::new(Self {
            id: gantry_rt::current_shard().0,
            shared,
            containers: RefCell::default(),
            keepers: RefCell::default(),
            journal: RefCell::new(journal),
            open_logs: OpenLogs::default(),
            oom,
            health: health::clock::Clock::default(),
            unremembered: Unremembered::default(),
            later: Later::default(),
            booted: Cell::new(false),
        });
        SHARD.with(|slot| slot.set(shard.clone())).map_err(|_| {
            EngineError::System("the engine was booted twice on a shard".to_owned())
        })?;
        Ok(shard)
    }

    /// The engine of the current shard.
    pub(crate) fn current() -> Result<Rc<Self>, EngineError> {
        SHARD
            .with(|slot| slot.get().cloned())
            .filter(|shard| shard.booted.get())
            .ok_or_else(|| {
                EngineError::Unavailable("the engine is not up yet on this shard".to_owned())
            })
    }

    /// Has the starts of the last second recorded, and waits until every run that has ended gave back what it held, at
    /// most [`RELEASE_WAIT`].
    pub(crate) async fn released(&self) {
        remember::settle(self).await;
        later::settle(self).await;
        let releasing = || {
            let containers = self.containers.borrow();
            containers.values().any(|c| c.releasing.get())
        };
        let wait = async {
            while releasing() {
                gantry_rt::sleep(RELEASE_POLL).await;
            }
        };
        if gantry_rt::timeout(RELEASE_WAIT, wait).await.is_err() {
            tracing::warn!("an ended container is still being put away; the next daemon goes on");
        }
    }

    pub(crate) fn get(&self, id: &str) -> Result<Rc<Container>, EngineError> {
        self.containers
            .borrow()
            .get(id)
            .cloned()
            .ok_or_else(|| EngineError::NoSuchContainer(id.to_owned()))
    }

    /// Whether a container that something is left of does not run, and whether it is this shard's to put away.
    pub(crate) fn has_left(&self, id: &str) -> bool {
        match self.get(id) {
            Ok(container) => !container.has_process(),
            // Of nobody: a removal's, or of a record that is lost.
            Err(_) => {
                let home = crate::engine::home_shard(id, self.shared.config.shards);
                home == self.id && !self.shared.boot.is_adopted(id)
            }
        }
    }

    /// The keeper that launches.
    pub(crate) fn keeper(&self) -> Result<Rc<KeeperLink>, EngineError> {
        self.keepers
            .borrow()
            .first()
            .cloned()
            .ok_or_else(|| EngineError::Unavailable("this shard has no keeper".to_owned()))
    }

    /// Makes a state survive a kill. Rewrites the journal when it has grown too long.
    pub(crate) fn journal_append(&self, entry: &JournalEntry) -> Result<(), EngineError> {
        let mut journal = self.journal.borrow_mut();
        journal.append(entry)?;
        if journal.wants_compaction() {
            let entries: Vec<_> = self
                .containers
                .borrow()
                .values()
                .filter(|c| *c.id != *entry.id)
                .map(|c| c.journal_entry())
                .chain([entry.clone()])
                .collect();
            if let Err(e) = journal.compact(&entries) {
                tracing::warn!(error = %e, "the state journal can't be rewritten; it goes on growing");
            }
        }
        Ok(())
    }
}

/// Runs a future on a shard's engine as a task of its own: a client that hangs up does not stop it
/// half way.
pub(crate) async fn on_shard<R, F>(
    shard: usize,
    f: impl FnOnce(Rc<ShardEngine>) -> F + Send + 'static,
) -> Result<R, EngineError>
where
    R: Send + 'static,
    F: Future<Output = Result<R, EngineError>> + 'static,
{
    mailbox::call(ShardId(shard), move || async move {
        f(ShardEngine::current()?).await
    })
    .await
    .map_err(call_error)?
}

pub(crate) fn call_error(error: CallError) -> EngineError {
    match error {
        CallError::Full => EngineError::Unavailable(error.to_string()),
        CallError::Lost => EngineError::System(error.to_string()),
    }
}
