//! Volumes of the driver `local`: a directory each under the data root, and a record in the store.
//!
//! A volume exists when its record does. Its directory is made before the record and set aside before the record is
//! deleted, so a kill in between leaves an empty directory at most, which the next start removes.

mod copy_up;
pub(crate) mod image_mount;
pub(crate) mod local;
mod registry;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use gantry_store::{Batch, Table};

use copy_up::copy_up;
pub(crate) use registry::Volumes;
use registry::{Begin, NewVolume};

use crate::container::files::on_worker;
use crate::engine::Engine;
use crate::model::*;
use crate::shard::{Shared, on_shard};
use crate::{EngineError, clock, ids};

/// Version of [`Volume`] on disk.
pub(crate) const VOLUME_VERSION: u32 = 1;

/// The volume of a spec, checked; its name is made up if it has none.
fn describe(spec: VolumeSpec, may_be_anonymous: bool) -> Result<Volume, EngineError> {
    let VolumeSpec {
        mut name,
        driver,
        mut labels,
        options,
    } = spec;
    if name.is_empty() && may_be_anonymous {
        name = ids::generate()?;
        labels
            .get_or_insert_default()
            .insert(ANONYMOUS_LABEL.to_owned(), String::new());
    }
    let prefix = format!("create {name}: ");
    if !matches!(driver.as_str(), "" | LOCAL_DRIVER) {
        return Err(EngineError::NotFound(format!(
            "{prefix}error looking up volume plugin {driver}: plugin \"{driver}\" not found"
        )));
    }
    local::check_name(&name).map_err(|e| e.prefixed(&prefix))?;
    Ok(Volume {
        version: VOLUME_VERSION,
        name,
        created_unix_s: clock::unix_ns().div_euclid(1_000_000_000),
        labels,
        options,
    })
}

/// The volume of this spec; made if there is none of that name. With a user it is in use from here on. The caller
/// makes a new one durable.
async fn get_or_make(
    shared: &Arc<Shared>,
    spec: VolumeSpec,
    user: Option<&ContainerId>,
) -> Result<(Arc<Volume>, Option<NewVolume>), EngineError> {
    let volume = Arc::new(describe(spec, true)?);
    match registry::begin(shared, &volume, user).await? {
        Begin::There(volume) => Ok((volume, None)),
        Begin::New(new) => {
            // Of a volume that is there the options do not matter.
            let prefix = format!("create {}: ", volume.name);
            local::check_options(volume.options.as_ref()).map_err(|e| e.prefixed(&prefix))?;
            let dir = shared.volumes.dir(&volume.name);
            let owner = shared.config.remap.as_ref().map(|remap| remap.root());
            on_worker(move || local::make_directory(&dir, owner))
                .await
                .map_err(|e| e.prefixed(&prefix))?;
            Ok((volume, Some(new)))
        }
    }
}

fn put(batch: &mut Batch, volume: &Volume) -> Result<(), EngineError> {
    let bytes = serde_json::to_vec(volume)
        .map_err(|e| EngineError::System(format!("encode a volume's record: {e}")))?;
    batch.put(Table::Volumes, volume.name.as_str(), bytes);
    Ok(())
}

/// What a container that is being made holds; dropped without [`Acquired::finish`] it gives everything back, and new
/// volumes are gone.
pub(crate) struct Acquired {
    shared: Arc<Shared>,
    id: ContainerId,
    used: Vec<String>,
    new: Vec<NewVolume>,
}

impl Acquired {
    /// Puts the new volumes' records beside the container's own.
    pub(crate) fn put(&self, batch: &mut Batch) -> Result<(), EngineError> {
        self.new.iter().try_for_each(|new| put(batch, new.volume()))
    }

    /// The records are durable.
    pub(crate) fn finish(mut self) {
        for new in self.new.drain(..) {
            let name = new.finish();
            event(&self.shared, "create", &name, &[]);
        }
        self.used.clear();
    }

    /// Whether nobody but this container can have seen the volume.
    fn is_new(&self, name: &str) -> bool {
        self.new.iter().any(|n| n.volume().name == name)
    }
}

impl Drop for Acquired {
    fn drop(&mut self) {
        for name in &self.used {
            self.shared.volumes.release(name, &self.id);
        }
    }
}

