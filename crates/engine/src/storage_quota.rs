//! How much a container may write to its root file system (`StorageOpt`), by project quotas of the file system that the
//! data root is on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use gantry_launch::{ProjectQuota, set_project};

use crate::EngineError;
use crate::container::files::on_worker;
use crate::model::{FixedView, StorageQuota};
use crate::shard::Shared;

/// The first project id that is given to a container. What others use below and above is left alone.
const FIRST_PROJECT: u32 = 0x4000_0000;
/// Ids that are looked at for a free one.
const MAX_CANDIDATES: u32 = 65_536;
/// The unit of sizes like `10k`.
const KIB: f64 = 1024.0;

/// Project ids of this engine.
#[derive(Debug)]
pub(crate) struct StorageQuotas {
    /// The file system, if it can limit projects.
    quota: Option<ProjectQuota>,
    used: Mutex<BTreeSet<u32>>,
}

/// An id that goes back unless the container that it is for becomes real.
pub(crate) struct Reserved {
    shared: Arc<Shared>,
    quota: Option<StorageQuota>,
}

impl Reserved {
    pub(crate) fn quota(&self) -> Option<StorageQuota> {
        self.quota
    }

    /// The container has it now.
    pub(crate) fn keep(mut self) {
        self.quota = None;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(quota) = self.quota {
            self.shared.quotas.used().remove(&quota.project);
        }
    }
}

/// Reads a client's options and takes an id for its container.
pub(crate) async fn reserve(
    shared: &Arc<Shared>,
    options: &BTreeMap<String, String>,
) -> Result<Reserved, EngineError> {
    let (shared, options) = (shared.clone(), options.clone());
    if options.is_empty() {
        let quota = None;
        return Ok(Reserved { shared, quota });
    }
    on_worker(move || {
        let quota = shared.quotas.find(&options)?;
        Ok(Reserved { shared, quota })
    })
    .await
}

/// Lifts the limit of a container that is gone; nobody waits for it.
pub(crate) fn release_later(shared: &Arc<Shared>, quota: Option<StorageQuota>) {
    let Some(quota) = quota else { return };
    let shared = shared.clone();
    gantry_rt::spawn("container.release-quota", async move {
        let released = on_worker(move || {
            shared.quotas.release(quota);
            Ok(())
        });
        if let Err(error) = released.await {
            tracing::warn!(project = quota.project, %error, "a storage quota is not lifted");
        }
    });
}

impl StorageQuotas {
    /// Asks the file system; the ids are those of containers that exist. Blocks.
    pub(crate) fn open(data_root: &Path, used: Vec<StorageQuota>) -> Result<Self, EngineError> {
        let quota = ProjectQuota::of(data_root)
            .map_err(|e| EngineError::io(format!("open {}", data_root.display()), e))?;
        Ok(Self {
            quota,
            used: Mutex::new(used.into_iter().map(|quota| quota.project).collect()),
        })
    }

    fn used(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.used.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Reads a client's options and finds an id. Blocks (it asks the file system which id is free).
    fn find(
        &self,
        options: &BTreeMap<String, String>,
    ) -> Result<Option<StorageQuota>, EngineError> {
        match (size(options, self.quota.is_some())?, &self.quota) {
            (Some(bytes), Some(quota)) => {
                let project = self.free_project(quota)?;
                Ok(Some(StorageQuota { bytes, project }))
            }
            _ => Ok(None),
        }
    }

    fn free_project(&self, quota: &ProjectQuota) -> Result<u32, EngineError> {
        let failed = |e| EngineError::io("ask for project quotas", e);
        for project in FIRST_PROJECT..FIRST_PROJECT + MAX_CANDIDATES {
            if !self.used().insert(project) {
                continue;
            }
            // A removed container's tree may still be going, and others have projects too.
            match quota.is_used(project) {
                Ok(false) => return Ok(project),
                Ok(true) => self.used().remove(&project),
                Err(e) => {
                    self.used().remove(&project);
                    return Err(failed(e));
                }
            };
        }
        Err(EngineError::Unavailable(
            "no project id is free for a storage quota".to_owned(),
        ))
    }

    /// Puts the limit in force for the container's empty directories. Blocks.
    pub(crate) fn apply(&self, fixed: &FixedView) -> Result<(), EngineError> {
        let (Some(wanted), Some(quota)) = (fixed.host.storage_quota, &self.quota) else {
            return Ok(());
        };
        let failed = |e| EngineError::io("set the storage quota", e);
        quota.limit(wanted.project, wanted.bytes).map_err(failed)?;
        for dir in [fixed.upper_path(), fixed.work_path()] {
            set_project(&dir, wanted.project).map_err(failed)?;
        }
        Ok(())
    }

    /// Lifts the limit of a container that is gone. Blocks.
    fn release(&self, wanted: StorageQuota) {
        if let Some(quota) = &self.quota
            && let Err(error) = quota.limit(wanted.project, 0)
        {
            tracing::warn!(project = wanted.project, %error, "a storage quota can't be lifted");
        }
        self.used().remove(&wanted.project);
    }
}

/// The size that is asked for, none if it is 0. Texts of dockerd's overlay2.
fn size(options: &BTreeMap<String, String>, supported: bool) -> Result<Option<u64>, EngineError> {
    let invalid = |text: String| Err(EngineError::InvalidParameter(text));
    if options.contains_key("size") && !supported {
        return Err(EngineError::System(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
                .to_owned(),
        ));
    }
    let mut size = None;
    for (key, value) in options {
        // Any spelling but this one, where there are no quotas, makes dockerd panic.
        if !key.eq_ignore_ascii_case("size") || !supported {
            return invalid(format!("Unknown option {key}"));
        }
        size = match gantry_logs::parse_size(value, KIB) {
            Ok(bytes) => (bytes > 0).then_some(bytes),
            Err(e) => return invalid(e.to_string()),
        };
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(options: &[(&str, &str)], supported: bool) -> Result<Option<u64>, String> {
        let options = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        size(&options.collect(), supported).map_err(|e| e.to_string())
    }

    #[test]
    fn options_are_read_as_by_overlay2() {
        assert_eq!(ask(&[("size", "10m")], true), Ok(Some(10 << 20)));
        assert_eq!(ask(&[("SIZE", "1.5k")], true), Ok(Some(1536)));
        assert_eq!(ask(&[("size", "0")], true), Ok(None));
        assert_eq!(ask(&[], false), Ok(None));
        for (options, supported, text) in [
            (&[("size", "x")][..], true, "invalid size: 'x'"),
            (&[("size", "-1")], true, "invalid size: '-1'"),
            (&[("zz", "1")], true, "Unknown option zz"),
            (&[("zz", "1")], false, "Unknown option zz"),
            (&[("SIZE", "1g")], false, "Unknown option SIZE"),
            (
                &[("size", "x"), ("zz", "1")],
                false,
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
            ),
        ] {
            assert_eq!(ask(options, supported), Err(text.to_owned()));
        }
    }

    #[test]
    fn without_quotas_nothing_is_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let quotas = StorageQuotas::open(dir.path(), Vec::new()).unwrap();
        if quotas.quota.is_some() {
            return; // this machine's temporary directory has them
        }
        assert_eq!(quotas.find(&BTreeMap::new()).unwrap(), None);
        let options = [("size".to_owned(), "1g".to_owned())].into();
        assert!(quotas.find(&options).is_err());
    }
}
