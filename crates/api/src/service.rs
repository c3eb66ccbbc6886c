//! One request: route, version, query, handler, answer.

use std::rc::Rc;
use std::sync::Arc;

use crate::context::Context;
use crate::error::ApiError;
use crate::operations::Operation;
use crate::query::Query;
use crate::router::{self, RouteError};
use crate::version::{ApiVersion, VersionError};
use crate::{handlers, json, reply};
use gantry_rt::http::{Body, Outcome, Request, Service};
use http::HeaderMap;

/// Largest JSON body.
pub const MAX_JSON_BODY_BYTES: usize = 4 << 20;

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
        body.collect(MAX_JSON_BODY_BYTES)
            .await
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

async fn answer(ctx: Arc<Context>, req: Request) -> Outcome {
    let (parts, body) = req.into_parts();
    let matched = match router::route(parts.method.as_str(), parts.uri.path()) {
        Ok(matched) => matched,
        Err(RouteError::NotFound) => return reply::page_not_found(),
        Err(RouteError::Redirect(path)) => return reply::moved(&path),
        Err(RouteError::Version(VersionError::TooOld(message))) => return reply::too_old(message),
        Err(RouteError::Version(VersionError::TooNew(message))) => {
            return reply::error(&ApiError::invalid(message));
        }
    };
    let query = match Query::parse(parts.uri.query().unwrap_or("")) {
        Ok(query) => query,
        Err(error) => return reply::error(&error),
    };
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
