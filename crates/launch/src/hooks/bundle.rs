//! What hooks of a container of the built-in launcher find on the host: a directory with `config.json`, as an external
//! runtime's container has it, in which the root file system is attached as long as they may change it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Hooks;
use crate::error::LaunchError;
use crate::oci;

/// Below exec-root: directories by container id.
const BUNDLES: &str = "hooks";
const CONFIG: &str = "config.json";
/// Where the root file system is attached, in a mount namespace of the container.
const ROOTFS: &str = "rootfs";
/// Longest document that is believed.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// One container's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookBundle {
    id: String,
    dir: PathBuf,
    annotations: BTreeMap<String, String>,
}

impl HookBundle {
    /// That of a container; nothing is made yet.
    pub fn new(exec_root: &Path, id: &str) -> HookBundle {
        HookBundle {
            id: id.to_owned(),
            dir: exec_root.join(BUNDLES).join(id),
            annotations: BTreeMap::new(),
        }
    }

    /// The same, with the container's annotations.
    pub(super) fn with_annotations(self, annotations: BTreeMap<String, String>) -> HookBundle {
        HookBundle {
            annotations,
            ..self
        }
    }

    /// What a container that was started has, and the hooks it was started with; `None` if it had none.
    ///
    /// # Errors
    /// The kernel's, or a document that is not readable.
    pub fn open(exec_root: &Path, id: &str) -> io::Result<Option<(HookBundle, Hooks)>> {
        #[derive(Deserialize)]
        struct Noted {
            hooks: Hooks,
            #[serde(default)]
            annotations: BTreeMap<String, String>,
        }
        let bundle = HookBundle::new(exec_root, id);
        let mut json = Vec::new();
        match std::fs::File::open(bundle.dir.join(CONFIG)) {
            Ok(file) => file.take(MAX_CONFIG_BYTES).read_to_end(&mut json)?,
            // Without its document nothing has run yet.
            Err(e) if e.kind() == io::ErrorKind::NotFound && bundle.dir.exists() => {
                return Ok(Some((bundle, Hooks::new())));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let noted: Noted = serde_json::from_slice(&json).map_err(io::Error::from)?;
        let bundle = bundle.with_annotations(noted.annotations);
        Ok(Some((bundle, noted.hooks)))
    }

    /// Ids of all containers that have one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ids(exec_root: &Path) -> io::Result<Vec<String>> {
        oci::names_in(&exec_root.join(BUNDLES))
    }

    /// Which container.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn root_point(&self) -> PathBuf {
        self.dir.join(ROOTFS)
    }

    /// Makes it anew. The document appears whole or not at all: whoever finds it knows what has to run in the end.
    pub(super) fn make(&self, config: &[u8]) -> Result<(), LaunchError> {
        let made = || {
            self.remove()?;
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(self.root_point())?;
            let temporary = self.dir.join("config.json.new");
            std::fs::write(&temporary, config)?;
            std::fs::rename(&temporary, self.dir.join(CONFIG))
        };
        made()
            .map_err(|e| LaunchError::prepare("make the bundle", self.dir.display().to_string(), e))
    }

    /// Removes it; having none is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Hook, HookKind};
    use super::*;

    #[test]
    fn hooks_are_found_again() {
        let root = tempfile::tempdir().expect("directory");
        let open = || HookBundle::open(root.path(), "c");
        assert_eq!(open().expect("open"), None);
        let bundle = HookBundle::new(root.path(), "c");
        let hook = Hook {
            path: "/h".into(),
            timeout: Some(3),
            ..Hook::default()
        };
        let hooks = Hooks::from([(HookKind::Poststop, vec![hook])]);
        let config = serde_json::json!({"process": {}, "hooks": hooks});
        let config = serde_json::to_vec(&config).expect("JSON");
        bundle.make(&config).expect("make");
        bundle.make(&config).expect("again");
        assert_eq!(open().expect("open"), Some((bundle.clone(), hooks)));
        assert_eq!(HookBundle::ids(root.path()).expect("list"), ["c"]);
        std::fs::write(bundle.dir().join(CONFIG), b"{").expect("write");
        assert!(open().is_err());
        bundle.remove().expect("remove");
        bundle.remove().expect("again");
        assert_eq!(open().expect("open"), None);
    }
}
