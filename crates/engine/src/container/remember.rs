//! That a container runs, for a machine that goes down: what the journal says survives the daemon's end only.
//!
//! A start is answered before its record is on disk. A container that lives a second is recorded as running, with all
//! others of that second in one commit; after a power loss it is one that ended, not one that never ran. One that a
//! policy starts again is recorded at once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use gantry_store::{Batch, Table};

use super::Container;
use crate::model::*;
use crate::shard::ShardEngine;

/// How long a container runs before that is worth a commit.
const REMEMBERED_AFTER: Duration = Duration::from_secs(1);

/// Containers of a shard whose start is not on disk yet.
#[derive(Default)]
pub(crate) struct Unremembered {
    ids: RefCell<Vec<ContainerId>>,
    waiting: Cell<bool>,
}

/// The container was started.
pub(crate) fn started(container: &Rc<Container>) {
    let shard = container.shard.clone();
    shard
        .unremembered
        .ids
        .borrow_mut()
        .push(container.id.clone());
    if container.settings().host.restart != RestartPolicy::No {
        return flush(&shard);
    }
    if shard.unremembered.waiting.replace(true) {
        return;
    }
    gantry_rt::spawn("container.remember", async move {
        gantry_rt::sleep(REMEMBERED_AFTER).await;
        shard.unremembered.waiting.set(false);
        flush(&shard);
    });
}

/// Records those that still run. Nobody waits for it.
fn flush(shard: &ShardEngine) {
    if let Some(batch) = take(shard) {
        shard.shared.store.commit_later(batch);
    }
}

/// Records those that still run; on disk when it returns.
pub(crate) async fn settle(shard: &ShardEngine) {
    if let Some(batch) = take(shard)
        && let Err(e) = shard.shared.store.commit(batch).await
    {
        tracing::error!(error = %e, "that containers run could not be made durable");
    }
}

/// The records of those that still run, if there are any.
fn take(shard: &ShardEngine) -> Option<Batch> {
    let mut batch = Batch::new();
    let mut any = false;
    for id in shard.unremembered.ids.take() {
        let Ok(container) = shard.get(&id) else {
            continue;
        };
        let exiting = container.run().is_none_or(|run| run.exiting.get());
        // What is being written at this moment says that it runs, too.
        let written = container.records.is_held();
        if exiting || written || container.removing.get() || !container.status().is_alive() {
            continue;
        }
        match container.record_bytes() {
            Ok(bytes) => {
                batch.put(Table::Containers, &*container.id, bytes);
                any = true;
            }
            Err(e) => {
                tracing::error!(id = %container.id, error = %e, "a running state can't be encoded")
            }
        }
    }
    any.then_some(batch)
}
