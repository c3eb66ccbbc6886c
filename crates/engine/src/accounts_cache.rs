//! The account files of images, kept: a start of a container that has written nothing yet finds them here.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::EngineError;
use crate::user::Accounts;

/// Images whose files are kept; the one that came first goes first.
pub const ACCOUNTS_CACHE_CAPACITY: usize = 64;
/// Files that are longer together are read anew each time.
pub const ACCOUNTS_CACHE_MAX_BYTES: usize = 64 << 10;

/// By image id. Layers never change, so an entry is true for good.
#[derive(Default)]
pub(crate) struct AccountsCache(Mutex<VecDeque<(String, Arc<Accounts>)>>);

impl AccountsCache {
    /// The files as a container of this image with this upper directory sees them at its start. Blocks.
    pub(crate) fn of_start(
        &self,
        image_id: &str,
        upper: &Path,
        lowers: &[impl AsRef<Path>],
    ) -> Result<Arc<Accounts>, EngineError> {
        if !is_empty(upper) {
            let mut layers = vec![upper];
            layers.extend(lowers.iter().map(AsRef::as_ref));
            return Accounts::read(&layers).map(Arc::new);
        }
        if let Some(kept) = self.find(image_id) {
            return Ok(kept);
        }
        let read = Arc::new(Accounts::read(lowers)?);
        if read.passwd.len() + read.group.len() <= ACCOUNTS_CACHE_MAX_BYTES {
            self.keep(image_id, &read);
        }
        Ok(read)
    }

    fn find(&self, image_id: &str) -> Option<Arc<Accounts>> {
        let entries = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let found = entries.iter().find(|(id, _)| id == image_id)?;
        Some(found.1.clone())
    }

    fn keep(&self, image_id: &str, accounts: &Arc<Accounts>) {
        let mut entries = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if entries.iter().any(|(id, _)| id == image_id) {
            return;
        }
        if entries.len() == ACCOUNTS_CACHE_CAPACITY {
            entries.pop_front();
        }
        entries.push_back((image_id.to_owned(), accounts.clone()));
    }
}

/// Whether nothing was written over the image. Not knowing is no.
fn is_empty(upper: &Path) -> bool {
    std::fs::read_dir(upper).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_wrote_counts_and_the_oldest_entry_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (upper, lower) = (dir.path().join("upper"), dir.path().join("lower"));
        std::fs::create_dir_all(lower.join("etc")).unwrap();
        std::fs::create_dir(&upper).unwrap();
        std::fs::write(lower.join("etc/passwd"), "low:x:5:5::/:\n").unwrap();
        let (cache, lowers) = (AccountsCache::default(), [lower.clone()]);
        let passwd = |id: &str| cache.of_start(id, &upper, &lowers).unwrap().passwd.clone();
        assert_eq!(passwd("a"), "low:x:5:5::/:\n");
        // Kept: layers do not change, this test makes one change to see it.
        std::fs::write(lower.join("etc/passwd"), "new:x:5:5::/:\n").unwrap();
        assert_eq!(passwd("a"), "low:x:5:5::/:\n");
        assert_eq!(passwd("b"), "new:x:5:5::/:\n");
        for other in 0..ACCOUNTS_CACHE_CAPACITY {
            passwd(&format!("other{other}"));
        }
        assert_eq!(passwd("a"), "new:x:5:5::/:\n");
        std::fs::create_dir(upper.join("etc")).unwrap();
        std::fs::write(upper.join("etc/passwd"), "own:x:6:6::/:\n").unwrap();
        assert_eq!(passwd("a"), "own:x:6:6::/:\n");
    }
}
