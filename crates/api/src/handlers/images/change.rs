//! Tag, delete, prune.

use std::collections::BTreeMap;

use gantry_engine::Engine;
use gantry_image::{Deleted, Image, ImageId, Reference, Removal};
use gantry_rt::workers;
use http::StatusCode;
use serde_json::{Value, json};

use super::publish;
use crate::error::ApiError;
use crate::filters;
use crate::reply::{self, Reply};
use crate::service::Call;

const PRUNE_FILTERS: &[&str] = &["dangling", "label", "label!", "until"];

pub(in crate::handlers) async fn tag(call: Call) -> Reply {
    let (images, name) = (call.ctx.images.clone(), call.key.clone());
    let target = Reference::of_repo_and_tag(call.query.get("repo"), call.query.get("tag"))?
        .ok_or_else(|| ApiError::invalid("invalid reference format"))?;
    let shown = target.familiar();
    let image = workers::run(move || {
        images.tag(&name, &target).map_err(|error| match error {
            // A source that can't be a name is, as in Docker, one that is not there.
            gantry_image::ImageError::InvalidReference(text) => ApiError::not_found(text),
            other => other.into(),
        })
    })
    .await??;
    publish(&call.ctx.engine, "tag", &image.id, &shown, Some(&image));
    reply::empty(StatusCode::CREATED)
}

/// Who uses an image: short texts of the rules want a container's id, and whether it runs.
fn users(engine: &Engine) -> impl Fn(&ImageId) -> Option<(String, bool)> {
    |id| {
        engine
            .image_user(id)
            .map(|(user, runs)| (user.to_string(), runs))
    }
}

pub(in crate::handlers) async fn delete(call: Call) -> Reply {
    let (images, engine, name) = (
        call.ctx.images.clone(),
        call.ctx.engine.clone(),
        call.key.clone(),
    );
    let force = call.query.flag("force");
    images.snapshot().resolve(&name)?;
    let removal = workers::run_long("image-remove", move || {
        images.remove(&name, force, &users(&engine))
    })?
    .await??;
    reply::ok(&rows(&call.ctx.engine, &removal))
}

/// The lines of the answer; tells the world of them.
fn rows(engine: &Engine, removal: &Removal) -> Vec<Value> {
    let image = &removal.image;
    let row = |item: &Deleted| match item {
        Deleted::Untagged(reference) => {
            publish(engine, "untag", &image.id, &image.id, Some(image));
            json!({ "Untagged": reference })
        }
        Deleted::Deleted(digest) => {
            if *digest == image.id {
                publish(engine, "delete", &image.id, &image.id, None);
            }
            json!({ "Deleted": digest })
        }
    };
    removal.done.iter().map(row).collect()
}

pub(in crate::handlers) async fn prune(call: Call) -> Reply {
    let wanted = filters::parse(call.query.get("filters"))?;
    filters::check_keys(&wanted, PRUNE_FILTERS)?;
    let dangling_only = filters::boolean(&wanted, "dangling")?.unwrap_or(true);
    let until_ns = match wanted.get("until").map(Vec::as_slice).unwrap_or_default() {
        [] => None,
        [one] => Some(super::list::until_ns(one)?),
        _ => return Err(ApiError::invalid("more than one until filter specified")),
    };
    let (images, engine) = (call.ctx.images.clone(), call.ctx.engine.clone());
    let removals = workers::run_long("image-prune", move || {
        let none = BTreeMap::new();
        let chosen = |image: &Image| {
            let labels = image.config.labels.as_ref().unwrap_or(&none);
            let has = |key: &str| wanted.get(key).filter(|w| !w.is_empty());
            let created_ns = image.created_unix_ns();
            until_ns.is_none_or(|until| created_ns.is_some_and(|c| c <= until))
                && has("label").is_none_or(|w| filters::labels_match(w, labels))
                && has("label!").is_none_or(|w| !filters::labels_match(w, labels))
        };
        images.prune(!dangling_only, &chosen, &users(&engine))
    })?
    .await??;
    let engine = &call.ctx.engine;
    let deleted: Vec<Value> = removals.iter().flat_map(|r| rows(engine, r)).collect();
    let reclaimed: u64 = removals.iter().map(|r| r.freed_bytes).sum();
    engine.publish_event(
        "image",
        "prune",
        "",
        vec![("reclaimed".to_owned(), reclaimed.to_string())],
    );
    reply::ok(&json!({
        "ImagesDeleted": if deleted.is_empty() { Value::Null } else { deleted.into() },
        "SpaceReclaimed": reclaimed,
    }))
}
