//! Bodies between a request and a job that blocks.

use gantry_engine::EngineError;
use gantry_rt::bridge::{self, BodyWriter};
use gantry_rt::http::{Body, ResponseBody};

use crate::error::ApiError;
use crate::service::Call;

/// Feeds the request's body to a blocking reader, in the background.
pub(super) fn blocking_body(call: &mut Call) -> bridge::BodyReader {
    let (sender, reader) = bridge::body_to_reader();
    let body = std::mem::replace(&mut call.body, Body::empty());
    gantry_rt::spawn("api.request-body", body.feed(sender));
    reader
}

/// Tells the request what its answer begins with; the job goes on with the body.
pub(super) type Begin<T> = gantry_rt::reply::ReplySender<T>;

/// Starts a job that says how its answer begins and then writes the body. An error before that is the answer; a job that
/// fails later cuts the body.
pub(super) async fn begun<T, F>(
    name: &'static str,
    start: impl FnOnce(Begin<T>, BodyWriter) -> F,
) -> Result<(T, ResponseBody), ApiError>
where
    T: Send + 'static,
    F: Future<Output = Result<(), EngineError>> + 'static,
{
    let (writer, receiver) = bridge::writer_to_body();
    let (begin, begun) = gantry_rt::reply::channel();
    let (failed, failure) = gantry_rt::reply::channel();
    let job = start(begin, writer);
    gantry_rt::spawn(name, async move {
        if let Err(error) = job.await {
            tracing::debug!(%error, name, "an answer ended early");
            failed.send(error);
        }
    });
    match begun.await {
        Ok(head) => Ok((head, ResponseBody::from_bridge(receiver))),
        Err(_) => Err(match failure.await {
            Ok(error) => error.into(),
            Err(_) => ApiError::system("the answer was lost before it began"),
        }),
    }
}
