//! Which container an exec belongs to, how it stands, and which execs of a container are not ended: for readers on every
//! shard.

use std::sync::{Arc, Mutex, MutexGuard};

use rustc_hash::FxHashMap;

use super::{ExecId, Shown};
use crate::model::ContainerId;

/// Where an exec lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) shard: usize,
    pub(crate) container: ContainerId,
}

#[derive(Default)]
struct Inner {
    known: FxHashMap<ExecId, (Home, Arc<Shown>)>,
    live: FxHashMap<ContainerId, Vec<ExecId>>,
}

/// See the module. Held for one hash look-up, never across an await, and not on the way of any stream.
#[derive(Default)]
pub(crate) struct ExecIndex(Mutex<Inner>);

impl ExecIndex {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn insert(&self, id: &ExecId, home: Home, shown: Arc<Shown>) {
        let mut inner = self.lock();
        let live = inner.live.entry(home.container.clone()).or_default();
        live.push(id.clone());
        inner.known.insert(id.clone(), (home, shown));
    }

    pub(crate) fn home(&self, id: &str) -> Option<Home> {
        Some(self.get(id)?.0)
    }

    pub(crate) fn get(&self, id: &str) -> Option<(Home, Arc<Shown>)> {
        self.lock().known.get(id).cloned()
    }

    /// Those of a container that are not ended.
    pub(crate) fn live(&self, container: &str) -> Vec<ExecId> {
        self.lock().live.get(container).cloned().unwrap_or_default()
    }

    /// It has ended; it can still be found.
    pub(crate) fn ended(&self, container: &str, id: &str) {
        let mut inner = self.lock();
        if let Some(live) = inner.live.get_mut(container) {
            live.retain(|known| **known != *id);
            if live.is_empty() {
                inner.live.remove(container);
            }
        }
    }

    pub(crate) fn remove(&self, container: &str, id: &str) {
        self.ended(container, id);
        self.lock().known.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_exec_is_found_but_not_listed() {
        let index = ExecIndex::default();
        let home = Home {
            shard: 1,
            container: "c".into(),
        };
        let (a, b): (ExecId, ExecId) = ("a".into(), "b".into());
        index.insert(&a, home.clone(), Arc::default());
        index.insert(&b, home.clone(), Arc::default());
        assert_eq!(index.live("c"), [a.clone(), b.clone()]);
        index.ended("c", "a");
        assert_eq!(index.live("c"), [b]);
        assert_eq!(index.home("a"), Some(home));
        index.remove("c", "a");
        index.remove("c", "b");
        assert!(index.live("c").is_empty() && index.home("b").is_none());
    }
}
