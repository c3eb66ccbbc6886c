//! Images: references, the archive formats they come in, layers on disk, and the records that name them.
//!
//! **Architecture invariants**
//! - Every method of [`ImageStore`] except [`ImageStore::snapshot`] blocks and runs on a worker; readers only ever see
//!   an immutable [`ImageSnapshot`].
//! - Archives are hostile: only [`tar`] reads them, every limit has a name, and a layer reaches the disk only through
//!   `openat2(RESOLVE_IN_ROOT)` below its own root.
//! - A layer or blob is synced before the record that names it is committed. What was in flight at a crash lies under
//!   `tmp/` and is removed at boot.
//! - No layer is accepted whose content does not hash to the image's own diff id.

mod archive;
mod blobs;
mod changes;
mod commit;
mod digest;
mod durable;
mod error;
mod holds;
mod import;
pub mod layer;
mod load;
mod model;
mod oci;
mod pins;
mod platform;
mod progress;
mod prune;
pub mod reference;
pub mod registry;
mod remove;
mod save;
mod snapshot;
mod space;
mod store;
mod tagging;
pub mod tar;
pub mod tree;

pub use commit::CommitOptions;
pub use digest::ImageId;
pub use error::{ErrorClass, ImageError};
pub use holds::ImageHold;
pub use import::ImportOptions;
pub use load::{LoadEvent, Loaded};
pub use model::{Healthcheck, History, Image, ImageConfig};
pub use platform::Platform;
pub use reference::Reference;
pub use remove::{Deleted, Removal, UsedBy};
pub use save::SavePlan;
pub use snapshot::ImageSnapshot;
pub use space::MIN_FREE_BYTES;
pub use store::ImageStore;
