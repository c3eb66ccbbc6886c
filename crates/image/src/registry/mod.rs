//! What a registry's client needs of the store: partial downloads, layers from blobs, images with their manifests, and
//! what a push sends.

mod lease;
mod manifest;
mod partial;
mod pull;
mod push;

pub use lease::ContentLease;
pub use manifest::{Descriptor, Index, Manifest, Media};
pub(crate) use partial::Partials;
pub use partial::{MAX_PARTIAL_AGE, MAX_PARTIAL_BYTES, Partial};
pub use pull::{PulledImage, PulledLayer, PulledNames};
pub use push::{PushBlob, PushImage, PushLayer, new_manifest};
