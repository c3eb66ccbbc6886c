//! Containers: everything that is not a stream.

use gantry_engine::model::{ContainerView, ListOptions, RemoveOptions, StopOptions};
use http::StatusCode;

use crate::error::ApiError;
use crate::render::{self, Sizes};
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::container::CreateResponse;
use crate::wire::create::{CreateRequest, UpdateRequest};
use crate::{convert, filters, json, text};

/// Top-level fields of a create request that are not the container's configuration.
const NOT_CONFIG: &[&str] = &["HostConfig", "NetworkingConfig"];
/// Longest body of a start that is taken for none.
const MAX_IDLE_BODY_BYTES: u64 = 7;

pub(super) async fn create(mut call: Call) -> Reply {
    let document = json::parse(&call.json_bytes().await?)?;
    let name = call
        .query
        .find("name")
        .filter(|n| !n.is_empty())
        .map(str::to_owned);
    let is_config = |key: &String| {
        let same = |known: &&&str| known.eq_ignore_ascii_case(key);
        CreateRequest::KEYS.iter().any(|k| same(&k)) && !NOT_CONFIG.iter().any(|k| same(&k))
    };
    let configured = document
        .as_object()
        .is_some_and(|fields| fields.keys().any(is_config));
    let request: Option<CreateRequest> = json::decode(document)?;
    let Some(mut request) = request.filter(|_| configured) else {
        return Err(ApiError::invalid(
            "config cannot be empty in order to create a container",
        ));
    };
    check_platform(&call, &request.image)?;
    if let Some(host) = &mut request.host_config {
        let id_of = |key: &str| Ok(call.ctx.engine.inspect(key)?.id.to_string());
        convert::name_joined(host, id_of)?;
    }
    convert::choose_runtime(&mut request, &call.ctx.engine.runtimes());
    convert::choose_log(&mut request, call.ctx.engine.default_log());
    let machine = &call.ctx.daemon.machine();
    let (spec, mut warnings) = convert::create_spec(name, request, call.version, machine)?;
    let made = call.ctx.engine.create(spec).await?;
    warnings.extend(made.warnings);
    reply::json(
        StatusCode::CREATED,
        &CreateResponse {
            id: made.id,
            warnings,
        },
    )
}

/// Refuses a platform that the image is not for, with the words of dockerd.
fn check_platform(call: &Call, image: &str) -> Result<(), ApiError> {
    let wanted = call.query.get("platform");
    if wanted.is_empty() || !call.version.at_least(41) {
        return Ok(());
    }
    let fault = |what: &str| {
        ApiError::invalid(format!(
            "{}: {what}: invalid argument",
            crate::query::quoted(wanted)
        ))
    };
    let own = crate::text::own_architecture();
    let lower = wanted.to_ascii_lowercase();
    let parts: Vec<&str> = lower.split('/').collect();
    let (os, architecture) = match parts[..] {
        ["linux" | "windows" | "darwin" | "freebsd"] => (parts[0], own),
        [one] if KNOWN_ARCHITECTURES.contains(&one) => ("linux", one),
        [_] => return Err(fault("unknown operating system or architecture")),
        [os, architecture] | [os, architecture, _] => (os, architecture),
        _ => return Err(fault("cannot parse platform specifier")),
    };
    let variant = parts.get(2).copied().unwrap_or("");
    if os == "linux" && architecture == own {
        return Ok(());
    }
    // The image that is missing is the more useful complaint.
    call.ctx.images.snapshot().resolve(image)?;
    let mut normal = format!("{os}/{architecture}");
    if !variant.is_empty() {
        normal = format!("{normal}/{variant}");
    }
    Err(ApiError::not_found(format!(
        "image with reference {image} was found but its platform (linux/{own}) does not match the specified platform ({normal})"
    )))
}

/// Architectures that a platform may name alone.
const KNOWN_ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x",
];

