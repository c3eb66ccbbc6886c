//! Running containers that could not be taken over when the daemon came back. Whatever the reason is, they run on: they
//! are tried again, shown as running with the reason as their error, and can be ended.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use gantry_launch::{AdoptedContainer, KeeperClient};

use super::adopt::{self, Slot};
use super::rescue::{self, Rescued};
use super::{declare_lost, remove_groups};
use crate::EngineError;
use crate::container::{Container, wait};
use crate::keeper::KeeperLink;
use crate::launch_spec::cgroup_parent;
use crate::lock::LocalLock;
use crate::oom;

/// Pause between attempts to take such a container over.
pub const TAKE_OVER_RETRY: Duration = Duration::from_secs(1);
/// How often it is told that they fail.
const REPEAT_ERROR: Duration = Duration::from_secs(60);

/// A container as a keeper has it.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) link: Rc<KeeperLink>,
    /// A keeper that follows this one does not have it.
    client: Rc<KeeperClient>,
    pub(super) found: AdoptedContainer,
    slot: Slot,
}

impl Kept {
    pub(super) fn new(link: Rc<KeeperLink>, found: AdoptedContainer, slot: Slot) -> Self {
        Self {
            client: link.client(),
            link,
            found,
            slot,
        }
    }
}

/// A container that runs without this daemon.
pub(crate) struct Untaken {
    /// `None`: no keeper has it, it is known by its process.
    kept: RefCell<Option<Kept>>,
    error: RefCell<String>,
    attempts: LocalLock,
    /// Its exit is being settled.
    pub(crate) ending: Cell<bool>,
}

/// Leaves a container alone for now, and goes on trying.
pub(super) fn leave(container: &Rc<Container>, kept: Option<Kept>, error: &EngineError) {
    tracing::error!(id = %container.id, %error, "a running container could not be taken over; it runs on and is tried again");
    let untaken = Untaken {
        kept: RefCell::new(kept),
        error: RefCell::default(),
        attempts: LocalLock::default(),
        ending: Cell::new(false),
    };
    let untaken = Rc::new(untaken);
    *container.untaken.borrow_mut() = Some(untaken.clone());
    untaken.say(container, error);
    let container = container.clone();
    gantry_rt::spawn("container.take-over", async move {
        let mut said = Instant::now();
        loop {
            gantry_rt::sleep(TAKE_OVER_RETRY).await;
            match take_over(&container).await {
                Ok(()) => return,
                Err(_) if untaken.ending.get() => return,
                Err(error) if said.elapsed() >= REPEAT_ERROR => {
                    said = Instant::now();
                    tracing::error!(id = %container.id, %error, "a container is tried again");
                }
                Err(_) => {}
            }
        }
    });
}

/// One more attempt, if the container needs one. An error says that it still runs without this daemon.
pub(crate) async fn take_over(container: &Rc<Container>) -> Result<(), EngineError> {
    let Some(untaken) = container.untaken() else {
        return Ok(());
    };
    let _one = untaken.attempts.lock().await;
    if container.untaken().is_none() {
        return Ok(());
    }
    if untaken.ending.get() {
        return Err(refused(container, &untaken));
    }
    match attempt(container, &untaken).await {
        Ok(true) => {
            tracing::warn!(id = %container.id, "a running container is taken over at last");
            *container.untaken.borrow_mut() = None;
            container.begin_health_anew();
            oom::watch_later(container);
            if let Some(run) = container.run() {
                container.serve_pending_attaches(&run);
            }
            Ok(())
        }
        Ok(false) => {
            *container.untaken.borrow_mut() = None;
            if container.status().is_alive() {
                declare_lost(container).await;
                wait::announce_exit(container);
                container.close_pending_attaches();
            }
            remove_group(container).await;
            Ok(())
        }
        Err(error) => {
            untaken.say(container, &error);
            Err(refused(container, &untaken))
        }
    }
}

/// False if it is not there any more, or has been recorded as ended.
async fn attempt(container: &Rc<Container>, untaken: &Untaken) -> Result<bool, EngineError> {
    let kept = untaken.kept.borrow().clone();
    let Some(kept) = kept.filter(|kept| !kept.client.is_gone()) else {
        *untaken.kept.borrow_mut() = None;
        return match rescue::rescue(&container.shard, container).await? {
            Rescued::Taken => Ok(true),
            Rescued::Gone => Ok(false),
            Rescued::Kept(kept, error) => {
                *untaken.kept.borrow_mut() = Some(kept);
                Err(error)
            }
        };
    };
    let taken = adopt::adopt(container, &kept.link, kept.found, kept.slot).await?;
    if taken {
        container.amend(|inner| inner.state.error.clear());
    }
    if taken && kept.slot == Slot::New {
        rescue::tell(container).await;
    }
    Ok(taken)
}

/// What is refused as long as the container is not taken over.
pub(crate) fn refused(container: &Container, untaken: &Untaken) -> EngineError {
    EngineError::Unavailable(format!(
        "container {} runs, but {}",
        container.id,
        untaken.error.borrow()
    ))
}

/// An exit that a keeper tells of: true if the container was taken over with it, or there is nothing to be settled.
pub(crate) async fn is_settled_by_taking_over(
    container: &Rc<Container>,
    untaken: &Untaken,
    keeper: &Rc<KeeperLink>,
) -> bool {
    if take_over(container).await.is_ok() {
        return true;
    }
    if untaken.ending.replace(true) {
        return true;
    }
    if container.status().is_alive() {
        return false;
    }
    // Its launch was never recorded, so nobody knows that it ran.
    *container.untaken.borrow_mut() = None;
    remove_group(container).await;
    keeper.forget_later(container.id.to_string());
    true
}

/// Removes the control group, with all that is in it.
pub(crate) async fn remove_group(container: &Rc<Container>) {
    let shard = &container.shard;
    let parent = cgroup_parent(&shard.shared, &container.fixed.host);
    remove_groups(shard, vec![(parent, container.id.to_string())]).await;
}

impl Untaken {
    /// The container's error says it, until it is taken over.
    fn say(&self, container: &Rc<Container>, error: &EngineError) {
        let text = format!(
            "it could not be taken over when the daemon came back, which is tried again: {error}"
        );
        if self.error.replace(text.clone()) != text && container.status().is_alive() {
            container.amend(|inner| inner.state.error = text);
        }
    }

    /// Signals its first process. False when that has ended.
    pub(crate) async fn signal(
        &self,
        container: &Container,
        number: i32,
    ) -> Result<bool, EngineError> {
        let process = container.process();
        let link = self.kept.borrow().as_ref().map(|kept| kept.link.clone());
        match link {
            Some(link) => link.signal(&container.id, process, number).await,
            None => process.signal(number),
        }
    }
}

impl Container {
    /// What is known of it as long as it runs without this daemon.
    pub(crate) fn untaken(&self) -> Option<Rc<Untaken>> {
        self.untaken.borrow().clone()
    }

    /// What needs the container's streams or control group has to wait until it is taken over.
    pub(crate) fn is_taken(&self) -> Result<(), EngineError> {
        match self.untaken() {
            Some(untaken) => Err(refused(self, &untaken)),
            None => Ok(()),
        }
    }

    /// Whether a process of it is there, with this daemon or without.
    pub(crate) fn has_process(&self) -> bool {
        self.run().is_some() || self.untaken().is_some()
    }
}
