//! Which runtime starts a container: the built-in launcher, or an external one that the daemon's settings name.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use gantry_launch::Runtime;

use crate::EngineError;

/// Name of the built-in launcher.
pub const BUILT_IN_RUNTIME: &str = "gantry";
/// What clients and files say that were written for dockerd: the built-in launcher, unless a runtime of that name is
/// configured.
const STOCK_NAMES: &[&str] = &["runc", "io.containerd.runc.v2"];

/// The runtimes there are, as the daemon's settings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtimes {
    /// Of containers that name none.
    pub default: String,
    /// External ones by name.
    pub external: BTreeMap<String, Runtime>,
}

impl Default for Runtimes {
    fn default() -> Self {
        Self {
            default: BUILT_IN_RUNTIME.to_owned(),
            external: BTreeMap::new(),
        }
    }
}

impl Runtimes {
    /// The external runtime of this name; `None` is the built-in launcher.
    ///
    /// # Errors
    /// dockerd's, if there is none of this name.
    pub fn find(&self, name: &str) -> Result<Option<&Runtime>, EngineError> {
        let name = if name.is_empty() { &self.default } else { name };
        match self.external.get(name) {
            Some(runtime) => Ok(Some(runtime)),
            None if name == BUILT_IN_RUNTIME || STOCK_NAMES.contains(&name) => Ok(None),
            None => Err(EngineError::InvalidParameter(format!(
                "unknown or invalid runtime name: {name}"
            ))),
        }
    }
}

/// The runtimes at this moment; a reload replaces them.
#[derive(Debug)]
pub(crate) struct Chosen(RwLock<Arc<Runtimes>>);

impl Chosen {
    pub(crate) fn new(runtimes: Runtimes) -> Self {
        Self(RwLock::new(Arc::new(runtimes)))
    }

    pub(crate) fn get(&self) -> Arc<Runtimes> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set(&self, runtimes: Runtimes) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(runtimes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let external = |name: &str| Runtime {
            name: name.to_owned(),
            path: format!("/bin/{name}"),
            args: Vec::new(),
        };
        let mut runtimes = Runtimes::default();
        for built_in in ["", "gantry", "runc", "io.containerd.runc.v2"] {
            assert_eq!(runtimes.find(built_in).unwrap(), None, "{built_in}");
        }
        assert_eq!(
            runtimes.find("crun").unwrap_err().to_string(),
            "unknown or invalid runtime name: crun"
        );
        runtimes.external = ["runc", "crun"].map(|n| (n.to_owned(), external(n))).into();
        runtimes.default = "crun".to_owned();
        assert_eq!(runtimes.find("").unwrap(), Some(&external("crun")));
        assert_eq!(runtimes.find("runc").unwrap(), Some(&external("runc")));
        assert_eq!(runtimes.find("gantry").unwrap(), None);
    }
}
