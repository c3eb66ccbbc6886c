//! Kills for lack of memory are told when they happen, not only when the container has ended: one fd per shard for all
//! containers that have a memory limit. What the kernel counts is the truth; the fd only says when to look.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gantry_cgroup::{Fired, Group, OomWatch, Version};
use gantry_rt::fd::AsyncFd;
use rustc_hash::FxHashMap;

use crate::EngineError;
use crate::container::{Container, Run, files};
use crate::model::ContainerId;
use crate::shard::ShardEngine;

/// Pause before a look: memory that is short makes many events.
pub const OOM_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Further looks when nothing new was found: v1 says that it will kill, and counts when it has.
const LATER_LOOKS: [Duration; 2] = [Duration::from_millis(80), Duration::from_millis(400)];

/// The watched containers of one shard.
pub(crate) struct OomWatcher {
    watch: Arc<OomWatch>,
    /// On v1 every container is looked at when something happens.
    watched: RefCell<FxHashMap<ContainerId, Watched>>,
    /// Groups that were removed and whose signal for that has not come (v1).
    removed: Cell<u64>,
    marked: bool,
}

struct Watched {
    container: Rc<Container>,
    run: Rc<Run>,
    mark: i32,
}

impl OomWatcher {
    pub(crate) fn new(version: Version) -> Result<Self, EngineError> {
        Ok(Self {
            watch: Arc::new(OomWatch::new(version)?),
            watched: RefCell::default(),
            removed: Cell::new(0),
            marked: version == Version::V2,
        })
    }

    fn is_watched(&self, container: &Container, run: &Rc<Run>) -> bool {
        let watched = self.watched.borrow();
        let known = watched.get(&container.id);
        known.is_some_and(|w| Rc::ptr_eq(&w.run, run))
    }

    /// Those to look at.
    fn concerned(&self, fired: &Fired) -> Vec<(Rc<Container>, Rc<Run>)> {
        let is_concerned = |w: &&Watched| match fired {
            Fired::In(marks) => marks.contains(&w.mark),
            Fired::Times(times) => *times > 0,
            Fired::Anywhere => true,
        };
        let watched = self.watched.borrow();
        let found = watched.values().filter(is_concerned);
        found
            .map(|w| (w.container.clone(), w.run.clone()))
            .collect()
    }

    /// Signals that are not of removals.
    fn without_removals(&self, fired: Fired) -> Fired {
        let Fired::Times(times) = fired else {
            return fired;
        };
        let known = self.removed.get().min(times);
        self.removed.set(self.removed.get() - known);
        Fired::Times(times - known)
    }
}

/// Looks when something happens, for ever.
pub(crate) async fn run(shard: Rc<ShardEngine>) {
    let watch = shard.oom.watch.clone();
    let fd = rustix::io::fcntl_dupfd_cloexec(&*watch, 3).map_err(std::io::Error::from);
    let fd = match fd.and_then(AsyncFd::new) {
        Ok(fd) => fd,
        Err(error) => {
            tracing::error!(%error, "kills for lack of memory are told at the end of containers only");
            return;
        }
    };
    loop {
        let fired = match fd.readable().await.map(|()| watch.fired()) {
            Ok(Ok(fired)) => shard.oom.without_removals(fired),
            error => {
                tracing::error!(
                    ?error,
                    "kills for lack of memory are told at the end of containers only"
                );
                return;
            }
        };
        gantry_rt::sleep(OOM_LOOK_INTERVAL).await;
        let concerned = shard.oom.concerned(&fired);
        let mut found = concerned.is_empty() || look(&concerned).await;
        for pause in LATER_LOOKS {
            if !found && !shard.oom.marked {
                gantry_rt::sleep(pause).await;
                found = look(&concerned).await;
            }
        }
    }
}

/// Reads what the kernel counted, and tells what is new. True if there was anything.
async fn look(concerned: &[(Rc<Container>, Rc<Run>)]) -> bool {
    let groups: Vec<Arc<Group>> = concerned.iter().map(|(_, run)| run.group.clone()).collect();
    let counts = files::on_worker(move || {
        let count = |group: &Arc<Group>| group.oom_kill_count().ok().flatten();
        Ok(groups.iter().map(count).collect::<Vec<_>>())
    });
    match counts.await {
        Ok(counts) => {
            let mut found = false;
            for ((container, run), count) in concerned.iter().zip(counts) {
                // A group that is gone has no count.
                found |= tell(container, run, count.unwrap_or(0));
            }
            found
        }
        Err(e) => {
            tracing::warn!(error = %e, "kills for lack of memory can't be counted");
            false
        }
    }
}

/// Records and announces kills that are not told yet; false if there are none.
fn tell(container: &Rc<Container>, run: &Rc<Run>, count: u64) -> bool {
    let is_current = container.run().is_some_and(|now| Rc::ptr_eq(&now, run));
    if !is_current || count <= run.oom_kills_told.get() {
        return false;
    }
    let known = container.inner.borrow().state.oom_killed;
    let adopted = run.started.is_none() && run.oom_kills_told.get() == 0;
    run.oom_kills_told.set(count);
    if known && adopted {
        // The daemon before this one told of them.
        return true;
    }
    if !known {
        container.amend(|inner| inner.state.oom_killed = true);
        if let Err(e) = container.shard.journal_append(&container.journal_entry()) {
            // The keeper reads the count again at the end.
            tracing::error!(id = %container.id, error = %e, "a kill for lack of memory can't be appended to the journal");
        }
    }
    container.event("oom", &[]);
    true
}

/// Watches a running container that has a memory limit, or a parent group that may have one. Nobody waits for it.
pub(crate) fn watch_later(container: &Rc<Container>) {
    let host = &container.settings().host;
    let limited = host.limits.memory_bytes.is_some_and(|limit| limit > 0);
    let Some(run) = container.run() else { return };
    let unlimited = !limited && host.cgroup_parent.is_empty();
    if unlimited || container.shard.oom.is_watched(container, &run) {
        return;
    }
    let container = container.clone();
    gantry_rt::spawn("oom.watch", async move {
        let (watch, group) = (container.shard.oom.watch.clone(), run.group.clone());
        let mark = files::on_worker(move || Ok(watch.add(&group)?)).await;
        let is_current = container.run().is_some_and(|now| Rc::ptr_eq(&now, &run));
        if !is_current || run.exiting.get() {
            return;
        }
        match mark {
            Ok(Some(mark)) => {
                let watched = Watched {
                    container: container.clone(),
                    run: run.clone(),
                    mark,
                };
                let id = container.id.clone();
                container.shard.oom.watched.borrow_mut().insert(id, watched);
                // It may have happened before the watch was there.
                look(&[(container, run)]).await;
            }
            Ok(None) => {}
            Err(e) => {
                tracing::warn!(id = %container.id, error = %e, "its kills for lack of memory are told at its end only");
            }
        }
    });
}

/// Its first process has ended: what was not told yet is told now, and it is watched no more.
pub(crate) async fn end(container: &Rc<Container>, run: &Rc<Run>) {
    let oom = &container.shard.oom;
    if !oom.is_watched(container, run) {
        return;
    }
    look(&[(container.clone(), run.clone())]).await;
    oom.watched.borrow_mut().remove(&container.id);
    if !oom.marked {
        // Its group is removed soon, which makes a signal.
        oom.removed.set(oom.removed.get() + 1);
    }
}
