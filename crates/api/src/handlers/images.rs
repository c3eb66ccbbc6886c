//! Images.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use gantry_engine::Engine;
use gantry_image::{Deleted, Image, ImageStore, ImportOptions, LoadEvent};
use gantry_rt::bridge::{self, BodyWriter};
use gantry_rt::http::{Body, ResponseBody};
use gantry_rt::workers;
use http::StatusCode;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::filters::{self, Filters};
use crate::glob;
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::image as wire;

const FILTERS: &[&str] = &["before", "dangling", "label", "reference", "since", "until"];
/// Clients below this version see `<none>:<none>` where there is no tag.
const EMPTY_TAGS_SINCE_MINOR: u32 = 43;

/// The directories of an image's layers; none if they can't be named.
pub(super) fn lowers(images: &ImageStore, image: &Image) -> Vec<PathBuf> {
    images.rootfs(image).unwrap_or_else(|error| {
        tracing::warn!(image = %image.id, %error, "the layers of this image are not there");
        Vec::new()
    })
}

pub(super) async fn list(call: Call) -> Reply {
    let mut wanted = filters::parse(call.query.get("filters"))?;
    if let Some(old) = call.query.find("filter").filter(|f| !f.is_empty()) {
        wanted
            .entry("reference".to_owned())
            .or_default()
            .push(old.to_owned());
    }
    filters::check_keys(&wanted, FILTERS)?;
    let selection = Selection::new(&call, wanted)?;
    let mut rows = Vec::new();
    for image in call.ctx.images.snapshot().list() {
        let Some(tags) = selection.tags_of(&image)? else {
            continue;
        };
        let (mut tags, mut digests) = (tags, image.repo_digests.clone());
        if tags.is_empty() && digests.is_empty() && !call.version.at_least(EMPTY_TAGS_SINCE_MINOR) {
            tags.push("<none>:<none>".to_owned());
            digests.push("<none>@<none>".to_owned());
        }
        rows.push(wire::summary(&image, tags, digests));
    }
    reply::ok(&rows)
}

/// The filters of a list, ready to be asked.
struct Selection {
    filters: Filters,
    dangling: Option<bool>,
    before_unix_s: Option<i64>,
    since_unix_s: Option<i64>,
}

impl Selection {
    fn new(call: &Call, filters: Filters) -> Result<Self, ApiError> {
        let snapshot = call.ctx.images.snapshot();
        let created = |key: &str| -> Result<Option<i64>, ApiError> {
            let Some(name) = filters.get(key).and_then(|v| v.first()) else {
                return Ok(None);
            };
            Ok(Some(snapshot.resolve(name)?.created_unix_s))
        };
        let mut before_unix_s = created("before")?;
        for text in filters.get("until").into_iter().flatten() {
            let until = super::containers::until_ns(text)?.div_euclid(1_000_000_000);
            before_unix_s = Some(before_unix_s.map_or(until, |b| b.min(until)));
        }
        let since_unix_s = created("since")?;
        let dangling = filters::boolean(&filters, "dangling")?;
        Ok(Self {
            filters,
            dangling,
            before_unix_s,
            since_unix_s,
        })
    }

    /// The tags to show, or `None` if the image is not wanted.
    fn tags_of(&self, image: &Image) -> Result<Option<Vec<String>>, ApiError> {
        let no_labels = BTreeMap::new();
        let labels = image.config.labels.as_ref().unwrap_or(&no_labels);
        let unwanted = self
            .before_unix_s
            .is_some_and(|t| image.created_unix_s >= t)
            || self.since_unix_s.is_some_and(|t| image.created_unix_s <= t)
            || self
                .filters
                .get("label")
                .is_some_and(|wanted| !filters::labels_match(wanted, labels))
            || self
                .dangling
                .is_some_and(|d| d != image.repo_tags.is_empty());
        if unwanted {
            return Ok(None);
        }
        let Some(patterns) = self.filters.get("reference").filter(|p| !p.is_empty()) else {
            return Ok(Some(image.repo_tags.clone()));
        };
        let mut tags = Vec::new();
        for tag in &image.repo_tags {
            let name = tag.rsplit_once(':').map_or(tag.as_str(), |(name, _)| name);
            for pattern in patterns {
                let hit = |text: &str| {
                    glob::matches(pattern, text)
                        .ok_or_else(|| ApiError::invalid("syntax error in pattern"))
                };
                if hit(tag)? || hit(name)? {
                    tags.push(tag.clone());
                    break;
                }
            }
        }
        Ok((!tags.is_empty()).then_some(tags))
    }
}

pub(super) async fn inspect(call: Call) -> Reply {
    let image = call.ctx.images.snapshot().resolve(&call.key)?;
    reply::ok(&wire::inspect(&image, &lowers(&call.ctx.images, &image)))
}

pub(super) async fn history(call: Call) -> Reply {
    let image = call.ctx.images.snapshot().resolve(&call.key)?;
    reply::ok(&wire::history(&image))
}

pub(super) async fn tag(call: Call) -> Reply {
    let (images, name) = (call.ctx.images.clone(), call.key.clone());
    let (repo, tag) = (
        call.query.get("repo").to_owned(),
        call.query.get("tag").to_owned(),
    );
    let shown = if tag.is_empty() {
        repo.clone()
    } else {
        format!("{repo}:{tag}")
    };
    let image = workers::run(move || images.tag(&name, &repo, &tag)).await??;
    publish(&call.ctx.engine, "tag", &image.id, &shown);
    reply::empty(StatusCode::CREATED)
}

