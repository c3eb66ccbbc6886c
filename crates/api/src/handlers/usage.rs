//! What takes how much of the disk.

use std::collections::HashMap;
use std::sync::Arc;

use gantry_engine::model::ListOptions;
use gantry_image::Image;
use serde::Serialize;

use super::{containers, volumes};
use crate::error::ApiError;
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::container::Summary as ContainerSummary;
use crate::wire::image::{self, Summary as ImageSummary};
use crate::wire::mount::Volume;
use crate::{render, text};

/// The kinds of objects that can be asked for.
const TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];

/// Answer of `/system/df`. What is not asked for is `null`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DataUsage {
    /// Bytes of all layers, each counted once.
    layers_size: u64,
    images: Option<Vec<ImageSummary>>,
    containers: Option<Vec<ContainerSummary>>,
    volumes: Option<Vec<Volume>>,
    /// There is no build yet.
    build_cache: Option<[(); 0]>,
}

pub(super) async fn data_usage(call: Call) -> Reply {
    let wanted: Vec<&str> = call.query.all("type").collect();
    if let Some(unknown) = wanted.iter().find(|t| !TYPES.contains(t)) {
        return Err(ApiError::invalid(format!("unknown object type: {unknown}")));
    }
    let asked = |kind: &str| wanted.is_empty() || wanted.contains(&kind);
    let (layers_size, images) = match asked("image") {
        true => {
            let (size, rows) = images(&call)?;
            (size, Some(rows))
        }
        false => (0, None),
    };
    let containers = match asked("container") {
        true => Some(containers(&call).await?),
        false => None,
    };
    let volumes = match asked("volume") {
        true => Some(volumes::usage(&call).await?),
        false => None,
    };
    reply::ok(&DataUsage {
        layers_size,
        images,
        containers,
        volumes,
        build_cache: asked("build-cache").then_some([]),
    })
}

async fn containers(call: &Call) -> Result<Vec<ContainerSummary>, ApiError> {
    let options = ListOptions {
        all: true,
        ..ListOptions::default()
    };
    let now = text::now_unix_ns();
    let mut rows = Vec::new();
    for view in &call.ctx.engine.list(&options)? {
        let sizes = containers::sizes_of(call, view).await?;
        rows.push(render::summary(view, &call.ctx.daemon, now, Some(sizes)));
    }
    Ok(rows)
}

fn images(call: &Call) -> Result<(u64, Vec<ImageSummary>), ApiError> {
    let snapshot = call.ctx.images.snapshot();
    let images = snapshot.list();
    let mut users: HashMap<String, i64> = HashMap::new();
    let options = ListOptions {
        all: true,
        ..ListOptions::default()
    };
    for view in &call.ctx.engine.list(&options)? {
        *users.entry(view.fixed.image_id.to_string()).or_default() += 1;
    }
    let shared = snapshot.shared_sizes();
    let rows = images.iter().map(|i| {
        let shared_bytes = shared.get(&i.id).copied();
        let mut row = image::summary(i, i.repo_tags.clone(), shared_bytes, call.version);
        row.containers = users.get(&row.id).copied().unwrap_or(0);
        row
    });
    Ok((layers_bytes(&images), rows.collect()))
}

/// Sizes of all layers, each (with everything below it) counted once.
fn layers_bytes(images: &[Arc<Image>]) -> u64 {
    let mut all: HashMap<&[String], u64> = HashMap::new();
    for image in images {
        for (index, size_bytes) in image.layer_sizes_bytes.iter().enumerate() {
            if let Some(chain) = image.diff_ids.get(..=index) {
                all.insert(chain, *size_bytes);
            }
        }
    }
    all.values().sum()
}
