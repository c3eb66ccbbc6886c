//! One container on its owner shard. Everything here is `Rc` and belongs to that shard's thread.

pub(crate) mod archive;
pub(crate) mod attach;
pub(crate) mod create;
pub(crate) mod exit;
pub(crate) mod external;
pub(crate) mod files;
pub(crate) mod freeze;
pub(crate) mod hooks;
pub(crate) mod kill;
pub(crate) mod late_log;
pub(crate) mod later;
pub(crate) mod logs;
pub(crate) mod remember;
pub(crate) mod remove;
pub(crate) mod rename;
pub(crate) mod ship;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod wait;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use gantry_launch::RootMount;
use gantry_rt::reply::ReplySender;
use gantry_rt::sync::Notify;
use gantry_stream::ContainerIo;

use crate::EngineError;
use crate::backoff::Backoff;
use crate::boot::untaken::Untaken;
use crate::exec::Execs;
use crate::health::Monitor;
use crate::journal::JournalEntry;
use crate::keeper::KeeperLink;
use crate::lock::LocalLock;
use crate::model::*;
use crate::orphan::ProcessName;
use crate::shard::ShardEngine;

/// Clients that wait for one container at once.
pub const MAX_WAITERS: usize = 4096;

/// A container on its owner shard.
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) shard: Rc<ShardEngine>,
    /// As it was when this daemon first saw it; what `update` changes is in [`Container::settings`].
    pub(crate) fixed: Arc<FixedView>,
    /// Serialises start, stop, remove, rename.
    pub(crate) ops: LocalLock,
    /// Serialises writes of the record: each is of what the one before it made of the container, so none undoes another.
    /// Innermost; held until what was written is what the container is.
    pub(crate) records: LocalLock,
    /// Told after every change of state.
    pub(crate) changed: Notify,
    /// Told when a waiting restart should be given up.
    pub(crate) restart_cancelled: Notify,
    /// A keeper is launching it; an exit reported meanwhile waits for the answer.
    pub(crate) launching: Cell<bool>,
    /// A client ended it: the restart policy is off until the next start.
    pub(crate) no_restart: Cell<bool>,
    /// A client's `restart` is between stop and start.
    pub(crate) client_restart: Cell<bool>,
    /// A client's `stop` waits for the end, which tells of it.
    pub(crate) stopping: Cell<bool>,
    /// A pause is under way: it waits for execs that are being started, and no other is.
    pub(crate) pausing: Cell<bool>,
    /// A removal is under way.
    pub(crate) removing: Cell<bool>,
    /// It was removed.
    pub(crate) gone: Cell<bool>,
    /// An ended run still gives back its control group and its keeper slot.
    pub(crate) releasing: Cell<bool>,
    pub(crate) copy: later::Copy,
    /// Clients that read its log have a clone each.
    pub(crate) log_clients: Arc<()>,
    /// Clients that attached before the start.
    pub(crate) pending: RefCell<Vec<attach::PendingAttach>>,
    /// Further processes that clients made or start.
    pub(crate) execs: Execs,
    /// Its health, if it has a check.
    pub(crate) health: Option<Monitor>,
    /// It runs, and this daemon could not take it over yet.
    pub(crate) untaken: RefCell<Option<Rc<Untaken>>>,
    pub(crate) inner: RefCell<Inner>,
}

/// The changing part; borrowed only between awaits.
pub(crate) struct Inner {
    pub(crate) name: Arc<str>,
    pub(crate) settings: Arc<FixedView>,
    pub(crate) state: StateRecord,
    pub(crate) restart_count: u32,
    pub(crate) run: Option<Rc<Run>>,
    pub(crate) last_log: Option<logs::LogHandle>,
    /// Why the log of the present run is not open yet.
    pub(crate) late_log: Option<String>,
    /// What sends the log to a service.
    pub(crate) shipper: Option<Rc<gantry_logship::Shipper>>,
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) backoff: Backoff,
    pub(crate) attached: usize,
}