pub(super) async fn list(call: Call) -> Reply {
    let limit = call
        .query
        .integer("limit")?
        .and_then(|n| usize::try_from(n).ok())
        .filter(|&n| n > 0);
    let options = ListOptions {
        all: call.query.flag("all"),
        limit,
        filters: filters::parse(call.query.get("filters"))?,
    };
    let views = call.ctx.engine.list(&options)?;
    let sized = call.query.flag("size");
    let now = text::now_unix_ns();
    let images = call.ctx.images.snapshot();
    let mut rows = Vec::with_capacity(views.len());
    for view in &views {
        let sizes = if sized {
            Some(sizes_of(&call, view).await?)
        } else {
            None
        };
        let mut row = render::summary(view, &call.ctx.daemon, now, sizes);
        let named = images.resolve(&view.fixed.config.image);
        if !named.is_ok_and(|image| image.id == view.fixed.image_id) {
            // The name was removed, or is another image's now.
            row.image.clone_from(&view.fixed.image_id);
        }
        rows.push(row);
    }
    reply::ok(&rows)
}

/// Walks the writable layer on a worker.
pub(super) async fn sizes_of(call: &Call, view: &ContainerView) -> Result<Sizes, ApiError> {
    let upper = view.fixed.upper_path();
    let rw = gantry_rt::workers::run(move || tree_size(&upper)).await?;
    let image = call
        .ctx
        .images
        .snapshot()
        .of_container(&view.fixed.image_id)
        .map_or(0, |i| i.size_bytes);
    Ok(Sizes {
        rw,
        root: image + rw,
    })
}

/// Bytes of the files and links below a directory, a file with several names once, as dockerd counts. What vanishes while it
/// is read counts nothing.
pub(super) fn tree_size(root: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    let mut linked = std::collections::HashSet::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => pending.push(entry.path()),
                Ok(meta) if meta.nlink() == 1 || linked.insert((meta.dev(), meta.ino())) => {
                    total += meta.len();
                }
                _ => {}
            }
        }
    }
    total
}

pub(super) async fn inspect(call: Call) -> Reply {
    let view = call.ctx.engine.inspect(&call.key)?;
    let sizes = if call.query.flag("size") {
        Some(sizes_of(&call, &view).await?)
    } else {
        None
    };
    let image = call
        .ctx
        .images
        .snapshot()
        .of_container(&view.fixed.image_id)
        .cloned();
    let lowers = image
        .map(|i| super::images::lowers(&call.ctx.images, &i))
        .unwrap_or_default();
    let execs = call.ctx.engine.live_execs(&view.id);
    reply::ok(&render::inspect(
        &view,
        &call.ctx.daemon,
        &lowers,
        sizes,
        &execs,
    )?)
}

