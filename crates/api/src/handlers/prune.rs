//! Removing what nobody uses. There are no networks of users and no build cache yet, so nothing of those is
//! ever removed; that is a true answer, and `docker system prune` needs it.

use gantry_engine::model::{ListOptions, RemoveOptions, Status};
use serde_json::json;

use super::containers::{sizes_of, until_ns};
use crate::error::ApiError;
use crate::filters;
use crate::reply::{self, Reply};
use crate::service::Call;

const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

pub(super) async fn containers(call: Call) -> Reply {
    let wanted = filters::parse(call.query.get("filters"))?;
    filters::check_keys(&wanted, PRUNE_FILTERS)?;
    let until = match wanted.get("until").map_or(&[][..], Vec::as_slice) {
        [] => None,
        [text] => Some(until_ns(text)?),
        _ => return Err(ApiError::invalid("more than one until filter specified")),
    };
    let (with, without) = (wanted.get("label"), wanted.get("label!"));
    let options = ListOptions {
        all: true,
        ..ListOptions::default()
    };
    let (mut deleted, mut reclaimed) = (Vec::new(), 0);
    for view in call.ctx.engine.list(&options)? {
        let labels = &view.fixed.config.labels;
        let matches = matches!(
            view.state.status,
            Status::Created | Status::Exited | Status::Dead
        ) && with.is_none_or(|w| filters::labels_match(w, labels))
            && without.is_none_or(|w| w.is_empty() || !filters::labels_match(w, labels))
            && until.is_none_or(|until| view.fixed.created_unix_ns <= until);
        if !matches {
            continue;
        }
        let size = sizes_of(&call, &view).await?.rw;
        match call
            .ctx
            .engine
            .remove(&view.id, RemoveOptions::default())
            .await
        {
            Ok(()) => {
                reclaimed += size;
                deleted.push(view.id.to_string());
            }
            // Started or removed by somebody else in the meantime.
            Err(e) => tracing::debug!(container = %view.id, error = %e, "not pruned"),
        }
    }
    call.ctx.engine.publish_event(
        "container",
        "prune",
        "",
        vec![("reclaimed".to_owned(), reclaimed.to_string())],
    );
    let deleted = (!deleted.is_empty()).then_some(deleted);
    reply::ok(&json!({ "ContainersDeleted": deleted, "SpaceReclaimed": reclaimed }))
}

const NETWORK_FILTERS: &[&str] = &["label", "label!", "until"];
const BUILD_FILTERS: &[&str] = &[
    "description",
    "id",
    "inuse",
    "parent",
    "private",
    "shared",
    "type",
    "until",
    "unused-for",
];

pub(super) fn networks(call: Call) -> Reply {
    filters::check_keys(&filters::parse(call.query.get("filters"))?, NETWORK_FILTERS)?;
    announce(&call, "network");
    reply::ok(&json!({ "NetworksDeleted": null }))
}

pub(super) fn build_cache(call: Call) -> Reply {
    let wanted = filters::parse(call.query.get("filters"))?;
    filters::check_keys(&wanted, BUILD_FILTERS).map_err(|e| {
        ApiError::new(
            e.status,
            format!("failed to prune build cache: {}", e.message),
        )
    })?;
    announce(&call, "builder");
    reply::ok(&json!({ "CachesDeleted": null, "SpaceReclaimed": 0 }))
}

fn announce(call: &Call, kind: &'static str) {
    let reclaimed = vec![("reclaimed".to_owned(), "0".to_owned())];
    call.ctx.engine.publish_event(kind, "prune", "", reclaimed);
}
