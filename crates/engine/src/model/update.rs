//! What a client may change of a container that exists.

use std::fmt;

use super::{ResourceLimits, RestartPolicy};

/// Makes the client's document as it is after an update.
pub type Rewrite = Box<dyn FnOnce(&str) -> Result<String, String> + Send>;

/// A change of limits and restart policy. `None` and empty mean: as it is.
pub struct UpdateSpec {
    /// New limits; 0 in `pids_max` lifts that one.
    pub limits: ResourceLimits,
    /// New restart policy.
    pub restart: Option<RestartPolicy>,
    /// Why it can't be done to a container that runs.
    pub refused_live: Option<String>,
    /// For the client's document.
    pub rewrite: Rewrite,
}

impl fmt::Debug for UpdateSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateSpec")
            .field("limits", &self.limits)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}
