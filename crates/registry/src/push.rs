//! `docker push`.

use std::io::Read;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_image::registry::{ContentLease, PushBlob, PushImage, PushLayer, new_manifest};
use gantry_image::{Image, ImageError, Platform, Reference};
use gantry_rt::{Either, race};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use tokio::sync::mpsc;

use crate::auth::AuthConfig;
use crate::error::RegistryError;
use crate::event::{Event, Report, Step, layer, line};
use crate::http::{Answer, HEAD_TIMEOUT, ReqBody, STALL_TIMEOUT};
use crate::pull::join_all;
use crate::session::{Access, Session, open_any};
use crate::url::Url;
use crate::{Registry, digest_of, jobs, short};

/// Tries of one upload, as Docker's.
const MAX_ATTEMPTS: u32 = 5;
/// Each failure in a row waits this much longer, as Docker does.
const RETRY_STEP_S: u64 = 5;
/// Pieces of a blob between the disk and the network.
const PIECES: usize = 8;
/// Bytes in a piece.
const PIECE_BYTES: usize = 64 * 1024;
/// Shortest time between two reports of one layer.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Repositories that are tried as the source of a mount.
const MAX_MOUNT_SOURCES: usize = 3;

/// What is to be pushed.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// Without a tag: all tags of the repository.
    pub reference: Reference,
    /// Only if the image is for it.
    pub platform: Option<Platform>,
    /// Who asks.
    pub auth: AuthConfig,
}

/// What became of a layer.
struct Sent {
    digest: String,
    size_bytes: u64,
}

/// The image has to be pushed again with a new manifest: what it came with cannot be made any more.
struct Stale;

impl Registry {
    /// Pushes, in the guest lane; given up when it is dropped.
    pub async fn push(
        self: &Arc<Self>,
        request: &PushRequest,
        report: Report<'_>,
    ) -> Result<(), RegistryError> {
        let reference = &request.reference;
        let text = format!("The push refers to repository [{}]", reference.name());
        report(line(None, text));
        if reference.digest().is_some() {
            return Err(RegistryError::Invalid(
                "cannot push a digest reference".into(),
            ));
        }
        let references = self.images.push_references(reference)?;
        let settings = self.settings();
        let session = open_any(&settings, reference, &request.auth, Access::Push).await?;
        let session = Rc::new(session);
        for reference in references {
            self.push_one(&session, &reference, request.platform.as_ref(), report)
                .await?;
        }
        Ok(())
    }

    async fn push_one(
        self: &Arc<Self>,
        session: &Rc<Session>,
        reference: &Reference,
        platform: Option<&Platform>,
        report: Report<'_>,
    ) -> Result<(), RegistryError> {
        let lease = Arc::new(self.images.lease());
        let mut result = Ok(Err(Stale));
        for fresh in [false, true] {
            result = self
                .push_image(session, reference, platform, &lease, fresh, report)
                .await;
            if !matches!(result, Ok(Err(Stale))) {
                break;
            }
        }
        // Files may go with it.
        jobs::short(move || drop(lease)).await?;
        let stale =
            |_| RegistryError::Protocol("the image's layers changed while it was pushed".into());
        result?.map_err(stale)
    }

    async fn push_image(
        self: &Arc<Self>,
        session: &Rc<Session>,
        reference: &Reference,
        platform: Option<&Platform>,
        lease: &Arc<ContentLease>,
        fresh: bool,
        report: Report<'_>,
    ) -> Result<Result<(), Stale>, RegistryError> {
        let plan = {
            let (images, lease) = (self.images.clone(), lease.clone());
            let reference = reference.clone();
            jobs::short(move || images.plan_push(&reference, &lease, fresh)).await??
        };
        if let Some(wanted) = platform.filter(|p| !p.fits(&plan.image.platform())) {
            return Err(ImageError::WrongPlatform {
                name: reference.familiar(),
                has: plan.image.platform().to_string(),
                wanted: wanted.to_string(),
            }
            .into());
        }
        for pushed in plan.layers.iter().rev() {
            report(layer(&short(&pushed.diff_id), "Preparing"));
        }
        let all = plan
            .layers
            .iter()
            .map(|l| Box::pin(self.push_layer(session, reference, l, report)));
        let sent = join_all(all.collect()).await?;
        let changed = plan.layers.iter().zip(&sent);
        if plan.manifest.is_some()
            && changed
                .into_iter()
                .any(|(l, s)| l.blob.as_ref().is_none_or(|b| b.0 != s.digest))
        {
            return Ok(Err(Stale));
        }
        self.push_top(session, reference, plan, &sent, report)
            .await
            .map(Ok)
    }

