//! Images.

mod change;
mod list;
mod pull;
mod push;
mod transfer;

use std::path::PathBuf;

use gantry_engine::Engine;
use gantry_image::{Image, ImageError, ImageStore, Platform};

pub(super) use change::{delete, prune, tag};
pub(super) use list::list;
pub(super) use pull::credentials;
pub(super) use push::push;
pub(super) use transfer::{create, get, load};

use crate::error::ApiError;
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::image as wire;

/// Versions from which `platform` counts where an image is chosen.
const PLATFORM_SINCE_MINOR: u32 = 48;

/// The directories of an image's layers; none if they can't be named.
pub(super) fn lowers(images: &ImageStore, image: &Image) -> Vec<PathBuf> {
    images.layer_paths(image).unwrap_or_else(|error| {
        tracing::warn!(image = %image.id, %error, "the layers of this image are not there");
        Vec::new()
    })
}

pub(super) async fn inspect(call: Call) -> Reply {
    let image = call.ctx.images.snapshot().resolve(&call.key)?;
    let lowers = lowers(&call.ctx.images, &image);
    reply::ok(&wire::inspect(&image, &lowers, call.version))
}

pub(super) async fn history(call: Call) -> Reply {
    let platform = platform(&call)?;
    let image = call.ctx.images.snapshot().resolve(&call.key)?;
    if let Some(wanted) = platform.filter(|p| !p.fits(&image.platform())) {
        return Err(ImageError::WrongPlatform {
            name: call.key,
            has: image.platform().to_string(),
            wanted: wanted.to_string(),
        }
        .into());
    }
    reply::ok(&wire::history(&image))
}

/// The `platform` parameter of load, save and history: a JSON document.
fn platform(call: &Call) -> Result<Option<Platform>, ApiError> {
    let text = call.query.get("platform");
    if text.is_empty() || !call.version.at_least(PLATFORM_SINCE_MINOR) {
        return Ok(None);
    }
    let platform: Platform = serde_json::from_str(text)
        .map_err(|e| ApiError::invalid(format!("failed to parse platform: {e}")))?;
    if platform.os.is_empty() || platform.architecture.is_empty() {
        return Err(ApiError::invalid(
            "both OS and Architecture must be provided",
        ));
    }
    Ok(Some(platform))
}

/// Tells of something that was done to an image; `image` adds its labels.
fn publish(engine: &Engine, action: &str, id: &str, name: &str, image: Option<&Image>) {
    let mut attributes: Vec<(String, String)> = image
        .and_then(|i| i.config.labels.clone())
        .unwrap_or_default()
        .into_iter()
        .collect();
    attributes.retain(|(key, _)| key != "name");
    attributes.push(("name".to_owned(), name.to_owned()));
    engine.publish_event("image", action, id, attributes);
}
