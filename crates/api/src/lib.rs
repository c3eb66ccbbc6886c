//! The Engine API of Docker on HTTP: routes, handlers, wire types, version gates, error map.
//!
//! **Architecture invariants**
//! - Only this crate knows HTTP and the field names of Docker's JSON; `engine` and `image` never see a request.
//! - The table in [`operations`] is the only list of routes. What has no handler answers 501 with its name.
//! - Errors become statuses in [`error`] and nowhere else.
//! - No request panics the daemon: bodies, heads and parameters have limits and typed errors.

pub mod context;
pub mod convert;
pub mod error;
pub mod filters;
pub mod glob;
mod handlers;
pub mod json;
pub mod operations;
pub mod query;
pub mod render;
mod reply;
pub mod router;
mod service;
pub mod text;
pub mod version;
pub mod wire;

pub use context::{Context, DaemonInfo, PredefinedNetwork, Settings};
pub use service::ApiService;
