//! Further processes of running containers (`docker exec`). They live on the shard of their container, in memory: a
//! created one is lost with the daemon, as Docker's are. One that runs outlives the daemon in its keeper, and a note
//! under exec-root says what it is until its end is known.

pub(crate) mod adopt;
pub(crate) mod attach;
pub(crate) mod create;
pub(crate) mod end;
pub(crate) mod exit;
pub(crate) mod gc;
mod handle;
pub(crate) mod index;
pub(crate) mod note;
mod resize;
mod stage;
pub(crate) mod start;
pub(crate) mod stray;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

use gantry_rt::sync::Notify;
use gantry_stream::ContainerIo;
use serde::{Deserialize, Serialize};

use crate::EngineError;
use crate::container::Container;
use crate::keeper::KeeperLink;
use crate::model::{ContainerId, Status};
use crate::orphan::ProcessName;

/// Execs of one container that are created or run. Docker has no bound; each costs memory and, running, a keeper slot.
pub const MAX_LIVE_EXECS: usize = 1024;
/// Execs of one container that are being started at once. Starts that hang (a frozen group, a dead file system) each
/// hold one of the keeper's open requests, and must leave some to others.
pub const MAX_STARTING_EXECS: usize = 256;
/// Ended execs of one container that can still be inspected; beyond that the oldest are forgotten early.
pub const MAX_ENDED_EXECS: usize = 4096;

/// An exec's id: 64 hexadecimal digits.
pub type ExecId = Arc<str>;

/// What a client asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecConfig {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Its input comes from the client that starts it.
    pub attach_stdin: bool,
    /// Its output goes to the client that starts it.
    pub attach_stdout: bool,
    /// Its errors go to the client that starts it.
    pub attach_stderr: bool,
    /// A terminal.
    pub tty: bool,
    /// All capabilities.
    pub privileged: bool,
    /// `user[:group]`; the container's if empty.
    pub user: String,
    /// Working directory; the container's if empty.
    pub working_dir: String,
    /// Bytes of the sequence that detaches; the default if empty.
    pub detach_keys: Vec<u8>,
    /// First size of the terminal: rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// It is the daemon's own, to check the health of its container.
    #[serde(default)]
    pub probe: bool,
}

/// What readers see of an exec.
#[derive(Debug, Clone)]
pub struct ExecView {
    /// Id.
    pub id: ExecId,
    /// Its container.
    pub container: ContainerId,
    /// It was started and has not ended.
    pub running: bool,
    /// Known once it has ended (or could not be started).
    pub exit_code: Option<i32>,
    /// Process id in the host's namespace; stays after the end. 0 before the start.
    pub pid: i32,
    /// It will be forgotten with the next sweep.
    pub can_remove: bool,
    /// What was asked for.
    pub config: ExecConfig,
}

/// Where an exec is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Created,
    Starting,
    Running,
    Exited(i32),
}

/// What readers on other shards see of an exec. Written by its own shard alone, before the change is told.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    config: ExecConfig,
    state: Mutex<ShownState>,
}

#[derive(Debug, Clone, Copy, Default)]
struct ShownState {
    phase: Phase,
    pid: i32,
    can_remove: bool,
}

impl Shown {
    fn state(&self) -> MutexGuard<'_, ShownState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn view(&self, id: ExecId, container: ContainerId) -> ExecView {
        let ShownState {
            phase,
            pid,
            can_remove,
        } = *self.state();
        ExecView {
            id,
            container,
            running: matches!(phase, Phase::Starting | Phase::Running),
            exit_code: match phase {
                Phase::Exited(code) => Some(code),
                _ => None,
            },
            pid,
            can_remove,
            config: self.config.clone(),
        }
    }
}

/// An exec on the shard of its container.
pub(crate) struct Exec {
    pub(crate) id: ExecId,
    /// Its name in the keeper.
    pub(crate) key: String,
    pub(crate) shown: Arc<Shown>,
    /// The client's variables; gone once it is started.
    pub(crate) env: RefCell<Vec<String>>,
    phase: Cell<Phase>,
    /// Told after every change of phase.
    changed: Notify,
    pub(crate) process: Cell<ProcessName>,
    pub(crate) keeper: RefCell<Option<Rc<KeeperLink>>>,
    pub(crate) io: RefCell<Option<Rc<ContainerIo>>>,
    /// Its exit is being settled.
    pub(crate) exiting: Cell<bool>,
}

/// The keeper's name of an exec.
pub(crate) fn key_of(container: &str, exec: &str) -> String {
    format!("{container}.{exec}")
}

/// Container and exec of a keeper's name, if it is one of an exec.
pub(crate) fn parse_key(key: &str) -> Option<(&str, &str)> {
    key.split_once('.')
}

pub(crate) fn not_found(id: &str) -> EngineError {
    EngineError::NotFound(format!("No such exec instance: {id}"))
}