/// What exists while processes of the container exist.
pub(crate) struct Run {
    pub(crate) io: Rc<ContainerIo>,
    pub(crate) keeper: Rc<KeeperLink>,
    /// `None` after an adoption; then wall-clock time is used.
    pub(crate) started: Option<Instant>,
    /// Its control group.
    pub(crate) group: Arc<gantry_cgroup::Group>,
    /// Kills for lack of memory in its group that were told.
    pub(crate) oom_kills_told: Cell<u64>,
    /// Of a container that an external runtime started.
    pub(crate) bundle: Option<Arc<gantry_launch::Bundle>>,
    /// Its exit is being settled.
    pub(crate) exiting: Cell<bool>,
    /// Its root file system; not after an adoption, where the exit ends the mount.
    pub(crate) root: RefCell<Option<RootMount>>,
}

/// A client that waits.
pub(crate) struct Waiter {
    pub(crate) condition: WaitCondition,
    pub(crate) reply: ReplySender<WaitResult>,
}

impl Container {
    pub(crate) fn new(shard: &Rc<ShardEngine>, mut record: ContainerRecord) -> Rc<Self> {
        let health = Monitor::of(&record.config, record.state.health.take());
        let dir = shard.shared.config.containers_dir().join(&record.id);
        let fixed = FixedView {
            created_unix_ns: record.created_unix_ns,
            image_id: record.image_id,
            path: record.path,
            args: record.args,
            config: record.config,
            host: record.host,
            wire: record.wire.into(),
            dir,
        };
        let fixed = Arc::new(fixed);
        Rc::new(Self {
            id: record.id.into(),
            shard: shard.clone(),
            fixed: fixed.clone(),
            ops: LocalLock::default(),
            records: LocalLock::default(),
            changed: Notify::new(),
            restart_cancelled: Notify::new(),
            log_clients: Arc::default(),
            launching: Cell::new(false),
            no_restart: Cell::new(false),
            client_restart: Cell::new(false),
            stopping: Cell::new(false),
            pausing: Cell::new(false),
            removing: Cell::new(false),
            gone: Cell::new(false),
            releasing: Cell::new(false),
            copy: later::Copy::default(),
            pending: RefCell::default(),
            execs: Execs::default(),
            health,
            untaken: RefCell::default(),
            inner: RefCell::new(Inner {
                name: record.name.into(),
                settings: fixed,
                state: record.state,
                restart_count: record.restart_count,
                run: None,
                last_log: None,
                late_log: None,
                shipper: None,
                waiters: Vec::new(),
                backoff: Backoff::default(),
                attached: 0,
            }),
        })
    }

    pub(crate) fn status(&self) -> Status {
        self.inner.borrow().state.status
    }

    /// The container's settings as the last `update` left them: limits, restart policy, the client's document. All
    /// else is as in `fixed`.
    pub(crate) fn settings(&self) -> Arc<FixedView> {
        self.inner.borrow().settings.clone()
    }

    pub(crate) fn name(&self) -> Arc<str> {
        self.inner.borrow().name.clone()
    }

    pub(crate) fn run(&self) -> Option<Rc<Run>> {
        self.inner.borrow().run.clone()
    }

    /// The run, or Docker's "is not running".
    pub(crate) fn running(&self, prefix: &str) -> Result<Rc<Run>, EngineError> {
        self.is_taken()?;
        let alive = self.status().is_alive();
        self.run()
            .filter(|_| alive)
            .ok_or_else(|| self.not_running(prefix))
    }

    pub(crate) fn not_running(&self, prefix: &str) -> EngineError {
        EngineError::NotRunning {
            prefix: prefix.to_owned(),
            id: self.id.to_string(),
        }
    }

    /// The first process; its pid is 0 when there is none.
    pub(crate) fn process(&self) -> ProcessName {
        let inner = self.inner.borrow();
        ProcessName {
            pid: inner.state.pid,
            start_time_ticks: inner.state.start_time_ticks,
        }
    }

    /// The record as it is now.
    pub(crate) fn record(&self) -> ContainerRecord {
        let inner = self.inner.borrow();
        ContainerRecord {
            version: RECORD_VERSION,
            id: self.id.to_string(),
            name: inner.name.to_string(),
            created_unix_ns: self.fixed.created_unix_ns,
            image_id: self.fixed.image_id.clone(),
            path: self.fixed.path.clone(),
            args: self.fixed.args.clone(),
            config: self.fixed.config.clone(),
            host: inner.settings.host.clone(),
            wire: inner.settings.wire.to_string(),
            state: self.stored_state(&inner),
            restart_count: inner.restart_count,
        }
    }

