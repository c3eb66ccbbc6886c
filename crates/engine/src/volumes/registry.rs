//! Which volumes there are and who has them. Short locks, never held across an await or file work, but for the one that
//! serialises mounts, which only workers take.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gantry_store::{Store, Table};

use super::{VOLUME_VERSION, local, no_such_volume};
use crate::EngineError;
use crate::container::files::{TRASH_DIR, on_worker};
use crate::model::*;
use crate::shard::Shared;

/// How long a request waits for a volume that another one makes or removes.
const BUSY_LIMIT: Duration = Duration::from_secs(300);
/// How often it looks.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

struct Entry {
    volume: Arc<Volume>,
    users: BTreeSet<ContainerId>,
    /// It is being made or removed.
    busy: bool,
}

/// All volumes.
pub(crate) struct Volumes {
    data_root: PathBuf,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Containers that have a volume that is a file system of its own, from before the mount to their end.
    mounted: Mutex<BTreeMap<String, BTreeSet<ContainerId>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Volumes {
    /// Reads the records and finishes what a kill interrupted. Blocks.
    pub(crate) fn load(
        data_root: &Path,
        owner: Option<(u32, u32)>,
        store: &Store,
        users: BTreeMap<String, Vec<ContainerId>>,
    ) -> Result<Self, EngineError> {
        let volumes = Self {
            data_root: data_root.to_owned(),
            entries: Mutex::default(),
            mounted: Mutex::default(),
        };
        let top = volumes.top();
        local::make_top(&top)?;
        let mut entries = BTreeMap::new();
        for (name, bytes) in store.read_all(Table::Volumes)? {
            match serde_json::from_slice::<Volume>(&bytes) {
                Ok(volume) if volume.version <= VOLUME_VERSION => {
                    local::make_directory(&volumes.dir(&name), owner)?;
                    let users = users.get(&name).into_iter().flatten().cloned().collect();
                    let entry = Entry {
                        volume: Arc::new(volume),
                        users,
                        busy: false,
                    };
                    entries.insert(name, entry);
                }
                Ok(_) => {
                    tracing::error!(name, "a volume's record is of a newer daemon; left alone")
                }
                Err(e) => {
                    tracing::error!(name, error = %e, "a volume's record is not readable; left alone")
                }
            }
        }
        for name in users.keys().filter(|name| !entries.contains_key(*name)) {
            tracing::error!(name, "containers name a volume that has no record");
        }
        local::sweep(&top, &|name| entries.contains_key(name));
        *locked(&volumes.entries) = entries;
        Ok(volumes)
    }

    fn top(&self) -> PathBuf {
        self.data_root.join("volumes")
    }

    /// The directory of a volume.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.top().join(name)
    }

    /// Where a removed one is set aside.
    pub(crate) fn trash(&self, id: &str) -> PathBuf {
        self.data_root.join(TRASH_DIR).join(format!("volume-{id}"))
    }

    /// A volume that is there.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Volume>> {
        locked(&self.entries).get(name).map(|e| e.volume.clone())
    }

    pub(crate) fn users(&self, name: &str) -> Vec<ContainerId> {
        let entries = locked(&self.entries);
        let users = entries.get(name).map(|e| e.users.iter().cloned().collect());
        users.unwrap_or_default()
    }

    /// A container has it no more.
    pub(crate) fn release(&self, name: &str, id: &ContainerId) {
        if let Some(entry) = locked(&self.entries).get_mut(name) {
            entry.users.remove(id);
        }
    }

    fn view_of(&self, entry: &Entry) -> VolumeView {
        VolumeView {
            volume: entry.volume.clone(),
            mountpoint: self.dir(&entry.volume.name).join(local::DATA_DIR),
            users: entry.users.len(),
        }
    }

    pub(crate) fn view(&self, name: &str) -> Option<VolumeView> {
        let entries = locked(&self.entries);
        let entry = entries.get(name).filter(|e| !e.busy)?;
        Some(self.view_of(entry))
    }

    pub(crate) fn views(&self) -> Vec<VolumeView> {
        let entries = locked(&self.entries);
        let there = entries.values().filter(|e| !e.busy);
        there.map(|e| self.view_of(e)).collect()
    }

    /// Mounts a volume that is a file system of its own, for a container. Blocks.
    pub(crate) fn take(&self, volume: &Volume, id: &ContainerId) -> Result<(), EngineError> {
        let mut mounted = locked(&self.mounted);
        local::mount(self, volume)?;
        let users = mounted.entry(volume.name.clone()).or_default();
        users.insert(id.clone());
        Ok(())
    }

    /// A running container of an earlier daemon has these.
    pub(crate) fn took(&self, points: &[MountPoint], id: &ContainerId) {
        for volume in points.iter().filter_map(|p| self.get(&p.volume)) {
            if local::is_mounted_volume(&volume) {
                let mut mounted = locked(&self.mounted);
                let users = mounted.entry(volume.name.clone()).or_default();
                users.insert(id.clone());
            }
        }
    }

    /// A container needs the mount no more; the last one takes it away. Blocks.
    pub(crate) fn give_back(&self, volume: &Volume, id: &ContainerId) {
        let mut mounted = locked(&self.mounted);
        if let Some(users) = mounted.get_mut(&volume.name) {
            users.remove(id);
            if !users.is_empty() {
                return;
            }
        }
        mounted.remove(&volume.name);
        local::unmount(self, volume);
    }
}

