//! Readers' view of all containers: one immutable snapshot per shard, and the names.
//!
//! Written only by the owner shards; read from anywhere without waiting for a shard.

use std::sync::{Arc, RwLock};

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;

use crate::model::{ContainerId, ContainerView};
use crate::{EngineError, ids};

/// Containers of one shard, sorted by id.
type ShardSnapshot = Vec<Arc<ContainerView>>;

/// The containers of all shards.
pub(crate) struct Index {
    shards: Box<[ArcSwap<ShardSnapshot>]>,
    /// Name to id. Held for one hash look-up, never across an await.
    names: RwLock<FxHashMap<Arc<str>, ContainerId>>,
}

impl Index {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards.max(1)).map(|_| ArcSwap::default()).collect(),
            names: RwLock::default(),
        }
    }

    /// Puts a container's newest view in place. Only the owner shard calls this.
    pub(crate) fn publish(&self, shard: usize, view: Arc<ContainerView>) {
        let mut next = ShardSnapshot::clone(&self.shards[shard].load());
        match next.binary_search_by(|v| (*v.id).cmp(&view.id)) {
            Ok(at) => next[at] = view,
            Err(at) => next.insert(at, view),
        }
        self.shards[shard].store(Arc::new(next));
    }

    /// Puts many views in place at once (boot).
    pub(crate) fn publish_all(&self, shard: usize, mut views: Vec<Arc<ContainerView>>) {
        views.sort_by(|a, b| a.id.cmp(&b.id));
        self.shards[shard].store(Arc::new(views));
    }

    /// Takes a container out. Only the owner shard calls this.
    pub(crate) fn withdraw(&self, shard: usize, id: &str) {
        let mut next = ShardSnapshot::clone(&self.shards[shard].load());
        if let Ok(at) = next.binary_search_by(|v| (*v.id).cmp(id)) {
            next.remove(at);
            self.shards[shard].store(Arc::new(next));
        }
    }

    /// Takes a name for an id; the error is the id that has it.
    pub(crate) fn reserve_name(&self, name: &str, id: &ContainerId) -> Result<(), ContainerId> {
        let mut names = self.names.write().unwrap_or_else(|e| e.into_inner());
        match names.get(name) {
            Some(holder) => Err(holder.clone()),
            None => {
                names.insert(name.into(), id.clone());
                Ok(())
            }
        }
    }

    /// Gives a name back, if `id` has it.
    pub(crate) fn release_name(&self, name: &str, id: &str) {
        let mut names = self.names.write().unwrap_or_else(|e| e.into_inner());
        if names.get(name).is_some_and(|holder| **holder == *id) {
            names.remove(name);
        }
    }

    fn by_name(&self, name: &str) -> Option<ContainerId> {
        self.names
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .get(name)
            .cloned()
    }

    fn by_id(&self, id: &str) -> Option<(usize, Arc<ContainerView>)> {
        self.shards
            .iter()
            .enumerate()
            .find_map(|(shard, snapshot)| {
                let snapshot = snapshot.load();
                let at = snapshot.binary_search_by(|v| (*v.id).cmp(id)).ok()?;
                Some((shard, snapshot[at].clone()))
            })
    }

    /// Owner shard and view of the container with this id, name (slash or not) or id prefix.
    pub(crate) fn resolve(&self, key: &str) -> Result<(usize, Arc<ContainerView>), EngineError> {
        let not_found = || EngineError::NoSuchContainer(key.to_owned());
        if key.is_empty() {
            return Err(not_found());
        }
        if let Some(found) = self.by_id(key) {
            return Ok(found);
        }
        if let Some(found) = self
            .by_name(key.strip_prefix('/').unwrap_or(key))
            .and_then(|id| self.by_id(&id))
        {
            return Ok(found);
        }
        if !ids::is_id_prefix(key) {
            return Err(not_found());
        }
        let mut found = None;
        for (shard, snapshot) in self.shards.iter().enumerate() {
            let snapshot = snapshot.load();
            let from = snapshot.partition_point(|v| *v.id < *key);
            for view in snapshot[from..]
                .iter()
                .take(2)
                .filter(|v| v.id.starts_with(key))
            {
                if found.replace((shard, view.clone())).is_some() {
                    return Err(EngineError::AmbiguousPrefix(key.to_owned()));
                }
            }
        }
        found.ok_or_else(not_found)
    }

    /// Every container, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<ContainerView>> {
        self.shards
            .iter()
            .flat_map(|s| s.load().iter().cloned().collect::<Vec<_>>())
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::{ContainerConfig, FixedView, HostSpec, StateView, Status};

    /// A view for tests.
    pub(crate) fn view(id: &str, name: &str, status: Status) -> ContainerView {
        ContainerView {
            id: id.into(),
            name: name.into(),
            state: StateView {
                status,
                ..StateView::default()
            },
            restart_count: 0,
            health: None,
            fixed: Arc::new(FixedView {
                created_unix_ns: 0,
                image_id: "sha256:0123".into(),
                path: String::new(),
                args: Vec::new(),
                config: ContainerConfig::default(),
                host: HostSpec::default(),
                wire: "".into(),
                dir: Default::default(),
            }),
            revision: 0,
        }
    }

    #[test]
    fn resolution_order_and_ambiguity() {
        let index = Index::new(2);
        for (shard, id, name) in [(0, "abc1", "one"), (1, "abc2", "two"), (1, "beef", "abc1x")] {
            let v = view(id, name, Status::Created);
            index.reserve_name(name, &v.id).unwrap();
            index.publish(shard, Arc::new(v));
        }
        let id = |key: &str| index.resolve(key).map(|(_, v)| v.id.to_string());
        assert_eq!(id("abc1").unwrap(), "abc1");
        assert_eq!(id("/two").unwrap(), "abc2");
        assert_eq!(id("abc1x").unwrap(), "beef");
        assert_eq!(id("be").unwrap(), "beef");
        assert!(matches!(id("abc"), Err(EngineError::AmbiguousPrefix(_))));
        assert!(matches!(id("nope"), Err(EngineError::NoSuchContainer(_))));
        assert!(matches!(id(""), Err(EngineError::NoSuchContainer(_))));
        index.withdraw(1, "abc2");
        assert_eq!(id("abc").unwrap(), "abc1");
        assert!(index.reserve_name("one", &"x".into()).is_err());
        index.release_name("one", "other");
        assert!(index.reserve_name("one", &"x".into()).is_err());
        index.release_name("one", "abc1");
        assert!(index.reserve_name("one", &"x".into()).is_ok());
    }
}
