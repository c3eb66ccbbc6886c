//! What can go wrong with a registry; the text is Docker's where Docker has one.

use std::sync::Arc;

use gantry_image::{ImageError, Reference};
use gantry_rt::workers::WorkerGone;
use http::StatusCode;

/// Behaviour of an error, for the map to HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// There is no such thing.
    NotFound,
    /// Nobody is logged in.
    Unauthorized,
    /// It is not allowed.
    Forbidden,
    /// The registry wants to be asked less often.
    TooManyRequests,
    /// The request is wrong.
    InvalidParameter,
    /// Too much is going on here.
    Unavailable,
    /// The registry, the network or the machine failed.
    System,
}

/// What can go wrong with a registry.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    /// the registry could not be reached, or the connection broke
    #[error("{0}")]
    Network(String),
    /// the registry said no, in the specification's form
    #[error("{code}: {message}")]
    Answer {
        /// HTTP status.
        status: StatusCode,
        /// The code in words: `manifest unknown`.
        code: String,
        /// Its own words.
        message: String,
    },
    /// the registry failed, or said no in another form
    #[error("received unexpected HTTP status: {0}")]
    Status(StatusCode),
    /// the repository or tag is not there, or not for everyone
    #[error("{what}: {cause}")]
    NotThere {
        /// Docker's words for it.
        what: String,
        /// What the registry said.
        cause: Box<RegistryError>,
    },
    /// an error of something that was needed for a request
    #[error("{what}: {cause}")]
    During {
        /// The request.
        what: String,
        /// What went wrong.
        cause: Box<RegistryError>,
    },
    /// the registry wants a password and there is none
    #[error("no basic auth credentials")]
    NoCredentials,
    /// what was sent is not what the protocol, or a limit, allows
    #[error("{0}")]
    Protocol(String),
    /// the request is wrong (Docker's whole text)
    #[error("{0}")]
    Invalid(String),
    /// there is no image of this name here (Docker's whole text)
    #[error("{0}")]
    NotHere(String),
    /// the image or the disk failed
    #[error(transparent)]
    Image(Arc<ImageError>),
    /// no thread for the work
    #[error(transparent)]
    Worker(#[from] WorkerGone),
}

impl From<ImageError> for RegistryError {
    fn from(error: ImageError) -> Self {
        Self::Image(Arc::new(error))
    }
}

impl RegistryError {
    /// Behaviour of this error.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotThere { .. } | Self::NotHere(_) => ErrorClass::NotFound,
            Self::Answer { status, .. } => match *status {
                StatusCode::UNAUTHORIZED => ErrorClass::Unauthorized,
                StatusCode::FORBIDDEN => ErrorClass::Forbidden,
                StatusCode::NOT_FOUND => ErrorClass::NotFound,
                StatusCode::TOO_MANY_REQUESTS => ErrorClass::TooManyRequests,
                _ => ErrorClass::System,
            },
            Self::During { cause, .. } => cause.class(),
            Self::Invalid(_) => ErrorClass::InvalidParameter,
            Self::Worker(WorkerGone::TooMany) => ErrorClass::Unavailable,
            Self::Image(error) => match error.class() {
                gantry_image::ErrorClass::NotFound => ErrorClass::NotFound,
                _ => ErrorClass::System,
            },
            _ => ErrorClass::System,
        }
    }

    /// The same request may succeed a little later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Network(_) | Self::Worker(_) => true,
            Self::During { cause, .. } => cause.is_passing(),
            Self::Status(status) | Self::Answer { status, .. } => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    )
            }
            _ => false,
        }
    }

    /// In Docker's words for a pull of `reference`.
    pub(crate) fn of_pull(self, reference: &Reference) -> Self {
        let Self::Answer { code, .. } = &self else {
            return self;
        };
        let name = reference.familiar_name();
        let what = match code.as_str() {
            "denied" => format!(
                "pull access denied for {name}, repository does not exist or may require 'docker login'"
            ),
            "manifest unknown" => format!("manifest for {} not found", reference.familiar()),
            "name unknown" => format!("repository {name} not found"),
            _ => return self,
        };
        Self::NotThere {
            what,
            cause: Box::new(self),
        }
    }
}

/// An error of the system, in Go's words.
pub(crate) fn errno_text(e: &std::io::Error) -> String {
    use std::io::ErrorKind::*;
    match e.kind() {
        ConnectionRefused => "connection refused".into(),
        ConnectionReset => "connection reset by peer".into(),
        BrokenPipe => "broken pipe".into(),
        TimedOut => "i/o timeout".into(),
        HostUnreachable => "no route to host".into(),
        NetworkUnreachable => "network is unreachable".into(),
        UnexpectedEof => "unexpected EOF".into(),
        PermissionDenied => "permission denied".into(),
        NotFound => "no such file or directory".into(),
        _ => e.to_string(),
    }
}
