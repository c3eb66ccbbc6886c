//! The errors of the engine. The doc comment of a variant is its message; the class decides the HTTP
//! status in one place of the `api` crate.

/// What kind of failure an [`EngineError`] is, independent of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The named object does not exist (404).
    NotFound,
    /// The object's state or another object forbids it (409).
    Conflict,
    /// The request itself is wrong (400).
    InvalidParameter,
    /// Nothing had to be done (304).
    NotModified,
    /// The caller may not do this (403).
    Forbidden,
    /// A bound was reached or the daemon is going down (503).
    Unavailable,
    /// The kernel, the disk or a helper process failed (500).
    System,
    /// A feature that is not built (501).
    NotImplemented,
}

/// A failed engine operation, with Docker's message text where Docker has one.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No such container: {0}
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// No such image: {0}
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// Multiple IDs found with provided prefix: {0}
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousPrefix(String),
    /// Conflict. The container name "/{name}" is already in use by container "{holder}". ...
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The wanted name, without the slash.
        name: String,
        /// Id of the container that has it.
        holder: String,
    },
    /// The container is not running (kill, pause, resize, top, ...)
    #[error("{prefix}container {id} is not running")]
    NotRunning {
        /// Text in front of Docker's sentence, for example `cannot kill container: web: `.
        prefix: String,
        /// The container's full id.
        id: String,
    },
    /// {0}
    #[error("{0}")]
    NotFound(String),
    /// {0}
    #[error("{0}")]
    Conflict(String),
    /// {0}
    #[error("{0}")]
    InvalidParameter(String),
    /// The wanted state is the present one.
    #[error("the container is already in the wanted state")]
    NotModified,
    /// {0}
    #[error("{0}")]
    Forbidden(String),
    /// {0}
    #[error("{0}")]
    Unavailable(String),
    /// {0}
    #[error("{0}")]
    NotImplemented(String),
    /// The program of the container can't be started; `exit_code` is 126 or 127.
    #[error("{message}")]
    BadCommand {
        /// Docker's text, as runc words it.
        message: String,
        /// 126 or 127.
        exit_code: i32,
    },
    /// {context}: {source}
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// {0}
    #[error("{0}")]
    System(String),
    /// {0}
    #[error("{0}")]
    Store(#[from] gantry_store::StoreError),
    /// {0}
    #[error("{0}")]
    Image(#[from] gantry_image::ImageError),
}

impl EngineError {
    /// The same failure with Docker's words about the operation in front.
    pub(crate) fn prefixed(self, prefix: &str) -> Self {
        let text = format!("{prefix}{self}");
        match self.class() {
            ErrorClass::NotFound => Self::NotFound(text),
            ErrorClass::Conflict => Self::Conflict(text),
            ErrorClass::InvalidParameter => Self::InvalidParameter(text),
            ErrorClass::System => Self::System(text),
            ErrorClass::NotModified
            | ErrorClass::Forbidden
            | ErrorClass::Unavailable
            | ErrorClass::NotImplemented => self,
        }
    }

    /// The class of this error.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoSuchContainer(_) | Self::NoSuchImage(_) | Self::NotFound(_) => {
                ErrorClass::NotFound
            }
            Self::NameInUse { .. } | Self::NotRunning { .. } | Self::Conflict(_) => {
                ErrorClass::Conflict
            }
            Self::AmbiguousPrefix(_) | Self::InvalidParameter(_) | Self::BadCommand { .. } => {
                ErrorClass::InvalidParameter
            }
            Self::NotModified => ErrorClass::NotModified,
            Self::Forbidden(_) => ErrorClass::Forbidden,
            Self::Unavailable(_) => ErrorClass::Unavailable,
            Self::NotImplemented(_) => ErrorClass::NotImplemented,
            Self::Io { .. } | Self::System(_) => ErrorClass::System,
            Self::Store(gantry_store::StoreError::Busy) => ErrorClass::Unavailable,
            Self::Store(_) => ErrorClass::System,
            Self::Image(e) => match e.class() {
                gantry_image::ErrorClass::NotFound => ErrorClass::NotFound,
                gantry_image::ErrorClass::Conflict => ErrorClass::Conflict,
                gantry_image::ErrorClass::InvalidParameter => ErrorClass::InvalidParameter,
                gantry_image::ErrorClass::System => ErrorClass::System,
            },
        }
    }

    /// An I/O failure with what was being done.
    pub(crate) fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io {
            context: context.into(),
            source,
        }
    }
}
