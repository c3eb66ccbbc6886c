//! `remove`: nothing of a container is left when its removal is announced, except a tree set aside
//! that is being deleted.

use std::rc::Rc;

use gantry_keeper_proto::fault::{self, Point};
use gantry_store::{Batch, Table};

use super::rename::name_key;
use super::{Container, files, kill, later, ship, wait};
use crate::boot::untaken;
use crate::model::{RemoveOptions, Status};
use crate::{EngineError, exec, signals, storage_quota, volumes};

/// Removes a container; with `force` a running one is killed first.
///
/// `key` is what the client called it.
pub(crate) async fn remove(
    container: &Rc<Container>,
    key: &str,
    options: RemoveOptions,
) -> Result<(), EngineError> {
    if options.link {
        // There are no links yet, so it can only be the container's own name. Docker does not class this one.
        return Err(EngineError::System(
            "Conflict, cannot remove the default link name of the container".to_owned(),
        ));
    }
    let taken = untaken::take_over(container).await;
    let status = container.status();
    if !status.is_alive() {
        // A launch that was never recorded: as long as it can't be, it can't be ended.
        taken?;
    }
    if !options.force && (status.is_alive() || status == Status::Restarting) {
        return Err(refused(key, status));
    }
    // From here on nothing starts it, and its exit starts no removal of its own.
    let mark = RemovalMark::new(container)?;
    if options.force {
        // Before the lock: a stop with a long grace holds it.
        end(container, key).await?;
    }
    let guard = container.ops.lock().await;
    if container.gone.get() {
        return Err(EngineError::NoSuchContainer(container.id.to_string()));
    }
    let status = container.status();
    if status.is_alive() || status == Status::Restarting {
        // A start was faster than the mark.
        if !options.force {
            return Err(refused(key, status));
        }
        end(container, key).await?;
    }
    let result = take_apart(container, true, options.volumes).await;
    drop(guard);
    drop(mark);
    result
}

/// Marks a container as being removed, until it is dropped without success.
struct RemovalMark(Rc<Container>);

impl RemovalMark {
    fn new(container: &Rc<Container>) -> Result<Self, EngineError> {
        if container.removing.replace(true) {
            return Err(in_progress(container));
        }
        Ok(Self(container.clone()))
    }
}

impl Drop for RemovalMark {
    fn drop(&mut self) {
        self.0.removing.set(self.0.gone.get());
    }
}

fn in_progress(container: &Container) -> EngineError {
    EngineError::Conflict(format!(
        "removal of container {} is already in progress",
        container.id
    ))
}

fn refused(key: &str, status: Status) -> EngineError {
    let what = match status {
        Status::Paused => "container is paused and must be unpaused first".to_owned(),
        other => {
            format!(
                "container is {}: stop the container before removing or force remove",
                other.as_str()
            )
        }
    };
    EngineError::Conflict(format!("cannot remove container \"{key}\": {what}"))
}

async fn end(container: &Rc<Container>, key: &str) -> Result<(), EngineError> {
    container.no_restart.set(true);
    container.cancel_restart().await?;
    if !container.status().is_alive() {
        return Ok(());
    }
    if !container.has_process() {
        return Ok(());
    }
    kill::send(container, signals::KILL).await?;
    kill::thaw_if_paused(container, signals::KILL).await?;
    gantry_rt::timeout(kill::KILL_LIMIT, container.until(|s| !s.is_alive())).await.map_err(|_| {
        EngineError::Conflict(format!(
            "cannot remove container \"{key}\": could not kill container: did not receive an exit event"
        ))
    })
}

/// Removes an ended `--rm` container.
pub(crate) async fn auto_remove(container: &Rc<Container>) {
    // A client that removes it already does the same.
    let Ok(_mark) = RemovalMark::new(container) else {
        return;
    };
    let _guard = container.ops.lock().await;
    if container.gone.get() || container.status().is_alive() {
        return;
    }
    if let Err(e) = take_apart(container, false, true).await {
        tracing::error!(id = %container.id, error = %e, "automatic removal failed");
    }
}

