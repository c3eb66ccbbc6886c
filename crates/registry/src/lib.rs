//! The client of image registries: pull, push, login, search (OCI distribution 1.1 and Docker's schema 2).
//!
//! **Architecture invariants**
//! - Everything here runs in the guest lane; what blocks (disk, hashes, unpacking) runs on threads beside it.
//! - Nothing that was not verified against its digest leaves this crate: a blob becomes a layer, a manifest an image, only
//!   after that. Every answer has a limit, every wait an end.
//! - A blob is fetched once, however many clients want it; it is given up when the last of them is gone.
//! - What is read of a registry is hostile: it is parsed by functions that are fuzzed, and never taken for a path.

mod auth;
pub mod challenge;
mod config;
mod error;
mod event;
mod find;
mod http;
mod inspect;
mod jobs;
mod login;
mod net;
mod pull;
mod push;
mod session;
mod settings;
mod tls;
mod transfer;
mod url;

use std::sync::{Arc, Mutex, PoisonError};

use gantry_image::ImageStore;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

pub use auth::AuthConfig;
pub use error::{ErrorClass, RegistryError};
pub use event::{Event, Report, Step};
pub use find::Found;
pub use inspect::{Remote, RemotePlatform};
pub use pull::{PullRequest, Which};
pub use push::PushRequest;
pub use session::{MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES};
pub use settings::{
    DEFAULT_CERTS_DIR, DEFAULT_MAX_CONCURRENT_DOWNLOADS, DEFAULT_MAX_CONCURRENT_UPLOADS,
    DEFAULT_MAX_DOWNLOAD_ATTEMPTS, Proxies, Settings,
};

use crate::config::Configs;
use crate::transfer::Downloads;

/// The client; one for the process.
pub struct Registry {
    images: Arc<ImageStore>,
    settings: Mutex<Arc<Settings>>,
    downloads: Downloads,
    configs: Configs,
    uploads: Semaphore,
}

impl Registry {
    /// A client that puts images into this store.
    pub fn new(images: Arc<ImageStore>, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            images,
            downloads: Downloads::new(settings.max_concurrent_downloads),
            configs: Configs::default(),
            uploads: Semaphore::new(
                settings
                    .max_concurrent_uploads
                    .clamp(1, Semaphore::MAX_PERMITS),
            ),
            settings: Mutex::new(Arc::new(settings)),
        })
    }

    /// The settings now.
    pub fn settings(&self) -> Arc<Settings> {
        let settings = self.settings.lock();
        settings.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `sha256:<64 hex>` of bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        // A String takes all there is.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// How Docker shows a digest in progress: its first twelve digits.
pub(crate) fn short(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex).to_owned()
}
