//! What can go wrong between us and the kernel.

use std::io;

use rustix::io::Errno;

/// A request about networks that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel refused one message of a batch. Those before it are done, but for packet filters, where nothing is.
    #[error("{}", refusal(*.errno, .text))]
    Refused {
        /// Which message of the batch, from 0.
        index: usize,
        /// Why.
        errno: Errno,
        /// What the kernel says beside the number; often empty.
        text: String,
    },
    /// The conversation itself failed.
    #[error("netlink: {0}")]
    Io(#[from] io::Error),
    /// The kernel's answer makes no sense.
    #[error("netlink: the kernel's answer {0}")]
    Answer(&'static str),
    /// A request is larger than a message can be.
    #[error("netlink: a request is too large")]
    TooLarge,
}

fn refusal(errno: Errno, text: &str) -> String {
    let reason = io::Error::from(errno).to_string();
    let reason = reason.split(" (os error").next().unwrap_or_default();
    if text.is_empty() {
        reason.to_lowercase()
    } else {
        format!("{}: {text}", reason.to_lowercase())
    }
}

impl NetError {
    /// The kernel's number, if it refused a message.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            NetError::Refused { errno, .. } => Some(*errno),
            NetError::Io(error) => Errno::from_io_error(error),
            _ => None,
        }
    }

    /// Whether what was to be made is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EXIST)
    }

    /// Whether what was asked for is not there.
    pub fn is_missing(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::NODEV | Errno::NOENT | Errno::SRCH | Errno::ADDRNOTAVAIL)
        )
    }
}

impl From<Errno> for NetError {
    fn from(errno: Errno) -> Self {
        NetError::Io(errno.into())
    }
}
