//! Which mounts a container gets, and how they go to the launcher.

use std::collections::BTreeSet;
use std::path::Path;

use gantry_launch::{BindMount, Propagation, Readonly, TmpfsMount};

use crate::cdi::Edits;
use crate::container::files::on_worker;
use crate::model::*;
use crate::shard::Shared;
use crate::volumes::{image_mount, local};
use crate::{EngineError, command};

/// Most mounts of one container: what one launch can carry is less than that times two.
const MAX_MOUNTS: usize = 512;
/// What a bind mount has that asks for no other.
const DEFAULT_PROPAGATION: &str = "rprivate";

/// Puts together what the client asks for, what it takes over from other containers, and what is declared as a volume
/// and not mounted otherwise. Nothing is changed.
pub(crate) fn plan(shared: &Shared, spec: &mut CreateSpec) -> Result<(), EngineError> {
    let mut all: Vec<MountRequest> = Vec::new();
    for from in &spec.volumes_from {
        let view = match shared.index.resolve(&from.container) {
            Ok((_, view)) => view,
            Err(e) => return Err(EngineError::InvalidParameter(e.to_string())),
        };
        for point in &view.fixed.host.mounts {
            // Of two that name the same place the later one counts.
            all.retain(|other| other.point.target != point.target);
            all.push(taken_over(point, from.readonly));
        }
    }
    let mut own: BTreeSet<&str> = BTreeSet::new();
    let tmpfs = |target: &str| {
        let mut paths = spec.host.tmpfs.keys();
        paths.any(|path| command::clean_path(path) == target)
    };
    for request in &spec.mounts {
        let target = request.point.target.as_str();
        if !own.insert(target) || (tmpfs(target) && !request.detailed) {
            return Err(EngineError::InvalidParameter(format!(
                "Duplicate mount point: {target}"
            )));
        }
        all.retain(|other| other.point.target != target);
        let mut request = request.clone();
        spare_own_root(&shared.config.data_root, &mut request.point);
        all.push(request);
    }
    for path in &spec.config.volumes {
        let target = command::clean_path(path);
        if target == "/" || target.is_empty() {
            return Err(EngineError::InvalidParameter(
                "invalid specification: destination can't be '/'".to_owned(),
            ));
        }
        if tmpfs(&target) || all.iter().any(|other| other.point.target == target) {
            continue;
        }
        all.push(declared(target, &spec.volume_driver));
    }
    if all.len() > MAX_MOUNTS {
        return Err(EngineError::InvalidParameter(format!(
            "a container can have {MAX_MOUNTS} mounts at most"
        )));
    }
    spec.mounts = all;
    Ok(())
}

/// A container that sees the daemon's own directory must not hold what is unmounted there, as dockerd has it.
fn spare_own_root(data_root: &Path, point: &mut MountPoint) {
    let implied = point.propagation == DEFAULT_PROPAGATION;
    if implied && point.kind == MountKind::Bind && data_root.starts_with(&point.source) {
        point.propagation = "rslave".to_owned();
        point.propagation_optional = true;
    }
}

fn taken_over(point: &MountPoint, readonly: bool) -> MountRequest {
    MountRequest {
        point: MountPoint {
            mode: String::new(),
            readonly: point.readonly || readonly,
            copy_up: false,
            ..point.clone()
        },
        ..MountRequest::default()
    }
}

fn declared(target: String, driver: &str) -> MountRequest {
    MountRequest {
        point: MountPoint {
            kind: MountKind::Volume,
            anonymous: true,
            copy_up: true,
            target,
            ..MountPoint::default()
        },
        driver: driver.to_owned(),
        ..MountRequest::default()
    }
}

fn is_missing(path: &str) -> bool {
    matches!(Path::new(path).try_exists(), Ok(false))
}

fn missing(path: &str) -> EngineError {
    EngineError::InvalidParameter(format!(
        "invalid mount config for type \"bind\": bind source path does not exist: {path}"
    ))
}

/// Sources that are not made must be there.
pub(crate) async fn check_sources(requests: &[MountRequest]) -> Result<(), EngineError> {
    let sources: Vec<String> = requests
        .iter()
        .filter(|r| r.point.kind == MountKind::Bind && !r.point.create_source)
        .map(|r| r.point.source.clone())
        .collect();
    if sources.is_empty() {
        return Ok(());
    }
    on_worker(move || {
        let gone = sources.iter().find(|path| is_missing(path));
        gone.map_or(Ok(()), |path| Err(missing(path)))
    })
    .await
}

