//! Responses with the headers that every answer of the API has.

use gantry_rt::http::{Outcome, Response, ResponseBody};
use http::StatusCode;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    LOCATION, PRAGMA, SERVER, X_CONTENT_TYPE_OPTIONS,
};
use serde::Serialize;

use crate::error::ApiError;
use crate::version::MAX_VERSION;

/// `Server` of every answer.
const SERVER_NAME: &str = concat!("Gantry/", env!("CARGO_PKG_VERSION"), " (linux)");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

const DOCKER_EXPERIMENTAL: HeaderName = HeaderName::from_static("docker-experimental");

/// What a handler gives back.
pub type Reply = Result<Outcome, ApiError>;

/// The headers of every routed answer.
pub fn common_headers(headers: &mut HeaderMap) {
    headers.insert(
        HeaderName::from_static("api-version"),
        HeaderValue::from_static(MAX_VERSION),
    );
    headers.insert(DOCKER_EXPERIMENTAL, HeaderValue::from_static("false"));
    headers.insert(
        HeaderName::from_static("ostype"),
        HeaderValue::from_static("linux"),
    );
    headers.insert(SERVER, HeaderValue::from_static(SERVER_NAME));
}

fn response(status: StatusCode, content_type: Option<HeaderValue>, body: ResponseBody) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    common_headers(response.headers_mut());
    if let Some(value) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response
}

/// A JSON document.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Reply {
    let mut body = serde_json::to_vec(value)
        .map_err(|e| ApiError::system(format!("the answer can't be written as JSON: {e}")))?;
    body.push(b'\n');
    Ok(response(status, Some(JSON), ResponseBody::full(body)).into())
}

/// 200 with a JSON document.
pub fn ok<T: Serialize>(value: &T) -> Reply {
    json(StatusCode::OK, value)
}

/// A status alone.
pub fn empty(status: StatusCode) -> Reply {
    Ok(response(status, None, ResponseBody::empty()).into())
}

/// A body that grows, of this content type.
pub fn stream(content_type: &'static str, body: ResponseBody) -> Reply {
    Ok(response(
        StatusCode::OK,
        Some(HeaderValue::from_static(content_type)),
        body,
    )
    .into())
}

/// A body that grows, with one more header.
pub fn stream_with(
    content_type: Option<&'static str>,
    (name, value): (&'static str, String),
    body: ResponseBody,
) -> Reply {
    let mut response = response(
        StatusCode::OK,
        content_type.map(HeaderValue::from_static),
        body,
    );
    let value = HeaderValue::try_from(value)
        .map_err(|e| ApiError::system(format!("the header {name} can't be written: {e}")))?;
    response
        .headers_mut()
        .insert(HeaderName::from_static(name), value);
    Ok(response.into())
}

/// An error. A client that has all it wanted (304) gets no body.
pub fn error(error: &ApiError) -> Outcome {
    if error.status == StatusCode::NOT_MODIFIED {
        return response(error.status, None, ResponseBody::empty()).into();
    }
    response(error.status, Some(JSON), ResponseBody::full(error.body())).into()
}

/// An error as plain text of this content type, and the end of the connection.
pub fn plain_error(error: &ApiError, content_type: &'static str) -> Reply {
    let body = ResponseBody::full(format!("{}\r\n", error.message));
    let mut response = Response::new(body);
    *response.status_mut() = error.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(response.into())
}

/// "page not found", without the headers of the API, as dockerd's multiplexer answers.
pub fn page_not_found() -> Outcome {
    let mut response = Response::new(ResponseBody::full(
        ApiError::not_found("page not found").body(),
    ));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.into()
}

/// A version below the oldest: plain text, since such clients do not read JSON errors.
pub fn too_old(message: String) -> Outcome {
    let body = ResponseBody::full(format!("{message}\n"));
    let mut response = response(StatusCode::BAD_REQUEST, Some(TEXT), body);
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.remove(DOCKER_EXPERIMENTAL);
    response.into()
}

/// A version above the newest.
pub fn too_new(message: String) -> Outcome {
    let body = ResponseBody::full(ApiError::invalid(message).body());
    let mut response = response(StatusCode::BAD_REQUEST, Some(JSON), body);
    // dockerd refuses a version before it adds this one.
    response.headers_mut().remove(DOCKER_EXPERIMENTAL);
    response.into()
}

/// The same path in its shortest form, already escaped, with the query as it came.
pub fn moved(path: &str, raw_query: &str) -> Outcome {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let to = match raw_query {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    };
    match HeaderValue::from_str(&to) {
        Ok(value) => {
            response.headers_mut().insert(LOCATION, value);
            response.into()
        }
        Err(_) => page_not_found(),
    }
}

/// The answer to `OPTIONS`: nothing to tell. `OPTIONS *` is answered below the API, so without its headers.
pub fn options(of_server: bool) -> Outcome {
    let mut response = response(StatusCode::OK, None, ResponseBody::empty());
    if of_server {
        response.headers_mut().clear();
    }
    response.into()
}

/// The answer of `_ping`.
pub fn ping(with_body: bool) -> Reply {
    let body = if with_body {
        ResponseBody::full("OK")
    } else {
        ResponseBody::empty()
    };
    let mut response = response(StatusCode::OK, Some(TEXT), body);
    let headers = response.headers_mut();
    // Version 1 is the classic builder: sessions of BuildKit are not built.
    headers.insert(
        HeaderName::from_static("builder-version"),
        HeaderValue::from_static("1"),
    );
    headers.insert(
        HeaderName::from_static("swarm"),
        HeaderValue::from_static("inactive"),
    );
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    if !with_body {
        // As dockerd says to HEAD; hyper leaves it out where the body is empty.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(response.into())
}
