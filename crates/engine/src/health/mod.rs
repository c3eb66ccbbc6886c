//! Health checks: a probe is an exec of the daemon's own, at an interval, and what it finds is the container's health.
//! Health lives in memory: it is stored with the changes of state, as dockerd does it, and a daemon that comes up begins
//! anew with what runs.

pub(crate) mod clock;
mod probe;
pub(crate) mod rules;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use gantry_rt::sync::Notify;

use crate::container::Container;
use crate::model::{Health, HealthCell, HealthCheck, Status};
use crate::{clock as wall_clock, exec::Exec};

/// The probing of one container that has a check.
pub(crate) struct Monitor {
    check: HealthCheck,
    /// Program and arguments of the probe.
    command: Vec<String>,
    cell: HealthCell,
    /// Grows whenever probing begins or ends: what a probe of an earlier one finds does not count.
    epoch: Cell<u64>,
    watched: Cell<bool>,
    /// A probe runs; the next one waits for its very end, so that they never pile up.
    probing: Cell<bool>,
    place: Cell<Option<clock::Place>>,
    /// Told when probing ends.
    stopped: Notify,
    /// The execs of the results that are kept: older ones are forgotten.
    execs: RefCell<Vec<Rc<Exec>>>,
}

impl Monitor {
    /// The monitor of a container whose record has this check, if it is one.
    pub(crate) fn of(
        config: &crate::model::ContainerConfig,
        health: Option<Health>,
    ) -> Option<Monitor> {
        let command = rules::command(config)?;
        Some(Monitor {
            check: config.health.clone()?,
            command,
            cell: HealthCell::new(health),
            epoch: Cell::new(0),
            watched: Cell::new(false),
            probing: Cell::new(false),
            place: Cell::new(None),
            stopped: Notify::new(),
            execs: RefCell::default(),
        })
    }

    pub(crate) fn cell(&self) -> HealthCell {
        self.cell.clone()
    }

    fn health(&self) -> Option<Health> {
        self.cell.load().map(|health| Health::clone(&health))
    }

    /// Whether probing of this epoch has ended.
    fn is_over(&self, epoch: u64) -> bool {
        self.epoch.get() != epoch
    }

    fn bump(&self) {
        self.epoch.set(self.epoch.get() + 1);
    }
}

impl Container {
    /// What is stored of its health.
    pub(crate) fn stored_health(&self) -> Option<Health> {
        self.health.as_ref()?.health()
    }

    /// Its health after a change of state.
    pub(crate) fn health_after(&self, next: Status) -> Option<Health> {
        rules::after_transition(self.stored_health(), self.status(), next)
            .filter(|_| self.health.is_some())
    }

    /// It went to another state, and the health that belongs to that is recorded: probing begins or ends.
    pub(crate) fn follow_health(self: &Rc<Self>, health: Option<Health>, now: Status) {
        let Some(monitor) = &self.health else { return };
        self.stop_probing();
        monitor.cell.store(health);
        if now == Status::Running {
            monitor.bump();
            monitor.watched.set(true);
            self.probe_later();
        }
    }

    /// The daemon came up and has taken this running container over: what is known is old. The first probes are spread
    /// over an interval, since all containers of the machine begin at once.
    pub(crate) fn begin_health_anew(self: &Rc<Self>) {
        let Some(monitor) = &self.health else { return };
        if self.status() != Status::Running {
            return;
        }
        monitor.cell.store(Some(rules::begun(monitor.health())));
        monitor.bump();
        monitor.watched.set(true);
        let delay = clock::part_of(self.next_probe_delay(monitor), &self.id);
        monitor.place.set(Some(self.shard.health.add(self, delay)));
    }

    /// No probe counts any more, and one that runs is killed. The state says so when it changes.
    pub(crate) fn stop_probing(&self) {
        let Some(monitor) = &self.health else { return };
        if monitor.watched.take() {
            monitor.bump();
            if let Some(place) = monitor.place.take() {
                self.shard.health.remove(place);
            }
            monitor.stopped.notify_all();
        }
    }

    fn next_probe_delay(&self, monitor: &Monitor) -> Duration {
        let status = monitor.cell.load().map(|h| h.status).unwrap_or_default();
        rules::next_delay(&monitor.check, status, self.since_start())
    }

    /// Puts the next probe on the shard's clock.
    fn probe_later(self: &Rc<Self>) {
        let Some(monitor) = &self.health else { return };
        if monitor.probing.get() || !monitor.watched.get() || monitor.place.get().is_some() {
            // A running probe does this at its end.
            return;
        }
        let delay = clock::stretched(self.next_probe_delay(monitor), &self.id);
        monitor.place.set(Some(self.shard.health.add(self, delay)));
    }

    /// How long it has been running.
    fn since_start(&self) -> Duration {
        let inner = self.inner.borrow();
        if let Some(started) = inner.run.as_ref().and_then(|run| run.started) {
            return started.elapsed();
        }
        let ns = wall_clock::unix_ns().saturating_sub(inner.state.started_unix_ns);
        Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
    }
}

/// A container's time has come.
fn due(container: Rc<Container>, slot: clock::Slot) {
    let Some(monitor) = &container.health else {
        return;
    };
    monitor.place.set(None);
    if !monitor.watched.get() || monitor.probing.replace(true) {
        return;
    }
    let container = container.clone();
    gantry_rt::spawn("health.probe", async move {
        probe::run(&container, slot).await;
        if let Some(monitor) = &container.health {
            monitor.probing.set(false);
            container.probe_later();
        }
    });
}