    /// Config and manifest.
    async fn push_top(
        self: &Arc<Self>,
        session: &Session,
        reference: &Reference,
        plan: PushImage,
        sent: &[Sent],
        report: Report<'_>,
    ) -> Result<(), RegistryError> {
        let PushImage {
            image, manifest, ..
        } = plan;
        push_config(session, &image).await?;
        let (bytes, media_type) = manifest.unwrap_or_else(|| {
            let blobs: Vec<_> = sent
                .iter()
                .map(|s| (s.digest.clone(), s.size_bytes))
                .collect();
            new_manifest(&image, &blobs)
        });
        let tag = reference.tag().unwrap_or("latest");
        let url = session.url(&format!("manifests/{tag}"));
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(&media_type);
        let value = value.map_err(|e| RegistryError::Protocol(e.to_string()))?;
        headers.insert(CONTENT_TYPE, value);
        let body = Bytes::from(bytes);
        let answer = session
            .send_in_time(&Method::PUT, &url, &headers, body.clone())
            .await?;
        if !answer.status.is_success() {
            return Err(answer.into_error().await);
        }
        answer.discard().await;
        let digest = digest_of(&body);
        let name = reference.with_digest(&digest)?;
        let images = self.images.clone();
        let manifest = body.clone();
        jobs::short(move || images.commit_pushed(&image, &manifest, &name)).await??;
        let size_bytes = body.len() as u64;
        report(line(
            None,
            format!("{tag}: digest: {digest} size: {size_bytes}"),
        ));
        report(Event::Pushed {
            tag: tag.to_owned(),
            digest,
            size_bytes,
        });
        Ok(())
    }

    async fn push_layer(
        self: &Arc<Self>,
        session: &Rc<Session>,
        reference: &Reference,
        pushed: &PushLayer,
        report: Report<'_>,
    ) -> Result<Sent, RegistryError> {
        let id = short(&pushed.diff_id);
        let closed = |_| RegistryError::Protocol("uploads have ended".into());
        let _slot = match self.uploads.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                report(layer(&id, "Waiting"));
                self.uploads.acquire().await.map_err(closed)?
            }
        };
        for attempt in 1.. {
            let error = match self
                .try_layer(session, reference, pushed, &id, report)
                .await
            {
                Ok(sent) => return Ok(sent),
                Err(error) => error,
            };
            if attempt >= MAX_ATTEMPTS || !error.is_passing() {
                return Err(error);
            }
            tracing::info!(%error, layer = %id, attempt, "an upload failed and is tried again");
            for left_s in (1..=RETRY_STEP_S * u64::from(attempt)).rev() {
                let s = if left_s == 1 { "" } else { "s" };
                report(layer(&id, format!("Retrying in {left_s} second{s}")));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Err(RegistryError::Protocol("no attempt was made".into()))
    }

    async fn try_layer(
        self: &Arc<Self>,
        session: &Rc<Session>,
        reference: &Reference,
        pushed: &PushLayer,
        id: &str,
        report: Report<'_>,
    ) -> Result<Sent, RegistryError> {
        let mut begun = None;
        if let Some((digest, size_bytes)) = &pushed.blob {
            let sent = || Sent {
                digest: digest.clone(),
                size_bytes: *size_bytes,
            };
            if exists(session, digest).await? {
                report(layer(id, "Layer already exists"));
                return Ok(sent());
            }
            let (images, name, diff_id) = (
                self.images.clone(),
                reference.clone(),
                pushed.diff_id.clone(),
            );
            let sources = jobs::short(move || images.mount_sources(&name, &diff_id)).await?;
            for source in sources.into_iter().take(MAX_MOUNT_SOURCES) {
                match mount(session, digest, &source).await? {
                    Mount::Done => {
                        report(layer(id, format!("Mounted from {source}")));
                        return Ok(sent());
                    }
                    Mount::Upload(url) => begun = Some(url),
                    Mount::Refused => {}
                }
            }
        }
        let (images, wanted) = (self.images.clone(), pushed.clone());
        let blob = jobs::long("image-compress", move || images.open_push_blob(&wanted)).await??;
        let sent = Sent {
            digest: blob.digest.clone(),
            size_bytes: blob.size_bytes,
        };
        let known = pushed.blob.as_ref().is_some_and(|b| b.0 == sent.digest);
        if !known && exists(session, &sent.digest).await? {
            report(layer(id, "Layer already exists"));
            return Ok(sent);
        }
        let at = match begun {
            Some(url) => url,
            None => begin(session).await?,
        };
        let at = upload(session, &at, blob, id, report).await?;
        finish(session, &at, &sent.digest, Bytes::new()).await?;
        report(layer(id, "Pushed"));
        Ok(sent)
    }
}

async fn push_config(session: &Session, image: &Image) -> Result<(), RegistryError> {
    if exists(session, &image.id).await? {
        return Ok(());
    }
    let at = begin(session).await?;
    let body = Bytes::copy_from_slice(&image.raw_config);
    finish(session, &at, &image.id, body).await
}

