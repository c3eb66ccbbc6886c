//! Coming up: records, keepers, what runs, what was lost.

mod adopt;
mod keepers;
mod rescue;
pub(crate) mod untaken;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_cgroup::Group;
use gantry_launch::{AdoptedContainer, Bundle};
use gantry_rt::reply::ReplySender;
use gantry_store::{Store, Table};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::config::EngineConfig;
use crate::container::{Container, exit, external, files, hooks, remove, ship, start};
use crate::journal::{self, JournalEntry, StateJournal};
use crate::keeper::KeeperLink;
use crate::launch_spec::cgroup_parent;
use crate::model::*;
use crate::shard::{ShardEngine, Shared};
use crate::volumes::image_mount;
use crate::{EngineError, backoff, clock, exec, health, oom, volumes};

use adopt::Slot;
pub(crate) use adopt::end_unknown;
use rescue::Rescued;
use untaken::Kept;

/// What a shard found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BootReport {
    /// Containers of this shard.
    pub containers: usize,
    /// Running ones that were taken over.
    pub adopted: usize,
    /// Running ones of which nothing was found.
    pub lost: usize,
}

/// What is known before the shards run, and where they meet.
pub(crate) struct BootPlan {
    records: Mutex<FxHashMap<String, ContainerRecord>>,
    meeting: Mutex<Meeting>,
}

