//! Push: as a pull, the other way.

use gantry_image::{ImageError, Reference};
use gantry_registry::{Event, PushRequest, RegistryError};
use gantry_rt::{guest, lines};

use super::pull::{Stream, answer, credentials, publish_at_end};
use crate::error::ApiError;
use crate::reply::Reply;
use crate::service::Call;

pub(in crate::handlers) async fn push(call: Call) -> Reply {
    let platform = super::platform(&call)?;
    let mut reference = Reference::parse(&call.key)?;
    match call.query.get("tag") {
        "" => {}
        tag => reference = reference.with_tag(tag)?,
    }
    if let (Some(wanted), Ok(image)) = (
        &platform,
        call.ctx.images.snapshot().resolve(&reference.full()),
    ) && !wanted.fits(&image.platform())
    {
        return Err(ApiError::from(ImageError::WrongPlatform {
            name: reference.familiar(),
            has: image.platform().to_string(),
            wanted: wanted.to_string(),
        }));
    }
    let request = PushRequest {
        reference: reference.clone(),
        platform,
        auth: credentials(&call),
    };
    let registry = call.ctx.registry.clone();
    let (lines, receiver) = lines::channel();
    let (began, beginning) = gantry_rt::reply::channel::<Result<(), RegistryError>>();
    let (ended, end) = gantry_rt::reply::channel::<bool>();
    guest::spawn("registry.push", move || async move {
        let stream = Stream::new(lines, began);
        let report = |event: Event| stream.tell(&event);
        ended.send(stream.run(registry.push(&request, &report)).await);
    })?;
    publish_at_end(call.ctx.clone(), "push", reference, end);
    answer(beginning, receiver).await
}
