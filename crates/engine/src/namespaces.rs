//! Which namespaces a start gets: new ones, the host's, or those of another container that runs.

use std::sync::Arc;

use gantry_launch::{NamespaceMode, Shm};

use crate::model::*;
use crate::shard::Shared;
use crate::{EngineError, capabilities};

/// The containers that are joined, as they are at the start.
#[derive(Debug, Default)]
pub(crate) struct Donors {
    pid: Option<Arc<ContainerView>>,
    ipc: Option<Arc<ContainerView>>,
}

/// What a launch is given of them.
#[derive(Debug)]
pub(crate) struct Namespaces {
    pub(crate) pid: NamespaceMode,
    pub(crate) ipc: NamespaceMode,
    pub(crate) shm: Shm,
}

const CAP_SYS_PTRACE: u64 = 1 << 19;

const PID: &str = "failed to join PID namespace: ";
const IPC: &str = "failed to join IPC namespace: ";

/// Finds the containers to join; they must run, and share what is asked of them.
pub(crate) fn donors(shared: &Shared, host: &HostSpec) -> Result<Donors, EngineError> {
    let mut donors = Donors::default();
    if let IpcMode::Container(key) = &host.ipc_mode {
        donors.ipc = Some(ipc_donor(shared, key)?);
    }
    if let PidMode::Container(key) = &host.pid_mode {
        // Docker does not class this one.
        let system = |e: EngineError| EngineError::System(format!("{PID}{e}"));
        let donor = running(shared, key).map_err(system)?;
        refuse_tracers(shared, &donor)?;
        donors.pid = Some(donor);
    }
    Ok(donors)
}

/// A first process is in a joined PID namespace from its birth, and until its program runs it has the keeper's rights and
/// files. Whoever may trace it there (`CAP_SYS_PTRACE`) could take them, so beside such a container nothing is started.
/// A privileged container has the host's rights anyway.
fn refuse_tracers(shared: &Shared, donor: &ContainerView) -> Result<(), EngineError> {
    for other in shared.index.all() {
        let host = &other.fixed.host;
        let there = other.id == donor.id
            || matches!(&host.pid_mode, PidMode::Container(key) if **key == *donor.id);
        if !there || host.privileged || !other.state.status.is_alive() {
            continue;
        }
        if capabilities::resolve(&host.cap_add, &host.cap_drop, false)? & CAP_SYS_PTRACE != 0 {
            return Err(EngineError::NotImplemented(format!(
                "{PID}container {} is in it and may trace (CAP_SYS_PTRACE): starting beside it is not implemented",
                other.id
            )));
        }
    }
    Ok(())
}

fn running(shared: &Shared, key: &str) -> Result<Arc<ContainerView>, EngineError> {
    let (_, view) = shared.index.resolve(key)?;
    match view.state.status {
        Status::Restarting => Err(EngineError::Conflict(format!(
            "Container {} is restarting, wait until the container is running",
            view.id
        ))),
        status if status.is_alive() => Ok(view),
        _ => Err(EngineError::NotRunning {
            prefix: String::new(),
            id: view.id.to_string(),
        }),
    }
}

fn ipc_donor(shared: &Shared, key: &str) -> Result<Arc<ContainerView>, EngineError> {
    if key.is_empty() {
        return Err(EngineError::InvalidParameter(format!(
            "{IPC}invalid name or ID supplied: \"\""
        )));
    }
    let view = match running(shared, key) {
        Err(e @ EngineError::NoSuchContainer(_)) => {
            return Err(EngineError::InvalidParameter(format!("{IPC}{e}")));
        }
        other => other.map_err(|e| e.prefixed(IPC))?,
    };
    if !view.fixed.host.ipc_mode.is_shareable() {
        return Err(EngineError::InvalidParameter(format!(
            "{IPC}container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
            view.id
        )));
    }
    Ok(view)
}

impl Donors {
    /// Opens what is joined. Blocking.
    pub(crate) fn open(&self, host: &HostSpec) -> Result<Namespaces, EngineError> {
        let join = |donor: &Option<Arc<ContainerView>>, kind: &str| match donor {
            None => Ok(NamespaceMode::Host),
            Some(view) => {
                gantry_launch::namespace_of(view.state.pid, view.state.start_time_ticks, kind)
                    .map(NamespaceMode::Join)
                    .map_err(|e| {
                        EngineError::io(format!("open the {kind} namespace of {}", view.id), e)
                    })
            }
        };
        Ok(Namespaces {
            pid: match host.pid_mode {
                PidMode::Private => NamespaceMode::New,
                PidMode::Host | PidMode::Container(_) => join(&self.pid, "pid")?,
            },
            ipc: match host.ipc_mode {
                IpcMode::Private | IpcMode::Shareable | IpcMode::None => NamespaceMode::New,
                IpcMode::Host | IpcMode::Container(_) => join(&self.ipc, "ipc")?,
            },
            shm: self.shm(host)?,
        })
    }

    fn shm(&self, host: &HostSpec) -> Result<Shm, EngineError> {
        match (&host.ipc_mode, &self.ipc) {
            (IpcMode::None, _) => Ok(Shm::Absent),
            (IpcMode::Host, _) => Ok(Shm::Host),
            (IpcMode::Container(_), Some(view)) => {
                gantry_launch::shm_of(view.state.pid, view.state.start_time_ticks)
                    .map(Shm::Of)
                    .map_err(|e| EngineError::io(format!("share /dev/shm of {}", view.id), e))
            }
            _ => Ok(Shm::Own),
        }
    }
}
