//! Volumes.

use gantry_engine::EngineError;
use gantry_engine::model::{LOCAL_DRIVER, VolumeSpec, VolumeView};
use http::StatusCode;
use serde_json::json;

use super::containers::tree_size;
use crate::error::ApiError;
use crate::filters::{self, Filters};
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::mount::{UsageData, Volume, VolumeCreate};
use crate::{json, text};

const FILTERS: &[&str] = &["dangling", "driver", "label", "name"];
const PRUNE_FILTERS: &[&str] = &["all", "label", "label!"];

fn shown(view: &VolumeView, usage: Option<UsageData>) -> Volume {
    let volume = &view.volume;
    Volume {
        created_at: text::rfc3339(volume.created_unix_s.saturating_mul(1_000_000_000)),
        driver: LOCAL_DRIVER,
        labels: volume.labels.clone(),
        mountpoint: view.mountpoint.to_string_lossy().into_owned(),
        name: volume.name.clone(),
        options: volume.options.clone(),
        scope: "local",
        usage_data: usage,
    }
}

pub(super) async fn create(mut call: Call) -> Reply {
    let body = call.json_bytes().await?;
    let request: VolumeCreate = if body.iter().all(u8::is_ascii_whitespace) {
        VolumeCreate::default()
    } else {
        json::decode(json::parse(&body)?).map_err(|e: ApiError| {
            let named = "Go struct field CreateOptions.";
            ApiError::new(e.status, e.message.replace("Go struct field .", named))
        })?
    };
    if request.cluster.is_some() {
        return Err(ApiError::unavailable(
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
        ));
    }
    let spec = VolumeSpec {
        name: request.name,
        driver: request.driver,
        labels: request.labels,
        options: request.options,
    };
    let made = call.ctx.engine.volume_create(spec).await?;
    reply::json(StatusCode::CREATED, &shown(&made, None))
}

pub(super) fn inspect(call: Call) -> Reply {
    reply::ok(&shown(&call.ctx.engine.volume(&call.key)?, None))
}

pub(super) fn list(call: Call) -> Reply {
    let wanted = filters::parse(call.query.get("filters"))?;
    filters::check_keys(&wanted, FILTERS)?;
    let dangling = filters::boolean(&wanted, "dangling")?;
    let rows: Vec<Volume> = call
        .ctx
        .engine
        .volumes()
        .iter()
        .filter(|view| dangling.is_none_or(|d| d == (view.users == 0)) && matches(&wanted, view))
        .map(|view| shown(view, None))
        .collect();
    reply::ok(&json!({ "Volumes": rows, "Warnings": null }))
}

fn matches(wanted: &Filters, view: &VolumeView) -> bool {
    let any = |key: &str, test: &dyn Fn(&str) -> bool| {
        let values = wanted.get(key).filter(|v| !v.is_empty());
        values.is_none_or(|v| v.iter().any(|v| test(v)))
    };
    let name = &view.volume.name;
    // As Docker: the name itself, or an expression that is found in it.
    let named = |v: &str| v == name || regex_lite::Regex::new(v).is_ok_and(|r| r.is_match(name));
    let labels = view.volume.labels.clone().unwrap_or_default();
    any("driver", &|v| v == LOCAL_DRIVER)
        && any("name", &named)
        && wanted
            .get("label")
            .is_none_or(|l| filters::labels_match(l, &labels))
}

pub(super) async fn delete(call: Call) -> Reply {
    let force = call.query.flag("force");
    call.ctx.engine.volume_remove(&call.key, force).await?;
    reply::empty(StatusCode::NO_CONTENT)
}

pub(super) fn update() -> Reply {
    Err(ApiError::unavailable(
        "volume update only valid for cluster volumes, but swarm is unavailable",
    ))
}

/// Whether named volumes are meant too.
fn all_volumes(call: &Call, wanted: &Filters) -> Result<bool, ApiError> {
    match wanted.get("all").map_or(&[][..], Vec::as_slice) {
        // Before version 1.42 every unused volume went.
        [] => Ok(!call.version.at_least(42)),
        [one] => match one.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(ApiError::invalid(format!(
                "invalid filter 'all': strconv.ParseBool: parsing {}: invalid syntax",
                crate::query::quoted(other)
            ))),
        },
        many => Err(ApiError::invalid(format!(
            "invalid filter 'all=[{}]': only one value is expected",
            many.join(" ")
        ))),
    }
}

pub(super) async fn prune(call: Call) -> Reply {
    let wanted = filters::parse(call.query.get("filters"))?;
    filters::check_keys(&wanted, PRUNE_FILTERS)?;
    let all = all_volumes(&call, &wanted)?;
    let (with, without) = (wanted.get("label"), wanted.get("label!"));
    let (mut deleted, mut reclaimed) = (Vec::new(), 0);
    for view in call.ctx.engine.volumes() {
        let labels = view.volume.labels.clone().unwrap_or_default();
        let meant = view.users == 0
            && (all || view.volume.is_anonymous())
            && with.is_none_or(|w| filters::labels_match(w, &labels))
            && without.is_none_or(|w| w.is_empty() || !filters::labels_match(w, &labels));
        if !meant {
            continue;
        }
        let size = size_of(&view).await?;
        match call
            .ctx
            .engine
            .volume_remove(&view.volume.name, false)
            .await
        {
            Ok(()) => {
                reclaimed += size;
                deleted.push(view.volume.name.clone());
            }
            // Taken or removed by somebody else in the meantime.
            Err(e @ (EngineError::Conflict(_) | EngineError::NotFound(_))) => {
                tracing::debug!(volume = view.volume.name, error = %e, "not pruned");
            }
            Err(e) => return Err(e.into()),
        }
    }
    call.ctx.engine.publish_event(
        "volume",
        "prune",
        "",
        vec![("reclaimed".to_owned(), reclaimed.to_string())],
    );
    reply::ok(&json!({ "VolumesDeleted": deleted, "SpaceReclaimed": reclaimed }))
}

async fn size_of(view: &VolumeView) -> Result<u64, ApiError> {
    let path = view.mountpoint.clone();
    Ok(gantry_rt::workers::run(move || tree_size(&path)).await?)
}

/// The volumes with what they take, for `/system/df`.
pub(super) async fn usage(call: &Call) -> Result<Vec<Volume>, ApiError> {
    let mut rows = Vec::new();
    for view in call.ctx.engine.volumes() {
        let usage = UsageData {
            ref_count: view.users,
            size: size_of(&view).await?,
        };
        rows.push(shown(&view, Some(usage)));
    }
    Ok(rows)
}
