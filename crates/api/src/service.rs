//! One request: route, version, query, handler, answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::context::Context;
use crate::error::ApiError;
use crate::operations::Operation;
use crate::query::Query;
use crate::router::{self, Matched, RouteError};
use crate::version::{ApiVersion, VersionError};
use crate::{handlers, json, reply};
use gantry_rt::http::{Body, Outcome, Request, Service};
use http::{HeaderMap, StatusCode};

/// Largest JSON body.
pub const MAX_JSON_BODY_BYTES: usize = 4 << 20;

/// How long a JSON body may take after its head; then 408. (Archives have no such limit: they come as slowly as the
/// client makes them, on threads of their own.)
pub const JSON_BODY_TIMEOUT: Duration = Duration::from_secs(300);

/// A routed request.
pub(crate) struct Call {
    pub ctx: Arc<Context>,
    pub operation: Operation,
    /// Id or name in the path.
    pub key: String,
    pub version: ApiVersion,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Body,
}

impl Call {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The bytes of a JSON body, within its limit and with the right content type.
    pub async fn json_bytes(&mut self) -> Result<bytes::Bytes, ApiError> {
        json::check_content_type(self.header("content-type"), !self.body.is_end())?;
        let body = std::mem::replace(&mut self.body, Body::empty());
        let read = gantry_rt::timeout(JSON_BODY_TIMEOUT, body.collect(MAX_JSON_BODY_BYTES));
        read.await
            .map_err(|_| {
                let seconds = JSON_BODY_TIMEOUT.as_secs();
                let text = format!("the request's body did not come within {seconds} seconds");
                ApiError::new(StatusCode::REQUEST_TIMEOUT, text)
            })?
            .map_err(|e| ApiError::invalid(format!("invalid JSON: {e}")))
    }
}

/// The service of the API; one per shard.
pub struct ApiService {
    ctx: Arc<Context>,
}

impl ApiService {
    /// A service for the current shard.
    pub fn new(ctx: Arc<Context>) -> Self {
        Self { ctx }
    }
}

impl Service for ApiService {
    fn call(self: Rc<Self>, req: Request) -> impl Future<Output = Outcome> + 'static {
        let ctx = self.ctx.clone();
        async move { answer(ctx, req).await }
    }
}

/// Operations without a query: dockerd does not even parse it.
const NO_QUERY: [Operation; 4] = [
    Operation::SystemPing,
    Operation::SystemPingHead,
    Operation::SystemInfo,
    Operation::SystemVersion,
];

/// The answer when no operation is reached.
fn unrouted(error: RouteError, path: &str, raw_query: &str) -> Outcome {
    match error {
        RouteError::NotFound => reply::page_not_found(),
        RouteError::Redirect(to) => reply::moved(&to, raw_query),
        RouteError::Options => reply::options(path == "*"),
        RouteError::Version(VersionError::TooOld(message)) => reply::too_old(message),
        RouteError::Version(VersionError::TooNew(message)) => reply::too_new(message),
    }
}

/// Nothing has the empty name; it must not reach a search by prefix, which it would always pass.
fn check_key(matched: &Matched) -> Result<(), ApiError> {
    if !matched.parameter.is_empty() {
        return Ok(());
    }
    match matched.operation {
        Operation::ContainerDelete => Err(ApiError::invalid("invalid name or ID supplied: \"\"")),
        Operation::ImageDelete => Err(ApiError::invalid("image name cannot be blank")),
        Operation::VolumeInspect | Operation::VolumeDelete => {
            Err(ApiError::not_found("get: no such volume"))
        }
        Operation::PluginDelete => Err(ApiError::not_found("plugin \"\" not found")),
        Operation::NetworkDelete => Err(ApiError::not_found("network  not found")),
        _ => Ok(()),
    }
}

async fn answer(ctx: Arc<Context>, req: Request) -> Outcome {
    let (parts, body) = req.into_parts();
    let raw_query = parts.uri.query().unwrap_or("");
    let matched = match router::route(parts.method.as_str(), parts.uri.path()) {
        Ok(matched) => matched,
        Err(error) => return unrouted(error, parts.uri.path(), raw_query),
    };
    let query = match Query::parse(raw_query) {
        Ok(query) => query,
        // These read no query, so they do not mind.
        Err(_) if NO_QUERY.contains(&matched.operation) => Query::default(),
        Err(error) => return reply::error(&error),
    };
    if let Err(error) = check_key(&matched) {
        return reply::error(&error);
    }
    let operation = matched.operation;
    let call = Call {
        ctx,
        operation,
        key: matched.parameter,
        version: matched.version,
        query,
        headers: parts.headers,
        body,
    };
    match handlers::dispatch(call).await {
        Ok(outcome) => outcome,
        Err(error) => {
            if error.status.is_server_error() {
                tracing::warn!(operation = operation.name(), status = error.status.as_u16(), error = %error.message, "request failed");
            }
            reply::error(&error)
        }
    }
}
