//! Containers: their state machine, life cycle, events and queries. Knows neither HTTP nor the field
//! names of Docker's JSON; a container belongs to one shard and is reached by message.

mod engine;
mod error;
mod events;
mod handles;
mod ids;
pub mod model;
mod names;

pub use engine::Engine;
pub use error::{EngineError, ErrorClass};
pub use events::{Event, EventStream, EventsQuery};
pub use handles::{AttachTicket, LogStream, WaitHandle};