async fn exists(session: &Session, digest: &str) -> Result<bool, RegistryError> {
    let below = format!("blobs/{digest}");
    let answer = session
        .fetch(&Method::HEAD, &below, &HeaderMap::new())
        .await?;
    match answer.status {
        StatusCode::OK => Ok(true),
        StatusCode::NOT_FOUND => Ok(false),
        _ => Err(answer.into_error().await),
    }
}

enum Mount {
    Done,
    /// It is not to be had, but an upload has begun.
    Upload(Url),
    Refused,
}

async fn mount(session: &Session, digest: &str, source: &str) -> Result<Mount, RegistryError> {
    session.also_read(source);
    let url = session.url("blobs/uploads/");
    let url = url
        .with_parameter("from", source)
        .with_parameter("mount", digest);
    let answer = session
        .send_in_time(&Method::POST, &url, &HeaderMap::new(), Bytes::new())
        .await?;
    let mounted = match answer.status {
        StatusCode::CREATED => Mount::Done,
        StatusCode::ACCEPTED => Mount::Upload(location(&answer)?),
        _ => Mount::Refused,
    };
    answer.discard().await;
    Ok(mounted)
}

/// Where an upload goes on.
fn location(answer: &Answer) -> Result<Url, RegistryError> {
    match answer.header(LOCATION) {
        "" => Err(RegistryError::Protocol(
            "the registry does not say where an upload goes".into(),
        )),
        to => answer.url.join(to),
    }
}

async fn begin(session: &Session) -> Result<Url, RegistryError> {
    let url = session.url("blobs/uploads/");
    let answer = session
        .send_in_time(&Method::POST, &url, &HeaderMap::new(), Bytes::new())
        .await?;
    if answer.status != StatusCode::ACCEPTED {
        return Err(answer.into_error().await);
    }
    let to = location(&answer)?;
    answer.discard().await;
    Ok(to)
}

/// Sends a blob as one chunk; where its end goes to.
async fn upload(
    session: &Session,
    at: &Url,
    blob: PushBlob,
    id: &str,
    report: Report<'_>,
) -> Result<Url, RegistryError> {
    let total = blob.size_bytes;
    let (pieces, body) = mpsc::channel(PIECES);
    let taken = Arc::new(AtomicU64::new(0));
    let counted = taken.clone();
    let mut reader = jobs::start_long("image-upload", move || feed(blob, &pieces, &counted))?;
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    let body = ReqBody::Stream {
        pieces: body,
        left_bytes: total,
    };
    let mut sending = Box::pin(session.send(&Method::PATCH, at, &headers, body));
    let (mut last, mut moved) = (0, Instant::now());
    let answer = loop {
        match race(&mut sending, tokio::time::sleep(REPORT_EVERY)).await {
            Either::Left(answer) => break answer,
            Either::Right(()) => {
                let current = taken.load(Ordering::Relaxed);
                if current != last {
                    (last, moved) = (current, Instant::now());
                    report(Event::Layer {
                        id: id.to_owned(),
                        step: Step::Bytes {
                            name: "Pushing",
                            current,
                            total,
                        },
                    });
                }
                if moved.elapsed() > STALL_TIMEOUT + HEAD_TIMEOUT {
                    let what = crate::http::shown(&Method::PATCH, at);
                    break Err(RegistryError::Network(format!("{what}: i/o timeout")));
                }
            }
        }
    };
    drop(sending);
    // A disk that cannot be read is the reason before any other.
    if let Ok(Err(error)) = reader.try_recv() {
        return Err(error.into());
    }
    let answer = answer?;
    if !matches!(
        answer.status,
        StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED
    ) {
        return Err(answer.into_error().await);
    }
    let to = location(&answer)?;
    answer.discard().await;
    Ok(to)
}

/// Reads a blob into the request's body, until its end or until nobody takes it.
fn feed(
    mut blob: PushBlob,
    pieces: &mpsc::Sender<Bytes>,
    taken: &AtomicU64,
) -> Result<(), ImageError> {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let n = blob.read(&mut piece).map_err(|source| ImageError::Io {
            what: format!("read blob {}", blob.digest),
            source,
        })?;
        piece.truncate(n);
        if n == 0 || pieces.blocking_send(piece.into()).is_err() {
            return Ok(());
        }
        taken.fetch_add(n as u64, Ordering::Relaxed);
    }
}

async fn finish(
    session: &Session,
    at: &Url,
    digest: &str,
    body: Bytes,
) -> Result<(), RegistryError> {
    let url = at.with_parameter("digest", digest);
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    let answer = session
        .send_in_time(&Method::PUT, &url, &headers, body)
        .await?;
    if !answer.status.is_success() {
        return Err(answer.into_error().await);
    }
    answer.discard().await;
    Ok(())
}
