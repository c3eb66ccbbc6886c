//! What takes how much of the disk.

use std::collections::HashMap;
use std::sync::Arc;

use gantry_engine::model::ListOptions;
use gantry_image::Image;
use serde::Serialize;

use super::containers;
use crate::error::ApiError;
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::container::Summary as ContainerSummary;
use crate::wire::image::{self, Summary as ImageSummary};
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
    /// There are no volumes yet.
    volumes: Option<[(); 0]>,
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
    reply::ok(&DataUsage {
        layers_size,
        images,
        containers,
        volumes: asked("volume").then_some([]),
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
    let images: Vec<Arc<Image>> = call.ctx.images.snapshot().list().into_iter().collect();
    let mut users: HashMap<String, i64> = HashMap::new();
    let options = ListOptions {
        all: true,
        ..ListOptions::default()
    };
    for view in &call.ctx.engine.list(&options)? {
        *users.entry(view.fixed.image_id.to_string()).or_default() += 1;
    }
    let layers = Layers::of(&images);
    let rows = images.iter().map(|i| {
        let mut row = image::summary(i, i.repo_tags.clone(), i.repo_digests.clone());
        row.containers = users.get(&row.id).copied().unwrap_or(0);
        row.shared_size = i64::try_from(layers.shared_bytes(i)).unwrap_or(i64::MAX);
        row
    });
    Ok((layers.bytes(), rows.collect()))
}

/// Layers, each with everything below it, as they are shared.
struct Layers<'i>(HashMap<&'i [String], (u64, usize)>);

impl<'i> Layers<'i> {
    fn of(images: &'i [Arc<Image>]) -> Self {
        let mut all: HashMap<&[String], (u64, usize)> = HashMap::new();
        for image in images {
            for (index, size_bytes) in image.layer_sizes_bytes.iter().enumerate() {
                let Some(chain) = image.diff_ids.get(..=index) else {
                    continue;
                };
                all.entry(chain).or_insert((*size_bytes, 0)).1 += 1;
            }
        }
        Layers(all)
    }

    fn bytes(&self) -> u64 {
        self.0.values().map(|(size, _)| size).sum()
    }

    /// What an image has in common with others.
    fn shared_bytes(&self, image: &Image) -> u64 {
        let chains = (1..=image.diff_ids.len()).map(|n| &image.diff_ids[..n]);
        chains
            .filter_map(|chain| self.0.get(chain))
            .filter(|(_, images)| *images > 1)
            .map(|(size, _)| size)
            .sum()
    }
}