/// As [`auto_remove`], for callers that hold the lock.
pub(crate) fn auto_remove_later(container: &Rc<Container>) {
    let container = container.clone();
    gantry_rt::spawn("container.auto-remove", async move {
        auto_remove(&container).await
    });
}

/// Goes on with a removal that an earlier daemon began, or that is due (`--rm`).
pub(crate) fn finish_later(container: &Rc<Container>) {
    let container = container.clone();
    gantry_rt::spawn("container.finish-removal", async move {
        let Ok(_mark) = RemovalMark::new(&container) else {
            return;
        };
        let _guard = container.ops.lock().await;
        ship::resume(&container).await;
        if let Err(e) = take_apart(&container, true, container.fixed.host.auto_remove).await {
            tracing::error!(id = %container.id, error = %e, "a removal of an earlier daemon can't be finished");
        }
    });
}

/// Takes everything away. The lock is held and no process exists. With `durable` the deletion of
/// the record is on disk before it is announced; without (`--rm`) it is with the next commit, and the
/// journal alone remembers it until then.
async fn take_apart(
    container: &Rc<Container>,
    durable: bool,
    with_volumes: bool,
) -> Result<(), EngineError> {
    if container.status() != Status::Removing {
        container.transition(Status::Removing, |_| {})?;
    }
    fault::reach(Point::RemoveMarked);
    let deleted = delete_record(container, durable).await;
    // A run that just ended may still be giving back its control group and its keeper slot; that went on meanwhile.
    container.released().await;
    if let Err(e) = deleted {
        let text = e.to_string();
        if let Err(e) = container.transition(Status::Dead, |state| state.error = text) {
            tracing::error!(id = %container.id, error = %e, "a failed removal could not be recorded");
        }
        return Err(e);
    }
    fault::reach(Point::RemoveCommitted);
    container.gone.set(true);
    ship::leave(container);
    let shard = &container.shard;
    shard.containers.borrow_mut().remove(&container.id);
    shard.shared.index.withdraw(shard.id, &container.id);
    shard
        .shared
        .index
        .release_name(&container.name(), &container.id);
    container.close_pending_attaches();
    exec::exit::container_removed(container);
    let points = &container.fixed.host.mounts;
    volumes::release(&shard.shared, &container.id, points, with_volumes).await;
    container.event("destroy", &[]);
    wait::announce_removal(container);
    container.changed.notify_all();
    later::delete_tree(container);
    storage_quota::release_later(&shard.shared, container.fixed.host.storage_quota);
    reap_images_later(container);
    Ok(())
}

/// An image that was removed while this container used it may go now.
fn reap_images_later(container: &Rc<Container>) {
    let shared = container.shard.shared.clone();
    if !shared.images.snapshot().has_hidden() {
        return;
    }
    gantry_rt::spawn("container.reap-images", async move {
        let job = gantry_rt::workers::run_long("image-reap", move || shared.reap_images());
        let result = match job {
            Ok(job) => job.await,
            Err(e) => Err(e),
        };
        let result = result
            .map_err(|e| e.to_string())
            .and_then(|r| r.map_err(|e| e.to_string()));
        if let Err(error) = result {
            tracing::warn!(%error, "a removed image cannot be deleted now; it is at the next start");
        }
    });
}

async fn delete_record(container: &Rc<Container>, durable: bool) -> Result<(), EngineError> {
    files::move_to_trash(container.fixed.dir.clone()).await?;
    fault::reach(Point::RemoveTrashed);
    let mut batch = Batch::new();
    batch
        .delete(Table::Containers, &*container.id)
        .delete(Table::Meta, name_key(&container.name()));
    let store = &container.shard.shared.store;
    if durable {
        store.commit(batch).await?;
    } else {
        store.commit_later(batch);
    }
    Ok(())
}
