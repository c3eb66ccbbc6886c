//! What the hooks of a container's devices leave to do when it has gone.

use std::rc::Rc;

use gantry_launch::{HookBundle, HookKind};

use super::{Container, files};
use crate::EngineError;
use crate::shard::ShardEngine;

/// Runs the hooks that belong behind a container's end, or a start that failed, and removes what all of them found.
pub(crate) async fn put_away(container: &Container) {
    // Hooks come from devices only; what has none costs nothing.
    if !container.fixed.host.device_requests.is_empty() {
        put_away_of(&container.shard, &container.id).await;
    }
}

async fn put_away_of(shard: &ShardEngine, id: &str) {
    let bundle = match found(shard, id).await {
        Ok(Some((bundle, poststop))) => {
            let ran = match shard.keeper() {
                Ok(keeper) => {
                    let client = keeper.client();
                    let ran = client.run_poststop(&bundle, &poststop).await;
                    ran.map_err(EngineError::from)
                }
                Err(e) => Err(e),
            };
            if let Err(e) = ran {
                tracing::warn!(id, error = %e, "hooks behind a container's end did not run");
            }
            bundle
        }
        Ok(None) => return,
        Err(e) => {
            tracing::warn!(id, error = %e, "hooks behind a container's end are not known");
            HookBundle::new(&shard.shared.config.exec_root, id)
        }
    };
    let removed = files::on_worker(move || {
        let removed = bundle.remove();
        removed.map_err(|e| EngineError::io("remove a bundle of hooks", e))
    });
    if let Err(e) = removed.await {
        tracing::warn!(id, error = %e, "a bundle of hooks is left");
    }
}

type Found = Option<(HookBundle, Vec<gantry_launch::Hook>)>;

async fn found(shard: &ShardEngine, id: &str) -> Result<Found, EngineError> {
    let (shared, id) = (shard.shared.clone(), id.to_owned());
    files::on_worker(move || {
        let opened = HookBundle::open(&shared.config.exec_root, &id);
        let opened = opened.map_err(|e| EngineError::io("read a bundle of hooks", e))?;
        Ok(opened.map(|(bundle, mut hooks)| {
            let poststop = hooks.remove(&HookKind::Poststop);
            (bundle, poststop.unwrap_or_default())
        }))
    })
    .await
}

/// Does that for containers in the midst of whose start or end an earlier daemon died.
pub(crate) async fn sweep(shard: &Rc<ShardEngine>) {
    let shared = shard.shared.clone();
    let listed = files::on_worker(move || {
        HookBundle::ids(&shared.config.exec_root)
            .map_err(|e| EngineError::io("list the bundles of hooks", e))
    });
    let ids = match listed.await {
        Ok(ids) => ids,
        Err(e) => return tracing::warn!(error = %e, "left bundles of hooks can't be looked for"),
    };
    for id in ids {
        if shard.has_left(&id) {
            put_away_of(shard, &id).await;
        }
    }
}
