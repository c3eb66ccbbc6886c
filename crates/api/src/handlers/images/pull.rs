//! Pull: a request that becomes a task in the guest lane, and lines that come back.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use gantry_image::{Platform, Reference};
use gantry_registry::{AuthConfig, Event, PullRequest, Registry, RegistryError, Which};
use gantry_rt::http::ResponseBody;
use gantry_rt::lines::{self, LineSender};
use gantry_rt::reply::ReplySender;
use gantry_rt::{Either, guest, race};

use crate::context::Context;
use crate::error::ApiError;
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::progress;

/// How a stream began.
type Began = Result<(), RegistryError>;

/// Credentials of the header; what cannot be read is none, as in Docker.
pub(in crate::handlers) fn credentials(call: &Call) -> AuthConfig {
    let text = call.header("x-registry-auth").unwrap_or_default();
    AuthConfig::from_header(text).unwrap_or_default()
}

/// A client's stream: the answer's head waits for its first line.
pub(super) struct Stream {
    lines: LineSender,
    began: RefCell<Option<ReplySender<Began>>>,
    any: Cell<bool>,
}

impl Stream {
    pub(super) fn new(lines: LineSender, began: ReplySender<Began>) -> Self {
        Self {
            lines,
            began: RefCell::new(Some(began)),
            any: Cell::new(false),
        }
    }

    pub(super) fn tell(&self, event: &Event) {
        let (line, lossy) = progress::line(event);
        self.lines.send(line, lossy);
        self.any.set(true);
        if let Some(began) = self.began.take() {
            began.send(Ok(()));
        }
    }

    /// Runs until it is done or the client is gone; `true` if it was done.
    pub(super) async fn run(&self, work: impl Future<Output = Result<(), RegistryError>>) -> bool {
        match race(work, self.lines.closed()).await {
            Either::Right(()) => false,
            Either::Left(Ok(())) => {
                if let Some(began) = self.began.take() {
                    began.send(Ok(()));
                }
                true
            }
            Either::Left(Err(error)) => {
                tracing::info!(%error, "a registry's answer ends a request");
                match self.began.take() {
                    Some(began) if !self.any.get() => began.send(Err(error)),
                    _ => self
                        .lines
                        .send(progress::failure(&error.to_string()), false),
                }
                false
            }
        }
    }
}

/// What a pull was asked for.
fn request(call: &Call) -> Result<PullRequest, ApiError> {
    let (image, tag) = (call.query.get("fromImage"), call.query.get("tag"));
    let reference = Reference::parse(image.trim_end_matches(':'))?;
    let named = reference.tag().is_some() || reference.digest().is_some();
    let (reference, which) = if tag.is_empty() {
        let which = if named { Which::One } else { Which::All };
        (reference, which)
    } else if tag.contains(':') {
        let digest = reference
            .with_digest(tag)
            .map_err(|_| ApiError::invalid("invalid tag format"))?;
        (digest, Which::One)
    } else {
        (reference.with_tag(tag)?, Which::One)
    };
    let platform = match call.query.get("platform") {
        "" => None,
        text => Some(Platform::parse(text)?),
    };
    Ok(PullRequest {
        reference,
        which,
        platform,
        auth: credentials(call),
    })
}

pub(super) async fn pull(call: Call) -> Reply {
    let request = request(&call)?;
    let reference = request.reference.clone();
    let registry: Arc<Registry> = call.ctx.registry.clone();
    let (lines, receiver) = lines::channel();
    let (began, beginning) = gantry_rt::reply::channel::<Began>();
    let (ended, end) = gantry_rt::reply::channel::<bool>();
    guest::spawn("registry.pull", move || async move {
        let stream = Stream::new(lines, began);
        let report = |event: Event| stream.tell(&event);
        ended.send(stream.run(registry.pull(&request, &report)).await);
    })?;
    publish_at_end(call.ctx.clone(), "pull", reference, end);
    answer(beginning, receiver).await
}

/// Tells the world of it when it was done.
pub(super) fn publish_at_end(
    ctx: Arc<Context>,
    action: &'static str,
    reference: Reference,
    end: gantry_rt::reply::ReplyReceiver<bool>,
) {
    gantry_rt::spawn("api.registry-event", async move {
        if end.await != Ok(true) {
            return;
        }
        let full = reference.familiar();
        let image = ctx.images.snapshot().resolve(&full).ok();
        let name = reference.familiar_name();
        super::publish(&ctx.engine, action, &full, &name, image.as_deref());
    });
}

pub(super) async fn answer(
    beginning: gantry_rt::reply::ReplyReceiver<Began>,
    receiver: lines::LineReceiver,
) -> Reply {
    beginning
        .await
        .map_err(|_| ApiError::system("the request was lost in the guest lane"))??;
    reply::stream("application/json", ResponseBody::from_lines(receiver))
}
