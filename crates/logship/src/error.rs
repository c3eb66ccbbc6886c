//! What can be wrong.

/// A driver cannot be used as it is asked for. The text is Docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl From<String> for Refused {
    fn from(text: String) -> Refused {
        Refused(text)
    }
}

impl From<&str> for Refused {
    fn from(text: &str) -> Refused {
        Refused(text.to_owned())
    }
}

impl From<gantry_logs::BadOption> for Refused {
    fn from(error: gantry_logs::BadOption) -> Refused {
        Refused(error.to_string())
    }
}

/// A service did not take records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct SinkError {
    pub(crate) text: String,
    /// So many of the next records it will never take.
    pub(crate) skip: usize,
}

impl SinkError {
    /// Another try may succeed.
    pub(crate) fn passing(text: impl Into<String>) -> SinkError {
        let text = text.into();
        SinkError { text, skip: 0 }
    }

    /// Another try with these records cannot succeed.
    pub(crate) fn permanent(text: impl Into<String>, skip: usize) -> SinkError {
        let text = text.into();
        SinkError { text, skip }
    }

    /// An I/O error in Go's words.
    pub(crate) fn io(what: &str, error: &std::io::Error) -> SinkError {
        SinkError::passing(format!("{what}: {}", errno_text(error)))
    }
}

/// What Go calls an error of the kernel.
pub(crate) fn errno_text(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::TimedOut {
        return "i/o timeout".to_owned();
    }
    let text = error.to_string();
    match error.raw_os_error() {
        // Rust has the C library's sentence and the number behind it; Go the sentence in lower case.
        Some(_) => {
            let sentence = text.split(" (os error").next().unwrap_or(&text);
            let mut letters = sentence.chars();
            letters.next().map_or_else(String::new, |first| {
                first.to_lowercase().chain(letters).collect()
            })
        }
        None => text,
    }
}
