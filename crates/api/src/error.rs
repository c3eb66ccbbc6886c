//! The one place where errors become HTTP statuses.

use gantry_engine::{EngineError, ErrorClass};
use http::StatusCode;

/// An answer that is an error: a status and Docker's `{"message": ...}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// Text for the client.
    pub message: String,
}

impl ApiError {
    /// An error with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
    /// 400
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
    /// 404
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }
    /// 403
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }
    /// 500
    pub fn system(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }
    /// 501
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }
    /// 503
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// The body of the answer.
    pub fn body(&self) -> Vec<u8> {
        let mut body = serde_json::json!({ "message": self.message })
            .to_string()
            .into_bytes();
        body.push(b'\n');
        body
    }
}

/// The status of a class of engine errors.
pub fn status_of(class: ErrorClass) -> StatusCode {
    match class {
        ErrorClass::NotFound => StatusCode::NOT_FOUND,
        ErrorClass::Conflict => StatusCode::CONFLICT,
        ErrorClass::InvalidParameter => StatusCode::BAD_REQUEST,
        ErrorClass::NotModified => StatusCode::NOT_MODIFIED,
        ErrorClass::Forbidden => StatusCode::FORBIDDEN,
        ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorClass::System => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorClass::NotImplemented => StatusCode::NOT_IMPLEMENTED,
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        Self::new(status_of(error.class()), error.to_string())
    }
}

impl From<gantry_rt::workers::WorkerGone> for ApiError {
    fn from(error: gantry_rt::workers::WorkerGone) -> Self {
        if error == gantry_rt::workers::WorkerGone::TooMany {
            return Self::unavailable(format!("{error}; try again later"));
        }
        Self::system(format!(
            "a background job of this request was lost: {error}"
        ))
    }
}

impl From<gantry_image::ImageError> for ApiError {
    fn from(error: gantry_image::ImageError) -> Self {
        use gantry_image::{ErrorClass as Class, ImageError};
        let status = match error.class() {
            // A body that ends early or is malformed is its sender's mistake, not the machine's.
            _ if matches!(&error, ImageError::Io { source, .. } if is_body_error(source)) => {
                StatusCode::BAD_REQUEST
            }
            Class::NotFound => StatusCode::NOT_FOUND,
            Class::Conflict => StatusCode::CONFLICT,
            Class::InvalidParameter => StatusCode::BAD_REQUEST,
            Class::System => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<gantry_registry::RegistryError> for ApiError {
    fn from(error: gantry_registry::RegistryError) -> Self {
        use gantry_registry::ErrorClass as Class;
        let status = match error.class() {
            Class::NotFound => StatusCode::NOT_FOUND,
            Class::Unauthorized => StatusCode::UNAUTHORIZED,
            Class::Forbidden => StatusCode::FORBIDDEN,
            Class::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Class::InvalidParameter => StatusCode::BAD_REQUEST,
            Class::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Class::System => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<gantry_rt::guest::GuestGone> for ApiError {
    fn from(error: gantry_rt::guest::GuestGone) -> Self {
        Self::unavailable(error.to_string())
    }
}

fn is_body_error(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<gantry_rt::http::BodyError>())
}