/// Gets every volume of a container that is being made, and gives anonymous ones their names.
pub(crate) async fn acquire(
    shared: &Arc<Shared>,
    id: &ContainerId,
    requests: Vec<MountRequest>,
) -> Result<(Acquired, Vec<MountPoint>), EngineError> {
    let mut acquired = Acquired {
        shared: shared.clone(),
        id: id.clone(),
        used: Vec::new(),
        new: Vec::new(),
    };
    let mut points = Vec::with_capacity(requests.len());
    for request in requests {
        let mut point = request.point;
        let is_volume = point.kind == MountKind::Volume;
        if is_volume && !acquired.used.contains(&point.volume) {
            let spec = VolumeSpec {
                name: point.volume.clone(),
                driver: request.driver,
                labels: request.labels,
                options: request.options,
            };
            let (volume, new) = get_or_make(shared, spec, Some(id)).await?;
            point.volume.clone_from(&volume.name);
            acquired.used.push(volume.name.clone());
            acquired.new.extend(new);
        }
        if is_volume {
            let data = shared.volumes.dir(&point.volume).join(local::DATA_DIR);
            point.source = data.to_string_lossy().into_owned();
        }
        points.push(point);
    }
    Ok((acquired, points))
}

/// Fills empty volumes with what the image has at their place.
pub(crate) async fn populate(
    acquired: &Acquired,
    fixed: &FixedView,
    image: &Arc<gantry_image::Image>,
) -> Result<(), EngineError> {
    let shared = &acquired.shared;
    let mut jobs = Vec::new();
    for point in fixed.host.mounts.iter().filter(|p| p.copy_up) {
        let Some(volume) = shared.volumes.get(&point.volume) else {
            continue;
        };
        let alone = acquired.is_new(&point.volume)
            || shared.volumes.users(&point.volume) == [acquired.id.clone()];
        jobs.push(copy_up::Job {
            place: local::place(&shared.volumes, &volume),
            target: point.target.clone(),
            alone,
            // A declared path (not one that the client mounts) may not be a file.
            declared: point.anonymous && point.mode.is_empty(),
        });
    }
    if jobs.is_empty() {
        return Ok(());
    }
    let (shared, image) = (shared.clone(), image.clone());
    let (upper, work) = (fixed.upper_path(), fixed.work_path());
    let remap = shared.config.remap_of(&fixed.host).cloned();
    let copy = move || {
        let lowers = shared.lowers_of(&image)?;
        let root = gantry_launch::RootfsSpec {
            lowers,
            upper,
            work,
            volatile: false,
            remap,
        };
        copy_up(&root, &jobs)
    };
    let job = gantry_rt::workers::run_long("volume-copy", copy)
        .map_err(|e| EngineError::Unavailable(e.to_string()))?;
    job.await.map_err(|e| EngineError::System(e.to_string()))?
}

/// A container is gone: its volumes are no longer in use, and with `remove` the anonymous ones go too, as far as no
/// other container has them.
pub(crate) async fn release(
    shared: &Arc<Shared>,
    id: &ContainerId,
    points: &[MountPoint],
    remove: bool,
) {
    let volumes = points.iter().filter(|p| p.kind == MountKind::Volume);
    for point in volumes.clone() {
        shared.volumes.release(&point.volume, id);
    }
    for point in volumes.filter(|p| remove && p.anonymous) {
        match remove_volume(shared, &point.volume).await {
            // Somebody else has it, or has removed it.
            Ok(()) | Err(EngineError::Conflict(_) | EngineError::NotFound(_)) => {}
            Err(e) => {
                tracing::error!(volume = point.volume, error = %e, "an anonymous volume is left")
            }
        }
    }
}

async fn remove_volume(shared: &Arc<Shared>, name: &str) -> Result<(), EngineError> {
    let removal = registry::begin_removal(shared, name).await?;
    let trash = {
        let (place, volume) = (shared.volumes.dir(name), removal.volume().clone());
        let trash = shared.volumes.trash(&ids::generate()?);
        let target = trash.clone();
        let volumes = shared.clone();
        on_worker(move || {
            local::unmount(&volumes.volumes, &volume);
            local::set_aside(&place, &target)
        })
        .await?;
        trash
    };
    let mut batch = Batch::new();
    batch.delete(Table::Volumes, name);
    if let Err(e) = shared.store.commit(batch).await {
        let back = shared.volumes.dir(name);
        on_worker(move || local::set_aside(&trash, &back)).await?;
        return Err(e.into());
    }
    removal.finish();
    event(shared, "destroy", name, &[]);
    gantry_rt::spawn("volume.delete-tree", async move {
        let deleted = on_worker(move || crate::container::files::delete_tree(&trash)).await;
        if let Err(e) = deleted {
            tracing::warn!(error = %e, "a removed volume's tree is left; it is deleted at the next boot");
        }
    });
    Ok(())
}

