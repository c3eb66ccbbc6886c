//! Which namespaces a start gets: new ones, the host's, or those of another container that runs.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use gantry_launch::{NamespaceMode, Remap, Shm, UserNamespace};

use crate::EngineError;
use crate::model::*;
use crate::shard::Shared;

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
    /// A proc of the pid namespace that is joined.
    pub(crate) proc: Option<OwnedFd>,
    pub(crate) ipc: NamespaceMode,
    pub(crate) shm: Shm,
    pub(crate) user: Option<UserNamespace>,
}

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
        donors.pid = Some(running(shared, key).map_err(system)?);
    }
    Ok(donors)
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
    /// Opens what is joined; `network` is the container whose network is. Blocking.
    pub(crate) fn open(
        &self,
        remap: Option<&Arc<Remap>>,
        host: &HostSpec,
        network: Option<&ContainerView>,
    ) -> Result<Namespaces, EngineError> {
        let join = |donor: &Option<Arc<ContainerView>>, kind: &str| match donor {
            None => Ok(NamespaceMode::Host),
            Some(view) => namespace_of(view, kind).map(NamespaceMode::Join),
        };
        let pid = match host.pid_mode {
            PidMode::Private => NamespaceMode::New,
            PidMode::Host | PidMode::Container(_) => join(&self.pid, "pid")?,
        };
        let proc = match (&pid, &self.pid) {
            (NamespaceMode::Join(namespace), Some(view)) => Some(proc_of(view, namespace)?),
            _ => None,
        };
        Ok(Namespaces {
            pid,
            proc,
            ipc: match host.ipc_mode {
                IpcMode::Private | IpcMode::Shareable | IpcMode::None => NamespaceMode::New,
                IpcMode::Host | IpcMode::Container(_) => join(&self.ipc, "ipc")?,
            },
            shm: self.shm(host)?,
            user: remap.map(|remap| self.user(remap, network)).transpose()?,
        })
    }

    /// What belongs to a user namespace can only be had from inside of it, so the user namespace is joined too. Of
    /// several containers the last one counts, as under dockerd.
    fn user(
        &self,
        remap: &Arc<Remap>,
        network: Option<&ContainerView>,
    ) -> Result<UserNamespace, EngineError> {
        let donor = self.pid.as_deref().or(self.ipc.as_deref()).or(network);
        if donor.is_some_and(|view| view.fixed.host.host_userns) {
            return Err(EngineError::System(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: runc \
                 create failed: user namespaces enabled, but both namespace path and non-matching mapping specified \
                 -- you may only provide one"
                    .to_owned(),
            ));
        }
        let join =
            donor.map(|view| Ok::<_, EngineError>((namespace_of(view, "user")?, view.state.pid)));
        let join = join.transpose()?;
        Ok(UserNamespace {
            remap: remap.clone(),
            join,
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

/// A namespace of a running container. Blocking.
pub(crate) fn namespace_of(view: &ContainerView, kind: &str) -> Result<OwnedFd, EngineError> {
    gantry_launch::namespace_of(view.state.pid, view.state.start_time_ticks, kind)
        .map_err(|e| EngineError::io(format!("open the {kind} namespace of {}", view.id), e))
}

fn proc_of(view: &ContainerView, namespace: &OwnedFd) -> Result<OwnedFd, EngineError> {
    gantry_launch::proc_of(view.state.pid, view.state.start_time_ticks, namespace)
        .map_err(|e| EngineError::io(format!("make a proc of {}", view.id), e))
}