/// Whether a volume was there.
pub(super) enum Begin {
    There(Arc<Volume>),
    New(NewVolume),
}

/// A volume that is being made; dropped unfinished, its directory and its name are given back.
pub(crate) struct NewVolume {
    shared: Arc<Shared>,
    volume: Arc<Volume>,
    finished: bool,
}

impl NewVolume {
    pub(super) fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Its record is durable. The name.
    pub(super) fn finish(mut self) -> String {
        self.finished = true;
        let name = self.volume.name.clone();
        if let Some(entry) = locked(&self.shared.volumes.entries).get_mut(&name) {
            entry.busy = false;
        }
        let dir = self.shared.volumes.dir(&name);
        gantry_rt::spawn("volume.settle", async move {
            if let Err(e) = on_worker(move || local::settle(&dir)).await {
                tracing::warn!(error = %e, "a volume's marker is left; the next start removes it");
            }
        });
        name
    }
}

impl Drop for NewVolume {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let (shared, name) = (self.shared.clone(), self.volume.name.clone());
        gantry_rt::spawn("volume.discard", async move {
            let dir = shared.volumes.dir(&name);
            if let Err(e) = on_worker(move || local::discard(&dir)).await {
                tracing::warn!(volume = name, error = %e, "a failed creation left a directory");
            }
            locked(&shared.volumes.entries).remove(&name);
        });
    }
}

/// A volume that is being removed; dropped unfinished, it stays.
pub(super) struct Removal {
    shared: Arc<Shared>,
    volume: Arc<Volume>,
}

impl Removal {
    pub(super) fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Its record is gone.
    pub(super) fn finish(self) {
        locked(&self.shared.volumes.entries).remove(&self.volume.name);
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        if let Some(entry) = locked(&self.shared.volumes.entries).get_mut(&self.volume.name) {
            entry.busy = false;
        }
    }
}

/// Looks for a result until there is one: `None` means that the volume is busy.
async fn when_free<T>(
    name: &str,
    mut look: impl FnMut() -> Result<Option<T>, EngineError>,
) -> Result<T, EngineError> {
    let wait = async {
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            gantry_rt::sleep(BUSY_PAUSE).await;
        }
    };
    gantry_rt::timeout(BUSY_LIMIT, wait)
        .await
        .map_err(|_| EngineError::Unavailable(format!("volume {name} is being made or removed")))?
}

pub(super) async fn begin(
    shared: &Arc<Shared>,
    volume: &Arc<Volume>,
    user: Option<&ContainerId>,
) -> Result<Begin, EngineError> {
    when_free(&volume.name, || {
        let mut entries = locked(&shared.volumes.entries);
        match entries.get_mut(&volume.name) {
            Some(entry) if entry.busy => Ok(None),
            Some(entry) => {
                entry.users.extend(user.cloned());
                Ok(Some(Begin::There(entry.volume.clone())))
            }
            None => {
                let entry = Entry {
                    volume: volume.clone(),
                    users: user.cloned().into_iter().collect(),
                    busy: true,
                };
                entries.insert(volume.name.clone(), entry);
                Ok(Some(Begin::New(NewVolume {
                    shared: shared.clone(),
                    volume: volume.clone(),
                    finished: false,
                })))
            }
        }
    })
    .await
}

pub(super) async fn begin_removal(
    shared: &Arc<Shared>,
    name: &str,
) -> Result<Removal, EngineError> {
    when_free(name, || {
        let mut entries = locked(&shared.volumes.entries);
        let entry = entries.get_mut(name).ok_or_else(|| no_such_volume(name))?;
        if entry.busy {
            return Ok(None);
        }
        if !entry.users.is_empty() {
            let users: Vec<&str> = entry.users.iter().map(|id| &**id).collect();
            return Err(EngineError::Conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        entry.busy = true;
        Ok(Some(Removal {
            shared: shared.clone(),
            volume: entry.volume.clone(),
        }))
    })
    .await
}