impl Exec {
    pub(crate) fn new(
        container: &str,
        id: ExecId,
        config: ExecConfig,
        env: Vec<String>,
        phase: Phase,
    ) -> Rc<Exec> {
        Rc::new(Exec {
            key: key_of(container, &id),
            id,
            shown: Arc::new(Shown {
                config,
                state: Mutex::new(ShownState {
                    phase,
                    ..ShownState::default()
                }),
            }),
            env: RefCell::new(env),
            phase: Cell::new(phase),
            changed: Notify::new(),
            process: Cell::new(ProcessName {
                pid: 0,
                start_time_ticks: 0,
            }),
            keeper: RefCell::default(),
            io: RefCell::default(),
            exiting: Cell::new(false),
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// What was asked for.
    pub(crate) fn config(&self) -> &ExecConfig {
        &self.shown.config
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
        {
            let mut shown = self.shown.state();
            (shown.phase, shown.pid) = (phase, self.process.get().pid);
        }
        self.changed.notify_all();
    }

    /// Created or running: what a container's inspection lists.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.phase(), Phase::Exited(_))
    }

    /// Waits for a phase that `test` likes.
    pub(crate) async fn until(&self, test: impl Fn(Phase) -> bool) {
        loop {
            let changed = self.changed.notified();
            if test(self.phase()) {
                return;
            }
            changed.await;
        }
    }

    /// It will be forgotten with the next sweep.
    fn can_remove(&self) -> bool {
        self.shown.state().can_remove
    }

    fn set_can_remove(&self, can_remove: bool) {
        self.shown.state().can_remove = can_remove;
    }

    /// Program and arguments as events show them.
    fn command_line(&self) -> String {
        let (program, arguments) = match self.config().argv.split_first() {
            Some((program, arguments)) => (program.as_str(), arguments),
            None => ("", Default::default()),
        };
        format!("{program} {}", arguments.join(" "))
    }
}

/// Docker's refusal of an exec in a container that is not running. A paused one is named as the client did.
pub(crate) fn check_container(container: &Container, named: &str) -> Result<(), EngineError> {
    check_status(container.status(), &container.id, named)
}

fn check_status(status: Status, id: &ContainerId, named: &str) -> Result<(), EngineError> {
    match status {
        Status::Running => Ok(()),
        Status::Paused => Err(EngineError::Conflict(format!(
            "Container {named} is paused, unpause the container before exec"
        ))),
        Status::Restarting => Err(EngineError::Conflict(format!(
            "Container {id} is restarting, wait until the container is running"
        ))),
        _ => Err(EngineError::NotRunning {
            prefix: String::new(),
            id: id.to_string(),
        }),
    }
}

/// The execs of one container, oldest first.
#[derive(Default)]
pub(crate) struct Execs(RefCell<Vec<Rc<Exec>>>);

impl Execs {
    pub(crate) fn get(&self, id: &str) -> Option<Rc<Exec>> {
        // The newest are asked for most.
        self.0.borrow().iter().rev().find(|e| *e.id == *id).cloned()
    }

    pub(crate) fn live(&self) -> usize {
        self.0.borrow().iter().filter(|e| e.is_live()).count()
    }

    pub(crate) fn starting(&self) -> usize {
        let starts = |e: &&Rc<Exec>| e.phase() == Phase::Starting;
        self.0.borrow().iter().filter(starts).count()
    }

    fn each(&self, f: impl FnMut(&Rc<Exec>)) {
        self.0.borrow().iter().for_each(f);
    }

    /// Waits until none is being started.
    pub(crate) async fn settled(&self) {
        let starting = || {
            let all = self.0.borrow();
            all.iter().find(|e| e.phase() == Phase::Starting).cloned()
        };
        while let Some(exec) = starting() {
            exec.until(|phase| phase != Phase::Starting).await;
        }
    }

    fn push(&self, exec: Rc<Exec>) {
        self.0.borrow_mut().push(exec);
    }

    /// Takes out what `keep` does not keep.
    fn retain(&self, keep: impl Fn(&Exec) -> bool) -> Vec<Rc<Exec>> {
        let mut all = self.0.borrow_mut();
        let (kept, out) = all.drain(..).partition(|e| keep(e));
        *all = kept;
        out
    }

    /// The oldest ended ones beyond the bound.
    fn beyond_bound(&self) -> Vec<ExecId> {
        let all = self.0.borrow();
        let ended: Vec<&Rc<Exec>> = all.iter().filter(|e| !e.is_live()).collect();
        let surplus = ended.len().saturating_sub(MAX_ENDED_EXECS);
        ended[..surplus].iter().map(|e| e.id.clone()).collect()
    }
}

impl Container {
    /// Publishes an event about one of its execs.
    fn exec_event(&self, exec: &Exec, action: &str, extra: &[(&str, String)]) {
        let mut attributes = vec![("execID", exec.id.to_string())];
        attributes.extend(extra.iter().cloned());
        self.event(action, &attributes);
    }

    /// Takes execs out of memory and index.
    pub(crate) fn forget_execs(&self, keep: impl Fn(&Exec) -> bool) -> Vec<Rc<Exec>> {
        let out = self.execs.retain(keep);
        for exec in &out {
            self.shard.shared.execs.remove(&self.id, &exec.id);
        }
        out
    }
}
