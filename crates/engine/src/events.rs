//! Events: what happened to which object.

use crate::EngineError;
use crate::model::FilterMap;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `container`, `image`, ...
    pub kind: &'static str,
    /// `start`, `die`, ...
    pub action: String,
    /// Id of the object.
    pub actor_id: String,
    /// Attributes, sorted by name.
    pub attributes: Vec<(String, String)>,
    /// When, nanoseconds since 1970.
    pub time_unix_ns: i64,
}

/// Which events a client wants.
#[derive(Debug, Clone, Default)]
pub struct EventsQuery {
    /// Not before.
    pub since_unix_ns: Option<i64>,
    /// Not after; the stream ends there.
    pub until_unix_ns: Option<i64>,
    /// Filters as the client wrote them.
    pub filters: FilterMap,
}

/// A client's stream of events; lives on the shard where it was made.
pub struct EventStream {}

impl EventStream {
    /// The next event; `None` when the stream has ended (`until` reached, the client too slow, or
    /// the daemon going down).
    pub async fn next(&mut self) -> Option<std::sync::Arc<Event>> {
        None
    }
}

pub(crate) fn check(_q: &EventsQuery) -> Result<(), EngineError> {
    Ok(())
}
