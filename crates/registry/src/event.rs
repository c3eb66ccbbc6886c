//! What a client is told while it waits, in Docker's words.

/// Told to the client as it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A line of its own.
    Line {
        /// What it is about.
        id: Option<String>,
        /// The line.
        text: String,
    },
    /// Where a layer is.
    Layer {
        /// Its short digest.
        id: String,
        /// What happens to it.
        step: Step,
    },
    /// What was pushed under a tag.
    Pushed {
        /// The tag.
        tag: String,
        /// Digest of the manifest.
        digest: String,
        /// Length of the manifest.
        size_bytes: u64,
    },
}

/// What happens to a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new state.
    Now(String),
    /// How far a state is; may be left out.
    Bytes {
        /// The state.
        name: &'static str,
        /// So far.
        current: u64,
        /// Of how many.
        total: u64,
    },
}

/// Who hears of events. Called in the guest lane; must not block.
pub type Report<'a> = &'a dyn Fn(Event);

pub(crate) fn line(id: Option<&str>, text: impl Into<String>) -> Event {
    Event::Line {
        id: id.map(str::to_owned),
        text: text.into(),
    }
}

pub(crate) fn layer(id: &str, text: impl Into<String>) -> Event {
    Event::Layer {
        id: id.to_owned(),
        step: Step::Now(text.into()),
    }
}