#[derive(Default)]
struct Meeting {
    /// Containers that a shard's keepers know.
    adopted: FxHashMap<String, usize>,
    arrived: usize,
    waiting: Vec<ReplySender<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl BootPlan {
    /// Reads store and journals. Blocks.
    pub(crate) fn load(config: &EngineConfig, store: &Store) -> Result<Self, EngineError> {
        for dir in [
            config.containers_dir(),
            config.data_root.join(files::TRASH_DIR),
            exec::note::dir(config),
        ] {
            std::fs::create_dir_all(&dir)
                .map_err(|e| EngineError::io(format!("make directory {}", dir.display()), e))?;
        }
        let names = config.runtimes.external.keys().map(String::as_str);
        Bundle::make_roots(&config.exec_root, names)
            .map_err(|e| EngineError::io("make the directories of bundles", e))?;
        let stored = store.read_all(Table::Containers)?;
        if !stored.is_empty() {
            let known: FxHashSet<&str> = stored.iter().map(|(id, _)| id.as_str()).collect();
            discard_unborn(config, &known)?;
        }
        let trash = config.data_root.join(files::TRASH_DIR);
        files::delete_tree(&trash)?;
        std::fs::create_dir_all(&trash)
            .map_err(|e| EngineError::io(format!("make directory {}", trash.display()), e))?;
        let mut records = FxHashMap::default();
        for (id, bytes) in stored {
            match serde_json::from_slice::<ContainerRecord>(&bytes) {
                Ok(record) if record.version <= RECORD_VERSION => {
                    records.insert(id, record);
                }
                Ok(record) => tracing::error!(
                    id,
                    version = record.version,
                    "a record is of a newer daemon; left alone"
                ),
                Err(e) => tracing::error!(id, error = %e, "a record is not readable; left alone"),
            }
        }
        for entry in journal_entries(config)? {
            if let Some(record) = records.get_mut(&entry.id) {
                apply(record, entry);
            }
        }
        Ok(Self {
            records: Mutex::new(records),
            meeting: Mutex::default(),
        })
    }

    /// Waits until every shard has said what its keepers know.
    async fn meet(
        &self,
        shards: usize,
        shard: usize,
        adopted: &[(Rc<KeeperLink>, AdoptedContainer)],
    ) {
        let (reply, receiver) = gantry_rt::reply::channel();
        let everybody = {
            let mut meeting = locked(&self.meeting);
            meeting
                .adopted
                .extend(adopted.iter().map(|(_, a)| (a.id.clone(), shard)));
            meeting.arrived += 1;
            meeting.waiting.push(reply);
            if meeting.arrived >= shards {
                std::mem::take(&mut meeting.waiting)
            } else {
                Vec::new()
            }
        };
        for reply in everybody {
            reply.send(());
        }
        if receiver.await.is_err() {
            tracing::error!("the shards did not meet at boot");
        }
    }

    /// A container that uses this image and is not taken yet.
    pub(crate) fn user_of_image(&self, image_id: &str) -> Option<String> {
        locked(&self.records)
            .values()
            .find(|record| {
                record.image_id == image_id || image_mount::mounts(&record.host, image_id)
            })
            .map(|record| record.id.clone())
    }

    /// Quotas that containers have.
    pub(crate) fn storage_quotas(&self) -> Vec<StorageQuota> {
        let records = locked(&self.records);
        let quotas = records.values().map(|record| record.host.storage_quota);
        quotas.flatten().collect()
    }

    /// Volumes that containers name, before any container is taken.
    pub(crate) fn volume_users(&self) -> BTreeMap<String, Vec<ContainerId>> {
        volumes::users_of(locked(&self.records).values())
    }

    /// Whether a keeper has it; known when the shards have met.
    pub(crate) fn is_adopted(&self, id: &str) -> bool {
        locked(&self.meeting).adopted.contains_key(id)
    }

    /// Takes the records of one shard: what its keepers know, and what hashes to it and no keeper knows.
    fn take_records(&self, shards: usize, shard: usize) -> Vec<ContainerRecord> {
        let meeting = locked(&self.meeting);
        let mut records = locked(&self.records);
        let mine: Vec<String> = records
            .keys()
            .filter(|id| {
                let owner = meeting.adopted.get(*id).copied();
                owner.unwrap_or_else(|| crate::engine::home_shard(id, shards)) == shard
            })
            .cloned()
            .collect();
        mine.iter().filter_map(|id| records.remove(id)).collect()
    }
}

/// The newest entry of every container in all journals, also those of a daemon with more shards.
fn journal_entries(config: &EngineConfig) -> Result<Vec<JournalEntry>, EngineError> {
    let mut newest: BTreeMap<String, JournalEntry> = BTreeMap::new();
    let listed = std::fs::read_dir(&config.exec_root)
        .map_err(|e| EngineError::io(format!("read {}", config.exec_root.display()), e))?;
    for file in listed {
        let path = file
            .map_err(|e| EngineError::io("read exec-root", e))?
            .path();
        if path.extension().is_none_or(|e| e != "journal") {
            continue;
        }
        for entry in journal::read(&path)? {
            let newer = newest
                .get(&entry.id)
                .is_none_or(|old| old.state.sequence < entry.state.sequence);
            if newer {
                newest.insert(entry.id.clone(), entry);
            }
        }
    }
    Ok(newest.into_values().collect())
}

fn apply(record: &mut ContainerRecord, entry: JournalEntry) {
    if entry.state.sequence > record.state.sequence {
        record.state = entry.state;
        record.restart_count = entry.restart_count;
    }
}

/// Directories of creates that an earlier daemon died in before the record was committed: nobody was told of them.
/// One that has anything in it is left alone, and all are if there is no record at all: the database may be lost, and
/// then the copies of the records in them are all there is.
fn discard_unborn(config: &EngineConfig, known: &FxHashSet<&str>) -> Result<(), EngineError> {
    let failed = |e| EngineError::io("look for directories without a record", e);
    for dir in std::fs::read_dir(config.containers_dir()).map_err(failed)? {
        let dir = dir.map_err(failed)?.path();
        let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if known.contains(name) || !files::was_never_started(&dir) {
            continue;
        }
        tracing::info!(
            id = name,
            "the directory of a create that was never answered is removed"
        );
        let trash = config.data_root.join(files::TRASH_DIR).join(name);
        std::fs::rename(&dir, trash).map_err(failed)?;
    }
    Ok(())
}

/// Brings the current shard up.
pub(crate) async fn boot_shard(shared: Arc<Shared>) -> Result<BootReport, EngineError> {
    let id = gantry_rt::current_shard().0;
    let journal = StateJournal::open(&shared.config.journal_path(id))?;
    let shard = ShardEngine::install(shared.clone(), journal)?;
    let adopted = keepers::connect(&shard).await?;
    shared.boot.meet(shared.config.shards, id, &adopted).await;
    let containers: Vec<Rc<Container>> = shared
        .boot
        .take_records(shared.config.shards, id)
        .into_iter()
        .map(|record| Container::new(&shard, record))
        .collect();
    register(&shard, &containers);
    // Before any of them can end.
    for container in &containers {
        if container.status().is_alive() {
            shared
                .volumes
                .took(&container.fixed.host.mounts, &container.id);
        }
    }
    let report = settle(&shard, &containers, adopted).await;
    external::sweep(&shard).await;
    hooks::sweep(&shard).await;
    containers.iter().for_each(Container::begin_health_anew);
    containers.iter().for_each(oom::watch_later);
    remove_left_groups(&shard, &containers).await;
    let views = containers.iter().map(|c| Arc::new(c.view())).collect();
    shared.index.publish_all(id, views);
    shard.booted.set(true);
    compact(&shard, &containers);
    let links = shard.keepers.borrow().clone();
    for keeper in &links {
        keeper.run(&shard);
    }
    keepers::dismiss_spent(&shard).await;
    gantry_rt::spawn("exec.sweep", exec::gc::run(shard.clone()));
    gantry_rt::spawn("oom.look", oom::run(shard.clone()));
    gantry_rt::spawn("health.clock", health::clock::run(shard.clone()));
    continue_lives(&shard, &containers);
    Ok(report)
}

fn register(shard: &Rc<ShardEngine>, containers: &[Rc<Container>]) {
    for container in containers {
        shard
            .containers
            .borrow_mut()
            .insert(container.id.clone(), container.clone());
        let name = container.name();
        if let Err(holder) = shard.shared.index.reserve_name(&name, &container.id) {
            tracing::error!(id = %container.id, %name, %holder, "two containers have the same name");
        }
    }
}

/// Rewrites the journal with the present states: entries of other files are in it from here on.
fn compact(shard: &Rc<ShardEngine>, containers: &[Rc<Container>]) {
    let entries: Vec<JournalEntry> = containers.iter().map(|c| c.journal_entry()).collect();
    if let Err(e) = shard.journal.borrow_mut().compact(&entries) {
        tracing::warn!(error = %e, "the state journal can't be rewritten; it goes on growing");
    }
}

/// Adopts what runs, records what ended meanwhile, declares what is lost.
async fn settle(
    shard: &Rc<ShardEngine>,
    containers: &[Rc<Container>],
    adopted: Vec<(Rc<KeeperLink>, AdoptedContainer)>,
) -> BootReport {
    let mut report = BootReport {
        containers: containers.len(),
        ..BootReport::default()
    };
    let (execs, adopted): (Vec<_>, Vec<_>) = adopted
        .into_iter()
        .partition(|(_, found)| exec::parse_key(&found.id).is_some());
    for (link, found) in adopted {
        let Ok(container) = shard.get(&found.id) else {
            adopt::abandon_unknown(shard, &link, &found).await;
            continue;
        };
        match adopt::adopt(&container, &link, found.clone(), Slot::Kept).await {
            Ok(true) => report.adopted += 1,
            Ok(false) => {}
            Err(e) if link.client().is_gone() => {
                tracing::error!(id = %container.id, error = %e, "a keeper died while a container was taken over from it");
            }
            Err(e) => {
                let kept = Kept::new(link, found, Slot::Kept);
                untaken::leave(&container, Some(kept), &e);
            }
        }
    }
    for container in containers {
        if !container.status().is_alive() || container.has_process() {
            continue;
        }
        match rescue::rescue(shard, container).await {
            Ok(Rescued::Taken) => report.adopted += 1,
            Ok(Rescued::Gone) => {
                report.lost += 1;
                declare_lost(container).await;
            }
            Ok(Rescued::Kept(kept, e)) => untaken::leave(container, Some(kept), &e),
            Err(e) => untaken::leave(container, None, &e),
        }
    }
    exec::adopt::adopt_all(shard, containers, execs).await;
    rescue::remove_left_spills(shard, containers).await;
    report
}

async fn declare_lost(container: &Rc<Container>) {
    let error =
        "the container ended while the daemon and its keeper were away; its exit code is unknown"
            .to_owned();
    let recorded = container.transition(Status::Exited, |state| {
        state.pid = 0;
        state.exit_code = exit::EXIT_LOST;
        state.error = error;
        state.finished_unix_ns = clock::unix_ns();
    });
    if let Err(e) = recorded {
        tracing::error!(id = %container.id, error = %e, "a lost container could not be recorded");
        return;
    }
    if let Err(e) = exit::store_present(container).await {
        tracing::error!(id = %container.id, error = %e, "a lost container could not be made durable");
    }
}

/// Removes the control groups of containers that do not run: of lost ones, and of starts and exits in the midst of
/// which an earlier daemon died. Whatever still lives in one is of no run that is known.
async fn remove_left_groups(shard: &Rc<ShardEngine>, containers: &[Rc<Container>]) {
    let ended = containers.iter().filter(|c| !c.has_process());
    let names: Vec<(String, String)> = ended
        .map(|c| {
            let parent = cgroup_parent(&shard.shared, &c.fixed.host);
            (parent, c.id.to_string())
        })
        .collect();
    remove_groups(shard, names).await;
}

async fn remove_groups(shard: &Rc<ShardEngine>, names: Vec<(String, String)>) {
    let hierarchy = shard.shared.seccomp.hierarchy.clone();
    let cleaned = files::on_worker(move || {
        for (parent, id) in names {
            // Usually there is none.
            let Ok(group) = Group::open(&hierarchy, &parent, &id) else {
                continue;
            };
            match group.kill_all().and_then(|()| group.remove()) {
                Ok(()) => tracing::info!(%id, "a left control group is removed"),
                Err(e) => tracing::warn!(%id, error = %e, "a control group is left"),
            }
        }
        Ok(())
    });
    if let Err(e) = cleaned.await {
        tracing::warn!(error = %e, "left control groups can't be removed");
    }
}

/// Finishes removals that were under way, and starts what its policy wants.
fn continue_lives(shard: &Rc<ShardEngine>, containers: &[Rc<Container>]) {
    for container in containers {
        let status = container.status();
        let (exit_code, attempts, manually) = {
            let inner = container.inner.borrow();
            let state = &inner.state;
            (state.exit_code, inner.restart_count, state.manually_stopped)
        };
        let policy = container.settings().host.restart;
        if status == Status::Removing
            || (status == Status::Exited && container.fixed.host.auto_remove)
        {
            remove::finish_later(container);
        } else if status == Status::Restarting {
            start::schedule_restart(container, Duration::ZERO);
        } else if status == Status::Exited
            && backoff::starts_at_boot(policy, exit_code, attempts, manually)
        {
            start::start_later(container);
        } else if !status.is_alive() {
            ship::resume_later(container);
        }
    }
    tracing::debug!(
        shard = shard.id,
        containers = containers.len(),
        "shard is up"
    );
}