/// Makes missing directories of the host and mounts volumes that are file systems of their own. Blocks.
pub(crate) fn make_ready(
    shared: &Shared,
    points: &[MountPoint],
    id: &ContainerId,
) -> Result<(), EngineError> {
    for point in points {
        match point.kind {
            MountKind::Bind if is_missing(&point.source) => {
                if !point.create_source {
                    return Err(missing(&point.source));
                }
                std::fs::create_dir_all(&point.source).map_err(|e| {
                    EngineError::System(format!(
                        "error while creating mount source path '{0}': mkdir {0}: {e}",
                        point.source
                    ))
                })?;
            }
            MountKind::Volume => {
                let volume = volume_of(shared, point)?;
                if local::is_mounted_volume(&volume) {
                    shared.volumes.take(&volume, id)?;
                }
            }
            MountKind::Bind | MountKind::Tmpfs | MountKind::Image => {}
        }
    }
    Ok(())
}

fn volume_of(shared: &Shared, point: &MountPoint) -> Result<std::sync::Arc<Volume>, EngineError> {
    shared
        .volumes
        .get(&point.volume)
        .ok_or_else(|| EngineError::System(format!("get {}: no such volume", point.volume)))
}

/// The launcher's form. Blocks (it looks at sources).
pub(crate) fn of_launch(
    shared: &Shared,
    points: &[MountPoint],
) -> Result<(Vec<BindMount>, Vec<TmpfsMount>), EngineError> {
    let (mut binds, mut tmpfs) = (Vec::new(), Vec::new());
    for point in points {
        match point.kind {
            MountKind::Tmpfs => tmpfs.push(TmpfsMount {
                target: point.target.clone(),
                options: point.tmpfs_options.clone(),
            }),
            MountKind::Bind => {
                check_readonly(point)?;
                binds.push(bind(point));
            }
            MountKind::Volume => binds.push(volume(shared, point)?),
            MountKind::Image => binds.push(image_mount::of_launch(shared, point)?),
        }
    }
    Ok((binds, tmpfs))
}

/// What drivers mount, without what the client's own mounts hide.
pub(crate) fn below_clients(host: &HostSpec, mut edits: Edits) -> Edits {
    let own = host.mounts.iter().map(|point| point.target.as_str());
    let targets: Vec<&str> = own.chain(host.tmpfs.keys().map(String::as_str)).collect();
    edits.give_way(&targets);
    edits
}

fn bind(point: &MountPoint) -> BindMount {
    BindMount {
        source: point.source.clone().into(),
        layers: Vec::new(),
        subpath: None,
        target: point.target.clone(),
        readonly: readonly(point),
        non_recursive: point.non_recursive,
        propagation: match point.propagation.as_str() {
            "shared" | "rshared" => Propagation::Shared,
            "slave" | "rslave" => Propagation::Slave,
            _ => Propagation::Private,
        },
        propagation_optional: point.propagation_optional,
        propagation_top_only: matches!(point.propagation.as_str(), "shared" | "slave" | "private"),
        attributes: 0,
    }
}

/// What contradicts itself about a mount that cannot be written to. dockerd finds it out at the start.
fn check_readonly(point: &MountPoint) -> Result<(), EngineError> {
    let (not_below, force) = (point.readonly_non_recursive, point.readonly_force_recursive);
    let conflict = match (point.readonly, not_below, force) {
        (false, true, _) => "!ReadOnly && BindOptions.ReadOnlyNonRecursive",
        (false, _, true) => "!ReadOnly && BindOptions.ReadOnlyForceRecursive",
        (_, true, true) => "ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive",
        _ => return Ok(()),
    };
    Err(EngineError::System(format!(
        "mount options conflict: {conflict}"
    )))
}

fn readonly(point: &MountPoint) -> Readonly {
    if !point.readonly {
        Readonly::No
    } else if point.readonly_force_recursive {
        Readonly::ForceRecursive
    } else if point.readonly_non_recursive {
        Readonly::TopOnly
    } else {
        Readonly::Recursive
    }
}

fn volume(shared: &Shared, point: &MountPoint) -> Result<BindMount, EngineError> {
    let volume = volume_of(shared, point)?;
    let place = local::place(&shared.volumes, &volume);
    if let Err(e) = std::fs::metadata(&place.path) {
        let device = place.path.display().to_string();
        let data = shared.volumes.dir(&volume.name).join(local::DATA_DIR);
        return Err(local::cannot_mount(
            &data,
            &device,
            libc::MS_BIND as u32,
            &e,
        ));
    }
    Ok(BindMount {
        source: place.path,
        subpath: Some(point.subpath.clone()),
        target: point.target.clone(),
        readonly: if place.readonly {
            Readonly::Recursive
        } else {
            readonly(point)
        },
        // What the host mounts below it is seen inside, as far as its file system is a shared mount.
        propagation: Propagation::Slave,
        propagation_optional: true,
        ..BindMount::default()
    })
}