/// Tells of a volume.
fn event(shared: &Shared, action: &str, name: &str, extra: &[(&str, String)]) {
    let mut attributes = vec![("driver".to_owned(), LOCAL_DRIVER.to_owned())];
    attributes.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
    shared
        .bus
        .publish("volume", action.to_owned(), name.to_owned(), attributes);
}

/// Tells that a container has its volumes mounted.
pub(crate) fn announce_mounts(shared: &Shared, id: &ContainerId, points: &[MountPoint]) {
    for point in points.iter().filter(|p| p.kind == MountKind::Volume) {
        event(
            shared,
            "mount",
            &point.volume,
            &[
                ("container", id.to_string()),
                ("destination", point.target.clone()),
                ("propagation", point.propagation.clone()),
                ("read/write", (!point.readonly).to_string()),
            ],
        );
    }
}

/// Tells that it has them no more.
pub(crate) fn announce_unmounts(shared: &Shared, id: &ContainerId, points: &[MountPoint]) {
    for point in points.iter().filter(|p| p.kind == MountKind::Volume) {
        let container = [("container", id.to_string())];
        event(shared, "unmount", &point.volume, &container);
    }
}

/// Takes volumes that are a file system of their own from the host's mount table when their last container has ended.
pub(crate) async fn unmount_unused(container: &Rc<crate::container::Container>) {
    let shared = container.shard.shared.clone();
    let special: Vec<Arc<Volume>> = container
        .fixed
        .host
        .mounts
        .iter()
        .filter_map(|p| shared.volumes.get(&p.volume))
        .filter(|v| local::is_mounted_volume(v))
        .collect();
    if special.is_empty() {
        return;
    }
    let id = container.id.clone();
    let done = on_worker(move || {
        for volume in special {
            shared.volumes.give_back(&volume, &id);
        }
        Ok(())
    });
    if let Err(e) = done.await {
        tracing::warn!(id = %container.id, error = %e, "volumes stay mounted");
    }
}

impl Engine {
    /// Makes a volume, or gives the one that has the name.
    pub async fn volume_create(&self, spec: VolumeSpec) -> Result<VolumeView, EngineError> {
        let shared = self.shared.clone();
        // A task of its own: a client that hangs up does not stop it half way.
        let name = on_shard(gantry_rt::current_shard().0, move |_| async move {
            let (volume, new) = get_or_make(&shared, spec, None).await?;
            if let Some(new) = new {
                let mut batch = Batch::new();
                put(&mut batch, &volume)?;
                shared.store.commit(batch).await?;
                let name = new.finish();
                event(&shared, "create", &name, &[]);
            }
            Ok(volume.name.clone())
        })
        .await?;
        self.volume(&name)
    }

    /// The volume of this name.
    pub fn volume(&self, name: &str) -> Result<VolumeView, EngineError> {
        self.shared
            .volumes
            .view(name)
            .ok_or_else(|| no_such_volume(name))
    }

    /// All volumes, by name.
    pub fn volumes(&self) -> Vec<VolumeView> {
        self.shared.volumes.views()
    }

    /// Removes a volume that no container has. With `force` one that is not there is no error.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<(), EngineError> {
        let (shared, wanted) = (self.shared.clone(), name.to_owned());
        let removed = on_shard(gantry_rt::current_shard().0, move |_| async move {
            remove_volume(&shared, &wanted).await
        });
        match removed.await {
            Err(EngineError::NotFound(_)) if force => Ok(()),
            other => other,
        }
    }
}

fn no_such_volume(name: &str) -> EngineError {
    EngineError::NotFound(format!("get {name}: no such volume"))
}

/// Names of the volumes of records, with the containers that have them.
pub(crate) fn users_of<'r>(
    records: impl Iterator<Item = &'r ContainerRecord>,
) -> BTreeMap<String, Vec<ContainerId>> {
    let mut users: BTreeMap<String, Vec<ContainerId>> = BTreeMap::new();
    for record in records {
        for point in &record.host.mounts {
            if point.kind == MountKind::Volume {
                let id = record.id.as_str().into();
                users.entry(point.volume.clone()).or_default().push(id);
            }
        }
    }
    users
}