    /// The state as it is stored.
    fn stored_state(&self, inner: &Inner) -> StateRecord {
        StateRecord {
            health: self.stored_health(),
            ..inner.state.clone()
        }
    }

    /// The record as JSON.
    pub(crate) fn record_bytes(&self) -> Result<Vec<u8>, EngineError> {
        serde_json::to_vec(&self.record())
            .map_err(|e| EngineError::System(format!("encode a container record: {e}")))
    }

    /// The view as it is now.
    pub(crate) fn view(&self) -> ContainerView {
        let inner = self.inner.borrow();
        let state = &inner.state;
        ContainerView {
            id: self.id.clone(),
            name: inner.name.clone(),
            state: StateView {
                status: state.status,
                pid: state.pid,
                start_time_ticks: state.start_time_ticks,
                exit_code: state.exit_code,
                error: state.error.clone(),
                started_unix_ns: state.started_unix_ns,
                finished_unix_ns: state.finished_unix_ns,
                oom_killed: state.oom_killed,
            },
            restart_count: inner.restart_count,
            health: self.health.as_ref().map(Monitor::cell),
            fixed: inner.settings.clone(),
            revision: state.sequence,
        }
    }

    /// The present state as the journal has it.
    pub(crate) fn journal_entry(&self) -> JournalEntry {
        let inner = self.inner.borrow();
        JournalEntry {
            id: self.id.to_string(),
            state: self.stored_state(&inner),
            restart_count: inner.restart_count,
        }
    }

    /// Makes the present view the one readers see.
    pub(crate) fn publish(&self) {
        self.shard
            .shared
            .index
            .publish(self.shard.id, Arc::new(self.view()));
        self.changed.notify_all();
    }

    /// Goes to another state: kill-durable first, then visible. A transition that the state machine
    /// does not have is a bug and panics; an append that fails leaves everything as it was.
    pub(crate) fn transition(
        self: &Rc<Self>,
        next: Status,
        change: impl FnOnce(&mut StateRecord),
    ) -> Result<(), EngineError> {
        let health = self.health_after(next);
        let mut entry = {
            let inner = self.inner.borrow();
            assert!(
                inner.state.status.may_become(next),
                "container {}: no transition from {} to {}",
                self.id,
                inner.state.status.as_str(),
                next.as_str()
            );
            let mut state = inner.state.clone();
            change(&mut state);
            state.status = next;
            state.sequence += 1;
            state.health.clone_from(&health);
            assert_eq!(
                state.pid != 0,
                next.is_alive(),
                "a pid exists exactly while processes do"
            );
            JournalEntry {
                id: self.id.to_string(),
                state,
                restart_count: inner.restart_count,
            }
        };
        self.shard.journal_append(&entry)?;
        entry.state.health = None;
        self.inner.borrow_mut().state = entry.state;
        self.follow_health(health, next);
        self.publish();
        Ok(())
    }

    /// Changes a detail without a change of state.
    pub(crate) fn amend(&self, change: impl FnOnce(&mut Inner)) {
        {
            let mut inner = self.inner.borrow_mut();
            change(&mut inner);
            inner.state.sequence += 1;
        }
        self.publish();
    }

    /// Publishes an event about this container.
    pub(crate) fn event(&self, action: &str, extra: &[(&str, String)]) {
        let mut attributes: Vec<(String, String)> = self
            .fixed
            .config
            .labels
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        attributes.push(("image".to_owned(), self.fixed.config.image.clone()));
        attributes.push(("name".to_owned(), self.name().to_string()));
        attributes.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        self.shard.shared.bus.publish(
            "container",
            action.to_owned(),
            self.id.to_string(),
            attributes,
        );
    }

    /// Waits until no launch is under way.
    pub(crate) async fn launched(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.launching.get() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until no pause is under way.
    pub(crate) async fn not_pausing(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.pausing.get() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until nothing of an earlier run is left.
    pub(crate) async fn released(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.releasing.get() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the state machine is in a state that `test` likes.
    pub(crate) async fn until(&self, test: impl Fn(Status) -> bool) {
        loop {
            let changed = self.changed.notified();
            if test(self.status()) {
                return;
            }
            changed.await;
        }
    }
}
