//! The handle the rest of the daemon holds.

use std::sync::Arc;

use crate::events::{EventStream, EventsQuery};
use crate::model::*;
use crate::{AttachTicket, EngineError, LogStream, WaitHandle};

/// The engine; cheap to clone, usable on every shard.
#[derive(Clone)]
pub struct Engine {}

fn not_connected<T>() -> Result<T, EngineError> {
    Err(EngineError::Unavailable("the engine is not connected yet".to_owned()))
}

impl Engine {
    /// Makes a container.
    pub async fn create(&self, _spec: CreateSpec) -> Result<Created, EngineError> {
        not_connected()
    }
    /// Starts it; `NotModified` if it runs.
    pub async fn start(&self, _key: &str) -> Result<(), EngineError> {
        not_connected()
    }
    /// Stops it: signal, grace, kill. `NotModified` if it does not run.
    pub async fn stop(&self, _key: &str, _options: StopOptions) -> Result<(), EngineError> {
        not_connected()
    }
    /// Stops it if it runs, and starts it.
    pub async fn restart(&self, _key: &str, _options: StopOptions) -> Result<(), EngineError> {
        not_connected()
    }
    /// Sends a signal (name or number; empty means KILL).
    pub async fn kill(&self, _key: &str, _signal: &str) -> Result<(), EngineError> {
        not_connected()
    }
    /// Freezes its processes.
    pub async fn pause(&self, _key: &str) -> Result<(), EngineError> {
        not_connected()
    }
    /// Thaws its processes.
    pub async fn unpause(&self, _key: &str) -> Result<(), EngineError> {
        not_connected()
    }
    /// Registers a wait; await the handle for the result.
    pub async fn wait(&self, _key: &str, _condition: WaitCondition) -> Result<WaitHandle, EngineError> {
        not_connected()
    }
    /// Removes it.
    pub async fn remove(&self, _key: &str, _options: RemoveOptions) -> Result<(), EngineError> {
        not_connected()
    }
    /// Gives it another name.
    pub async fn rename(&self, _key: &str, _new_name: &str) -> Result<(), EngineError> {
        not_connected()
    }
    /// Sets the size of its terminal.
    pub async fn resize(&self, _key: &str, _rows: u16, _columns: u16) -> Result<(), EngineError> {
        not_connected()
    }
    /// Its processes.
    pub async fn top(&self, _key: &str, _ps_args: &str) -> Result<Top, EngineError> {
        not_connected()
    }
    /// Checks an attach; the connection is given to the ticket afterwards.
    pub async fn attach(&self, _key: &str, _options: AttachOptions) -> Result<AttachTicket, EngineError> {
        not_connected()
    }
    /// Opens its log.
    pub async fn logs(&self, _key: &str, _options: LogsOptions) -> Result<LogStream, EngineError> {
        not_connected()
    }
    /// The container with this id, name or unambiguous id prefix, as it is now.
    pub fn inspect(&self, _key: &str) -> Result<Arc<ContainerView>, EngineError> {
        not_connected()
    }
    /// Containers that match, newest first.
    pub fn list(&self, _options: &ListOptions) -> Result<Vec<Arc<ContainerView>>, EngineError> {
        not_connected()
    }
    /// Past events that match, then new ones. Must be called on a shard.
    pub fn events(&self, query: &EventsQuery) -> Result<EventStream, EngineError> {
        crate::events::check(query)?;
        not_connected()
    }
    /// Tells the world about an event of another kind of object (images).
    pub fn publish_event(&self, _kind: &'static str, _action: &str, _id: &str, _attributes: Vec<(String, String)>) {}
    /// Numbers for `/info`.
    pub fn counts(&self) -> Counts {
        Counts::default()
    }
    /// A container that uses this image: its id, and whether it runs (running ones first).
    pub fn image_user(&self, _image_id: &str) -> Option<(ContainerId, bool)> {
        None
    }
}