fn publish(engine: &Engine, action: &str, id: &str, name: &str) {
    engine.publish_event(
        "image",
        action,
        id,
        vec![("name".to_owned(), name.to_owned())],
    );
}

pub(super) async fn delete(call: Call) -> Reply {
    let (images, engine, name) = (
        call.ctx.images.clone(),
        call.ctx.engine.clone(),
        call.key.clone(),
    );
    let (force, noprune) = (call.query.flag("force"), call.query.flag("noprune"));
    let id = images.snapshot().resolve(&name)?.id.clone();
    let deleted = workers::run(move || {
        let used_by = |id: &gantry_image::ImageId| {
            engine
                .image_user(id)
                .map(|(user, runs)| (user.to_string(), runs))
        };
        images.remove(&name, force, noprune, &used_by)
    })
    .await??;
    let mut rows = Vec::with_capacity(deleted.len());
    for item in deleted {
        rows.push(match item {
            Deleted::Untagged(reference) => {
                publish(&call.ctx.engine, "untag", &id, &id);
                json!({ "Untagged": reference })
            }
            Deleted::Deleted(digest) => {
                if digest == id {
                    publish(&call.ctx.engine, "delete", &id, &id);
                }
                json!({ "Deleted": digest })
            }
        });
    }
    reply::ok(&rows)
}

/// Feeds the request's body to a blocking reader, in the background.
fn blocking_body(call: &mut Call) -> bridge::BodyReader {
    let (sender, reader) = bridge::body_to_reader();
    let body = std::mem::replace(&mut call.body, Body::empty());
    gantry_rt::spawn("api.request-body", body.feed(sender));
    reader
}

fn line(writer: &mut BodyWriter, document: &Value) -> std::io::Result<()> {
    writer.write_all(format!("{document}\r\n").as_bytes())?;
    writer.flush()
}

pub(super) async fn load(mut call: Call) -> Reply {
    let quiet = call.query.flag_or("quiet", false);
    let reader = blocking_body(&mut call);
    let (writer, receiver) = bridge::writer_to_body();
    let images = call.ctx.images.clone();
    let job = workers::run_long("image-load", move || {
        load_job(&images, reader, writer, quiet)
    })?;
    let engine = call.ctx.engine.clone();
    gantry_rt::spawn("api.image-load", async move {
        match job.await {
            Ok(loaded) => loaded
                .iter()
                .for_each(|(id, name)| publish(&engine, "load", id, name)),
            // The writer was dropped with the job, so the client sees a cut response.
            Err(error) => tracing::error!(%error, "loading an image was lost"),
        }
    });
    reply::stream("application/json", ResponseBody::from_bridge(receiver))
}

/// Loads and reports; answers what was loaded.
fn load_job(
    images: &ImageStore,
    reader: bridge::BodyReader,
    mut writer: BodyWriter,
    quiet: bool,
) -> Vec<(String, String)> {
    let mut progress = |event: LoadEvent| {
        let document = match event {
            LoadEvent::Stream(text) => json!({ "stream": text }),
            LoadEvent::Layer { .. } if quiet => return,
            LoadEvent::Layer { existed: true, .. } => return,
            LoadEvent::Layer {
                diff_id,
                size_bytes,
                ..
            } => json!({
                "status": "Loading layer",
                "progressDetail": { "current": size_bytes, "total": size_bytes },
                "progress": "",
                "id": short_digest(&diff_id),
            }),
        };
        // A client that is gone misses the progress; the load goes on.
        if let Err(error) = line(&mut writer, &document) {
            tracing::debug!(%error, "progress of an image load is not read");
        }
    };
    let result = images.load(reader, &mut progress);
    let loaded = match result {
        Ok(loaded) => loaded
            .into_iter()
            .map(|l| (l.id.clone(), l.tag.unwrap_or(l.id)))
            .collect(),
        Err(error) => {
            let text = error.to_string();
            if let Err(error) = line(
                &mut writer,
                &json!({ "errorDetail": { "message": text }, "error": text }),
            ) {
                tracing::debug!(%error, "the failure of an image load is not read");
            }
            Vec::new()
        }
    };
    if let Err(error) = writer.finish() {
        tracing::debug!(%error, "the client of an image load is gone");
    }
    loaded
}

fn short_digest(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

pub(super) async fn create(mut call: Call) -> Reply {
    let source = call.query.get("fromSrc").to_owned();
    match source.as_str() {
        "" => {
            let image = call.query.get("fromImage");
            return Err(ApiError::not_implemented(format!(
                "pulling images is not implemented yet (ImageCreate fromImage={image}): use docker load or docker import"
            )));
        }
        "-" => {}
        url => {
            return Err(ApiError::not_implemented(format!(
                "importing from an address is not implemented yet: {url}"
            )));
        }
    }
    let (repo, tag) = (call.query.get("repo"), call.query.get("tag"));
    let repo_tag = match (repo, tag) {
        ("", _) => None,
        (repo, "") => Some(repo.to_owned()),
        (repo, tag) => Some(format!("{repo}:{tag}")),
    };
    let options = ImportOptions {
        repo_tag: repo_tag.clone(),
        changes: call.query.all("changes").map(str::to_owned).collect(),
        message: call.query.get("message").to_owned(),
        ..ImportOptions::default()
    };
    let reader = blocking_body(&mut call);
    let images: Arc<ImageStore> = call.ctx.images.clone();
    let id = workers::run_long("image-import", move || images.import(reader, &options))?.await??;
    publish(
        &call.ctx.engine,
        "import",
        &id,
        repo_tag.as_deref().unwrap_or(&id),
    );
    reply::stream(
        "application/json",
        ResponseBody::full(format!("{}\r\n", json!({ "status": id }))),
    )
}
