//! What can go wrong with images; the text is Docker's where Docker has one.

use std::io;

use gantry_store::StoreError;

/// Behaviour of an error, for the map to HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// There is no such thing.
    NotFound,
    /// The state forbids it.
    Conflict,
    /// The request or its archive is wrong.
    InvalidParameter,
    /// The machine failed.
    System,
}

/// What can go wrong with images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No such image: {0}
    #[error("No such image: {0}")]
    NotFound(String),
    /// the image is for another platform than the wished one
    #[error(
        "image with reference {name} was found but its platform ({has}) does not match the specified platform ({wanted})"
    )]
    WrongPlatform {
        /// As the client named it.
        name: String,
        /// Platform of the image.
        has: String,
        /// Platform that was asked for.
        wanted: String,
    },
    /// the state of the image forbids it (Docker's whole text)
    #[error("{0}")]
    Conflict(String),
    /// the reference or parameter is wrong (Docker's whole text)
    #[error("{0}")]
    InvalidReference(String),
    /// the archive is damaged, hostile or of an unknown kind
    #[error("invalid archive: {0}")]
    InvalidArchive(String),
    /// there is nothing to push (Docker's whole text)
    #[error("{0}")]
    NotPushable(String),
    /// what a registry sent is not what its digest says
    #[error("filesystem layer verification failed for digest {0}")]
    Unverified(String),
    /// a file could not be read or written
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// the metadata database refused
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImageError {
    /// Behaviour of this error.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound(_) | Self::NotPushable(_) | Self::WrongPlatform { .. } => {
                ErrorClass::NotFound
            }
            Self::Conflict(_) => ErrorClass::Conflict,
            Self::InvalidReference(_) | Self::InvalidArchive(_) => ErrorClass::InvalidParameter,
            Self::Unverified(_) | Self::Io { .. } | Self::Store(_) => ErrorClass::System,
        }
    }

    /// The end of an archive is missing, in Docker's words.
    pub(crate) fn truncated() -> Self {
        Self::InvalidReference("unexpected EOF".into())
    }

    /// A stream of the client failed: cut, or damaged where it is compressed.
    pub(crate) fn reading(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::truncated(),
            _ => Self::archive(format_args!("read: {error}")),
        }
    }

    pub(crate) fn archive(what: impl std::fmt::Display) -> Self {
        Self::InvalidArchive(what.to_string())
    }
}

impl From<crate::tar::TarError> for ImageError {
    fn from(error: crate::tar::TarError) -> Self {
        use crate::tar::TarError;
        match error {
            TarError::Truncated => Self::truncated(),
            TarError::Io(e) => Self::reading(e),
            other => Self::archive(other),
        }
    }
}

/// Names what was tried.
pub(crate) trait IoContext<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, ImageError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, ImageError> {
        self.map_err(|e| ImageError::Io {
            what: what(),
            source: e.into(),
        })
    }
}
