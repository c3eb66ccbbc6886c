//! Mounts of images: their layers, read-only. A container that mounts an image holds it as the one it was made from.

use gantry_image::ImageHold;
use gantry_launch::{BindMount, Lower, Readonly};

use crate::EngineError;
use crate::config::EngineConfig;
use crate::model::{FixedView, HostSpec, MountKind, MountPoint, MountRequest};
use crate::shard::Shared;

/// Makes what lies below every mounted image: a union needs two layers at least. (Again, if they are there.)
pub(crate) fn make_empty_layers(config: &EngineConfig) -> Result<(), EngineError> {
    for dir in config.empty_layer_dirs() {
        std::fs::create_dir_all(&dir)
            .map_err(|e| EngineError::io(format!("make {}", dir.display()), e))?;
    }
    Ok(())
}

/// Finds the images of a container that is being made. They are held until what is given back is dropped; then the
/// container must be visible to who removes images.
pub(crate) fn hold(
    shared: &Shared,
    requests: &mut [MountRequest],
) -> Result<Vec<ImageHold>, EngineError> {
    let mut holds = Vec::new();
    for request in requests {
        let point = &mut request.point;
        if point.kind != MountKind::Image {
            continue;
        }
        // One that is taken over from another container has its id, and may be removed by name.
        if point.image_id.is_empty() {
            let image = shared.images.snapshot().resolve(&point.volume)?;
            point.image_id.clone_from(&image.id);
        }
        holds.push(shared.images.hold(&point.image_id)?);
    }
    Ok(holds)
}

/// Whether a container was made from an image or mounts it.
pub(crate) fn uses(fixed: &FixedView, image_id: &str) -> bool {
    fixed.image_id == image_id || mounts(&fixed.host, image_id)
}

/// Whether a container mounts an image.
pub(crate) fn mounts(host: &HostSpec, image_id: &str) -> bool {
    let mut points = host.mounts.iter();
    points.any(|point| point.kind == MountKind::Image && point.image_id == image_id)
}

/// The launcher's form.
pub(crate) fn of_launch(shared: &Shared, point: &MountPoint) -> Result<BindMount, EngineError> {
    let snapshot = shared.images.snapshot();
    let image = snapshot
        .of_container(&point.image_id)
        .ok_or_else(|| EngineError::NoSuchImage(point.volume.clone()))?;
    let mut layers = shared.layers_of(image)?;
    let below = shared.config.empty_layer_dirs();
    layers.extend(below.into_iter().map(Lower::from));
    Ok(BindMount {
        source: point.volume.clone().into(),
        layers,
        subpath: Some(point.subpath.clone()),
        target: point.target.clone(),
        readonly: Readonly::Recursive,
        ..BindMount::default()
    })
}
