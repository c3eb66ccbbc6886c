//! Archives in and out: load, import, save.

use std::io::Write;
use std::sync::Arc;

use gantry_image::{Image, ImageStore, ImportOptions, LoadEvent, Platform, Reference};
use gantry_rt::bridge::{self, BodyWriter};
use gantry_rt::http::ResponseBody;
use gantry_rt::workers;
use serde::Serialize;
use serde_json::json;

use super::publish;
use crate::error::ApiError;
use crate::handlers::body::blocking_body;
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::image::LayerProgress;

fn line<T: Serialize>(writer: &mut BodyWriter, document: &T) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(document)?;
    text.extend_from_slice(b"\r\n");
    writer.write_all(&text)?;
    writer.flush()
}

#[derive(Serialize)]
struct Failure {
    #[serde(rename = "errorDetail")]
    detail: FailureDetail,
    error: String,
}

#[derive(Serialize)]
struct FailureDetail {
    message: String,
}

pub(in crate::handlers) async fn load(mut call: Call) -> Reply {
    let quiet = call.query.flag_or("quiet", true);
    let platform = super::platform(&call)?;
    let reader = blocking_body(&mut call);
    let (writer, receiver) = bridge::writer_to_body();
    let images = call.ctx.images.clone();
    let job = workers::run_long("image-load", move || {
        load_job(&images, reader, writer, platform.as_ref(), quiet)
    })?;
    let ctx = call.ctx.clone();
    gantry_rt::spawn("api.image-load", async move {
        match job.await {
            Ok(loaded) => {
                let snapshot = ctx.images.snapshot();
                for id in &loaded {
                    let image = snapshot.get(id).map(|i| &**i);
                    publish(&ctx.engine, "load", id, id, image);
                }
            }
            // The writer was dropped with the job, so the client sees a cut response.
            Err(error) => tracing::error!(%error, "loading an image was lost"),
        }
    });
    reply::stream("application/json", ResponseBody::from_bridge(receiver))
}

/// Loads and reports; answers the ids of what was loaded.
fn load_job(
    images: &ImageStore,
    reader: bridge::BodyReader,
    mut writer: BodyWriter,
    platform: Option<&Platform>,
    quiet: bool,
) -> Vec<String> {
    // A client that is gone misses the progress; the load goes on.
    let unread = |result: std::io::Result<()>| {
        if let Err(error) = result {
            tracing::debug!(%error, "progress of an image load is not read");
        }
    };
    let mut progress = |event: LoadEvent| match event {
        LoadEvent::Stream(text) => unread(line(&mut writer, &json!({ "stream": text }))),
        LoadEvent::Layer { .. } if quiet => {}
        LoadEvent::Layer {
            diff_id,
            current_bytes,
            total_bytes,
        } => unread(line(
            &mut writer,
            &LayerProgress::new(&diff_id, current_bytes, total_bytes),
        )),
    };
    let result = images.load(reader, platform, &mut progress);
    let loaded = match result {
        Ok(loaded) => loaded.into_iter().map(|l| l.id).collect(),
        Err(error) => {
            if error.class() == gantry_image::ErrorClass::System {
                tracing::warn!(%error, "an image cannot be loaded");
            }
            let failure = Failure {
                detail: FailureDetail {
                    message: error.to_string(),
                },
                error: error.to_string(),
            };
            unread(line(&mut writer, &failure));
            Vec::new()
        }
    };
    unread(writer.finish());
    loaded
}

pub(in crate::handlers) async fn create(mut call: Call) -> Reply {
    let source = call.query.get("fromSrc").to_owned();
    if !call.query.get("fromImage").is_empty() {
        return super::pull::pull(call).await;
    }
    if source.is_empty() {
        return Err(ApiError::invalid(
            "nothing to make an image from: fromImage or fromSrc is needed",
        ));
    }
    if source != "-" {
        return Err(ApiError::not_implemented(format!(
            "importing from an address is not implemented yet (ImageCreate fromSrc={}): give the archive itself",
            crate::query::quoted(&source)
        )));
    }
    let message = match call.query.get("message") {
        "" => "Imported from -".to_owned(),
        given => given.to_owned(),
    };
    let options = ImportOptions {
        reference: Reference::of_repo_and_tag(call.query.get("repo"), call.query.get("tag"))?,
        changes: call.query.all("changes").map(str::to_owned).collect(),
        message,
        platform: match call.query.get("platform") {
            "" => None,
            text => Some(Platform::parse(text)?),
        },
    };
    let tag = options.reference.as_ref().map(Reference::familiar);
    let reader = blocking_body(&mut call);
    let images: Arc<ImageStore> = call.ctx.images.clone();
    let id = workers::run_long("image-import", move || images.import(reader, &options))?.await??;
    if let Some(tag) = &tag {
        publish(&call.ctx.engine, "tag", &id, tag, None);
    }
    publish(&call.ctx.engine, "import", &id, &id, None);
    reply::stream(
        "application/json",
        ResponseBody::full(format!("{}\r\n", json!({ "status": id }))),
    )
}

/// `docker save`: of the image in the path, or of all in `names`.
pub(in crate::handlers) async fn get(call: Call) -> Reply {
    let names: Vec<String> = if call.key.is_empty() {
        call.query.all("names").map(str::to_owned).collect()
    } else {
        vec![call.key.clone()]
    };
    let platform = super::platform(&call)?;
    let (writer, receiver) = bridge::writer_to_body();
    let (planned, plan_made) = gantry_rt::reply::channel();
    let images = call.ctx.images.clone();
    let job = workers::run_long("image-save", move || {
        let plan = match images.plan_save(&names, platform.as_ref()) {
            Ok(plan) => plan,
            Err(error) => return planned.send(Err(error)),
        };
        planned.send(Ok(plan.images().cloned().collect::<Vec<Arc<Image>>>()));
        let mut writer = writer;
        match plan.write(&mut writer) {
            Ok(()) => {
                if let Err(error) = writer.finish() {
                    tracing::debug!(%error, "the client of an image save is gone");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "an image save ended early");
                writer.fail(std::io::Error::other(error.to_string()));
            }
        }
    })?;
    gantry_rt::spawn("api.image-save", async move {
        if let Err(error) = job.await {
            tracing::error!(%error, "saving an image was lost");
        }
    });
    let saved = plan_made
        .await
        .map_err(|_| ApiError::system("the save was lost before it began"))??;
    for image in &saved {
        publish(&call.ctx.engine, "save", &image.id, &image.id, Some(image));
    }
    reply::stream("application/x-tar", ResponseBody::from_bridge(receiver))
}
