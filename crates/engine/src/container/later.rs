//! What of a container can wait: the JSON copy of its record, the end of its root file system after its exit, the
//! deletion of its tree after its removal, and the removal of notes about its execs.
//!
//! Most containers that are started and removed at once are gone before their turn comes. Neither is a promise: the store
//! has the record, and the copy only serves when the store is lost.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use gantry_launch::RootMount;

use super::{Container, files};
use crate::exec::note;
use crate::model::ContainerId;
use crate::shard::ShardEngine;

/// How long it waits.
const LATER: Duration = Duration::from_secs(1);
/// Root file systems of ended containers that one shard keeps; each is a descriptor. Further ones end at once.
const MAX_KEPT_ROOTS: usize = 256;

/// Trees of removed containers that one shard leaves for later. Further ones are deleted at once.
const MAX_KEPT_TREES: usize = 256;

/// Notes that one shard removes in a second. Boot removes what is left.
const MAX_KEPT_NOTES: usize = 65_536;

/// What waits on a shard.
#[derive(Default)]
pub(crate) struct Later {
    /// Containers whose copy is old.
    ids: RefCell<Vec<ContainerId>>,
    /// Root file systems of containers that have ended.
    roots: RefCell<Vec<(ContainerId, RootMount)>>,
    /// Trees that were set aside.
    trees: RefCell<Vec<PathBuf>>,
    /// Names of ended execs that the notes about are still there.
    notes: RefCell<Vec<String>>,
    /// A task waits to do it.
    waiting: Cell<bool>,
}

/// The JSON copy of a container's record.
#[derive(Default)]
pub(crate) struct Copy {
    /// It is in its shard's list.
    listed: Cell<bool>,
    /// It is older than the record.
    wanted: Cell<bool>,
}

/// Renews the JSON copy of the record; nobody waits for it.
pub(crate) fn copy_record(container: &Rc<Container>) {
    container.copy.wanted.set(true);
    list(container);
}

/// Ends a root file system whose container has ended. Each end makes the kernel write out the file system that the
/// container's directory is on: many at once write what one would, and what was removed meanwhile is not written at all.
/// And while one ends, the removal of its directories would wait in a busy loop of the kernel's.
pub(crate) fn end_root(container: &Container, mount: RootMount) {
    let later = &container.shard.later;
    let mut roots = later.roots.borrow_mut();
    if roots.len() < MAX_KEPT_ROOTS {
        roots.push((container.id.clone(), mount));
        drop(roots);
        arm(&container.shard);
    }
}

/// Ends a root file system now: the next start mounts the same directories.
pub(crate) fn end_root_now(container: &Container) {
    let mut roots = container.shard.later.roots.borrow_mut();
    roots.retain(|(id, _)| *id != container.id);
}

/// Deletes the tree of a container that was removed: one job for those of a second. Boot deletes what is left.
pub(crate) fn delete_tree(container: &Container) {
    let later = &container.shard.later;
    let mut trees = later.trees.borrow_mut();
    if trees.len() >= MAX_KEPT_TREES {
        return files::delete_trash_later(&container.fixed.dir);
    }
    trees.extend(files::trash_of(&container.fixed.dir));
    drop(trees);
    arm(&container.shard);
}

/// Removes the note about an exec that has ended. A daemon that finds one of an exec that no keeper has removes it.
pub(crate) fn remove_note(shard: &Rc<ShardEngine>, key: String) {
    {
        let mut notes = shard.later.notes.borrow_mut();
        if notes.len() >= MAX_KEPT_NOTES {
            return tracing::warn!(id = key, "the note about an exec is left to the next boot");
        }
        notes.push(key);
    }
    arm(shard);
}

async fn remove_notes(shard: &ShardEngine) {
    let notes = shard.later.notes.take();
    if notes.is_empty() {
        return;
    }
    let shared = shard.shared.clone();
    let removed = files::on_worker(move || {
        for key in notes {
            if let Err(e) = note::remove(&shared.config, &key) {
                tracing::warn!(id = key, error = %e, "the note about an exec is left behind");
            }
        }
        Ok(())
    });
    if let Err(e) = removed.await {
        tracing::warn!(error = %e, "notes about execs are left behind");
    }
}

async fn delete_trees(shard: &ShardEngine) {
    let trees = shard.later.trees.take();
    if trees.is_empty() {
        return;
    }
    let deleted = files::on_worker(move || {
        for tree in trees {
            if let Err(e) = files::delete_container_tree(&tree) {
                tracing::warn!(error = %e, "a removed container's tree is left; it is deleted at the next boot");
            }
        }
        Ok(())
    });
    if let Err(e) = deleted.await {
        tracing::warn!(error = %e, "removed containers' trees are left; they are deleted at the next boot");
    }
}

fn list(container: &Rc<Container>) {
    if container.copy.listed.replace(true) {
        return;
    }
    let ids = &container.shard.later.ids;
    ids.borrow_mut().push(container.id.clone());
    arm(&container.shard);
}

fn arm(shard: &Rc<ShardEngine>) {
    if shard.later.waiting.replace(true) {
        return;
    }
    let shard = shard.clone();
    gantry_rt::spawn("container.later", async move {
        gantry_rt::sleep(LATER).await;
        shard.later.waiting.set(false);
        settle(&shard).await;
    });
}

/// Does what waits.
pub(crate) async fn settle(shard: &ShardEngine) {
    // Before the file systems on them end: meanwhile a deletion would wait in a busy loop of the kernel's.
    delete_trees(shard).await;
    remove_notes(shard).await;
    drop(shard.later.roots.take());
    for id in shard.later.ids.take() {
        // Removed ones have nothing left to do.
        let Ok(container) = shard.get(&id) else {
            continue;
        };
        container.copy.listed.set(false);
        if container.copy.wanted.get() {
            renew_copy(&container).await;
        }
    }
}

async fn renew_copy(container: &Rc<Container>) {
    let Some(_guard) = container.ops.try_lock() else {
        // Something goes on that may last long and change the record.
        return list(container);
    };
    container.copy.wanted.set(false);
    if let Err(e) = files::copy_record(container).await {
        tracing::warn!(id = %container.id, error = %e, "the copy of a container's record is out of date");
    }
}
