//! Why an image cannot be made.

use std::io;

/// What can go wrong while an image is made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// an extraction would have failed here, with this error of the kernel
    #[error(transparent)]
    Refused(io::Error),
    /// more than a tree or an image holds
    #[error("limit exceeded: {0}")]
    Limit(&'static str),
    /// the image could not be written
    #[error("write the image: {0}")]
    Write(#[from] io::Error),
}

/// The kernel's errors that an extraction would meet (the numbers of Linux).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Errno {
    NotPermitted = 1,
    NoEntry = 2,
    NotDirectory = 20,
    Invalid = 22,
    OutOfRange = 34,
    NameTooLong = 36,
    Loop = 40,
}

impl From<Errno> for BuildError {
    fn from(errno: Errno) -> Self {
        Self::Refused(io::Error::from_raw_os_error(errno as i32))
    }
}
