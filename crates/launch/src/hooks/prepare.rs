//! What a start with hooks needs, made before the clone. Blocking: on a worker.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_keeper_proto::plan::{HookCommand, HookPlan, MAX_HOOKS};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::Serialize;

use super::{Hook, HookBundle, HookKind, Hooks};
use crate::error::LaunchError;
use crate::oci;
use crate::prepare::{FdTable, text};
use crate::spec::LaunchSpec;

/// Most bytes that a hook may write to its standard output, or to its standard error.
pub(super) const OUTPUT_BYTES: u64 = 1 << 20;

/// The host as hooks of its namespaces see it.
#[derive(Debug)]
pub(super) struct HostView {
    pub(super) root: OwnedFd,
    pub(super) mount_namespace: OwnedFd,
}

impl HostView {
    pub(super) fn open() -> Result<HostView, LaunchError> {
        Ok(HostView {
            root: oci::open_dir(Path::new("/"))?,
            mount_namespace: oci::mount_namespace()?,
        })
    }
}

/// The daemon's part of a start with hooks.
#[derive(Debug)]
pub(crate) struct PreparedHooks {
    pub(super) bundle: HookBundle,
    pub(super) hooks: Hooks,
    /// The container's first process is the first of its process ids.
    pub(super) own_pids: bool,
    pub(super) host: HostView,
    /// The daemon's end; taken when somebody waits at it.
    pub(super) gate: Option<OwnedFd>,
    pub(super) create_state: OwnedFd,
    pub(super) start_state: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

fn no_annotations(annotations: &&BTreeMap<String, String>) -> bool {
    annotations.is_empty()
}

/// The container's state as hooks get it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State<'s> {
    pub(super) oci_version: &'static str,
    pub(super) id: &'s str,
    pub(super) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<i32>,
    pub(super) bundle: &'s Path,
    #[serde(skip_serializing_if = "no_annotations")]
    pub(super) annotations: &'s BTreeMap<String, String>,
}

impl<'s> State<'s> {
    pub(super) fn new(bundle: &'s HookBundle, status: &'static str, pid: Option<i32>) -> State<'s> {
        State {
            oci_version: oci::VERSION,
            id: bundle.id(),
            status,
            pid,
            bundle: bundle.dir(),
            annotations: bundle.annotations(),
        }
    }

    pub(super) fn json(&self) -> Result<Vec<u8>, LaunchError> {
        serde_json::to_vec(self)
            .map_err(|e| LaunchError::prepare("write", "the container's state", e))
    }
}

/// Makes the bundle and what goes into the plan.
pub(crate) fn prepare(
    spec: &LaunchSpec,
    fds: &mut FdTable,
) -> Result<Option<(HookPlan, PreparedHooks)>, LaunchError> {
    let hooks = &spec.hooks.hooks;
    let count: usize = hooks.values().map(Vec::len).sum();
    if count == 0 {
        return Ok(None);
    }
    if count > MAX_HOOKS {
        return Err(LaunchError::Invalid {
            what: "number of hooks",
            value: count.to_string(),
        });
    }
    let bundle =
        HookBundle::new(&spec.hooks.exec_root, &spec.id).with_annotations(spec.annotations.clone());
    let root_point = bundle.root_point();
    bundle.make(&oci::document(spec, &root_point)?)?;
    let failed = |e: rustix::io::Errno| LaunchError::prepare("make", "a socket", e);
    let flags = SocketFlags::CLOEXEC;
    let (gate, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(failed)?;
    // The kernel says who is there, in this process's numbers.
    rustix::net::sockopt::set_socket_passcred(&gate, true).map_err(failed)?;
    let prepared = PreparedHooks {
        own_pids: spec.pid.is_new(),
        host: HostView::open()?,
        gate: Some(gate),
        create_state: memfd(None)?,
        start_state: memfd(None)?,
        stdout: memfd(Some(OUTPUT_BYTES))?,
        stderr: memfd(Some(OUTPUT_BYTES))?,
        hooks: hooks.clone(),
        bundle,
    };
    let commands = |kind| -> Result<Vec<HookCommand>, LaunchError> {
        let of_kind = hooks.get(&kind).map_or(&[][..], Vec::as_slice);
        of_kind.iter().map(command).collect()
    };
    let root_point = root_point.display().to_string();
    let plan = HookPlan {
        gate: fds.add(theirs)?,
        mount_namespace: fds.add_copy(&prepared.host.mount_namespace)?,
        root: fds.add_copy(&prepared.host.root)?,
        root_point: text("path of the bundle", root_point.into())?,
        create_container: commands(HookKind::CreateContainer)?,
        start_container: commands(HookKind::StartContainer)?,
        create_state: fds.add_copy(&prepared.create_state)?,
        start_state: fds.add_copy(&prepared.start_state)?,
        stdout: fds.add_copy(&prepared.stdout)?,
        stderr: fds.add_copy(&prepared.stderr)?,
    };
    Ok(Some((plan, prepared)))
}

/// A hook as the keeper gets it.
pub(super) fn command(hook: &Hook) -> Result<HookCommand, LaunchError> {
    let strings = |what, all: &[String]| -> Result<Vec<CString>, LaunchError> {
        all.iter().map(|s| text(what, s.clone().into())).collect()
    };
    let path = text("path of a hook", hook.path.clone().into())?;
    let mut argv = strings("argument of a hook", &hook.args)?;
    if argv.is_empty() {
        argv.push(path.clone());
    }
    let mut env = strings("environment variable of a hook", &hook.env)?;
    if env.is_empty() {
        let search = format!("PATH={}", oci::Runtime::search_path());
        env.push(text("search path", search.into())?);
    }
    Ok(HookCommand {
        path,
        argv,
        env,
        timeout_ms: hook.timeout_ms(),
    })
}

/// A file in memory; of a fixed size, so that nobody can make it grow, if there is one.
pub(super) fn memfd(size_bytes: Option<u64>) -> Result<OwnedFd, LaunchError> {
    let made = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("gantry-hook", flags)?;
        if let Some(bytes) = size_bytes {
            rustix::fs::ftruncate(&fd, bytes)?;
            rustix::fs::fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK)?;
        }
        rustix::io::Result::Ok(fd)
    };
    made().map_err(|e| LaunchError::prepare("make", "a memfd", e))
}

/// Writes from the beginning, without moving the file's position.
pub(super) fn fill(fd: &OwnedFd, bytes: &[u8]) -> Result<(), LaunchError> {
    use std::os::unix::fs::FileExt;
    let written = fd
        .try_clone()
        .and_then(|fd| File::from(fd).write_all_at(bytes, 0));
    written.map_err(|e| LaunchError::prepare("write", "the container's state", e))
}