pub(super) async fn start(call: Call) -> Reply {
    let length = call
        .header("content-length")
        .and_then(|n| n.parse::<u64>().ok());
    let chunked = length.is_none() && !call.body.is_end();
    if chunked || length.is_some_and(|n| n > MAX_IDLE_BODY_BYTES) {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    if !call.query.get("checkpoint").is_empty() {
        return Err(ApiError::invalid(
            "checkpoint is only supported in experimental mode",
        ));
    }
    call.ctx.engine.start(&call.key).await?;
    reply::empty(StatusCode::NO_CONTENT)
}

fn stop_options(call: &Call) -> Result<StopOptions, ApiError> {
    let signal = call
        .query
        .find("signal")
        .filter(|s| !s.is_empty())
        .map(str::to_owned);
    Ok(StopOptions {
        signal,
        timeout_s: call.query.integer("t")?,
    })
}

pub(super) async fn stop(call: Call) -> Reply {
    call.ctx
        .engine
        .stop(&call.key, stop_options(&call)?)
        .await?;
    reply::empty(StatusCode::NO_CONTENT)
}

pub(super) async fn restart(call: Call) -> Reply {
    call.ctx
        .engine
        .restart(&call.key, stop_options(&call)?)
        .await?;
    reply::empty(StatusCode::NO_CONTENT)
}

pub(super) async fn kill(call: Call) -> Reply {
    call.ctx
        .engine
        .kill(&call.key, call.query.get("signal"))
        .await?;
    reply::empty(StatusCode::NO_CONTENT)
}

pub(super) async fn pause(call: Call) -> Reply {
    call.ctx.engine.pause(&call.key).await?;
    reply::empty(StatusCode::NO_CONTENT)
}

pub(super) async fn unpause(call: Call) -> Reply {
    call.ctx.engine.unpause(&call.key).await?;
    reply::empty(StatusCode::NO_CONTENT)
}

pub(super) async fn rename(call: Call) -> Reply {
    let name = call.query.get("name");
    if name.is_empty() || call.key.is_empty() {
        return Err(ApiError::invalid("Neither old nor new names may be empty"));
    }
    call.ctx.engine.rename(&call.key, name).await?;
    reply::empty(StatusCode::NO_CONTENT)
}

/// `null` instead of an empty list of warnings, as dockerd.
#[derive(serde::Serialize)]
struct Updated {
    #[serde(rename = "Warnings")]
    warnings: Option<Vec<String>>,
}

pub(super) async fn update(mut call: Call) -> Reply {
    let body = call.json_bytes().await?;
    // Without a body there is nothing to change.
    let document = match body.iter().all(u8::is_ascii_whitespace) {
        true => serde_json::Value::Null,
        false => json::parse(&body)?,
    };
    let mut request: UpdateRequest = json::decode(document).map_err(|e| {
        // Go names the type only where the fields of another are embedded.
        ApiError::invalid(
            e.message
                .replace("struct field .", "struct field UpdateConfig."),
        )
    })?;
    if !call.version.at_least(40) {
        request.pids_limit = None;
    }
    let (change, warnings) = convert::update_spec(request, &call.ctx.daemon.machine())?;
    call.ctx.engine.update(&call.key, change).await?;
    let warnings = Some(warnings).filter(|w| !w.is_empty());
    reply::json(StatusCode::OK, &Updated { warnings })
}

/// Rows and columns of a resize.
pub(super) fn window_size(call: &Call) -> Result<(u16, u16), ApiError> {
    let side = |key: &str, what: &str| {
        let raw = call.query.get(key);
        // The kernel's window size has 16 bits; more is cut off, as dockerd does.
        raw.parse::<u32>().map(|n| n as u16).map_err(|_| {
            let whole = raw.strip_prefix(['-', '+']).unwrap_or(raw);
            let number = !whole.is_empty() && whole.bytes().all(|b| b.is_ascii_digit());
            let reason = if number {
                "value out of range"
            } else {
                "invalid syntax"
            };
            ApiError::invalid(format!(
                "invalid resize {what} {}: {reason}",
                crate::query::quoted(raw)
            ))
        })
    };
    Ok((side("h", "height")?, side("w", "width")?))
}

pub(super) async fn resize(call: Call) -> Reply {
    let (rows, columns) = window_size(&call)?;
    call.ctx.engine.resize(&call.key, rows, columns).await?;
    reply::empty(StatusCode::OK)
}

pub(super) async fn top(call: Call) -> Reply {
    let top = call
        .ctx
        .engine
        .top(&call.key, call.query.get("ps_args"))
        .await?;
    // As dockerd has it.
    let processes = Some(top.processes).filter(|p| !p.is_empty());
    reply::ok(&serde_json::json!({ "Titles": top.titles, "Processes": processes }))
}

pub(super) async fn delete(call: Call) -> Reply {
    let options = RemoveOptions {
        force: call.query.flag("force"),
        volumes: call.query.flag("v"),
        link: call.query.flag("link"),
    };
    call.ctx.engine.remove(&call.key, options).await?;
    reply::empty(StatusCode::NO_CONTENT)
}

/// A moment in a filter: RFC 3339, unix seconds, or a span like `24h` before now.
pub(super) fn until_ns(filter: &str) -> Result<i64, ApiError> {
    let now = u64::try_from(text::now_unix_ns()).unwrap_or(0);
    gantry_logs::time::parse(filter, now)
        .map(|ns| i64::try_from(ns).unwrap_or(i64::MAX))
        .map_err(|_| {
            ApiError::invalid(format!(
                "failed to parse value as time or duration: {}",
                crate::query::quoted(filter)
            ))
        })
}
