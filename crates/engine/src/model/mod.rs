//! The data of the engine: what a client asks for, what is stored, what readers see.

mod health;
mod isolation;
mod mount;
mod query;
mod record;
mod spec;
mod status;
mod update;
mod view;

pub use health::*;
pub use isolation::*;
pub use mount::*;
pub use query::*;
pub use record::*;
pub use spec::*;
pub use status::*;
pub use update::*;
pub use view::*;
