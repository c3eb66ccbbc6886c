//! A start by an external runtime. Blocking: on a worker.

use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_keeper_proto::plan::StdioFds;
use gantry_keeper_proto::runtime::NewProcess;
use serde_json::Value;

use super::bundle::{Bundle, listen_for_console, open_dir};
use super::command::{Commands, Line};
use super::mounts::ClientMount;
use super::{PID_FILE, ROOTFS, config, mounts};
use crate::error::LaunchError;
use crate::prepare::fds::FdTable;
use crate::prepare::{
    DaemonEnds, GroupGuard, Prepared, Streams, cgroup, make_streams, rootfs, text,
};
use crate::root_mount::RootMount;
use crate::spec::LaunchSpec;

/// What is called what in a start.
const VERBS: &[&str] = &["create", "start"];

/// A start by an external runtime, ready.
#[derive(Debug)]
pub(crate) struct External {
    pub(crate) id: String,
    pub(crate) commands: Commands,
    pub(crate) ends: DaemonEnds,
    pub(crate) group: GroupGuard,
    /// The root file system, to be dropped after the exit.
    pub(crate) root: RootMount,
    /// What the runtime opens by a path into this process.
    pub(crate) kept: Vec<OwnedFd>,
}

/// Standard streams of a process: pipes, or a socket at which the terminal is handed over.
pub(crate) struct ProcessStreams {
    pub(crate) stdio: StdioFds,
    pub(crate) ends: DaemonEnds,
    pub(crate) pid_dir: u8,
    pub(crate) console: Option<(u8, &'static str)>,
}

/// Streams and what is read in `dir` after the runtime's first command.
pub(crate) fn streams(
    wanted: Streams,
    dir: &Path,
    fds: &mut FdTable,
) -> Result<ProcessStreams, LaunchError> {
    let place = open_dir(dir)?;
    let mut console = None;
    let (stdio, ends) = if wanted.tty {
        let (socket, name) = listen_for_console(&place)?;
        console = Some((fds.add(socket)?, name));
        (StdioFds::default(), DaemonEnds::default())
    } else {
        let no_terminal = || {
            Err(LaunchError::Invalid {
                what: "terminal",
                value: String::new(),
            })
        };
        make_streams(wanted, no_terminal, fds)?
    };
    Ok(ProcessStreams {
        stdio,
        ends,
        pid_dir: fds.add(place)?,
        console,
    })
}

/// Bundle, mounts, pipes, control group and commands of one start. `seccomp` is the filter in the specification's words
/// ([`super::oci_seccomp`]).
pub fn prepare(
    spec: &LaunchSpec,
    bundle: &Bundle,
    seccomp: Option<Value>,
) -> Result<Prepared, LaunchError> {
    if spec.argv.is_empty() {
        return Err(LaunchError::Invalid {
            what: "command",
            value: String::new(),
        });
    }
    let remap = spec.user.as_ref().map(|user| &*user.remap);
    let checked = remap.map(|remap| remap.check(spec.uid, spec.gid, &spec.groups));
    checked.transpose().map_err(LaunchError::Unmapped)?;
    bundle.make(remap.map(|remap| remap.root().1))?;
    let dir = bundle.dir();
    let mut fds = FdTable::default();
    let group = cgroup::prepare(&spec.cgroup, &spec.id, spec.cgroup_namespace, &mut fds)?;
    let made_group = group.guard.get();
    let cgroups_path = made_group.map_or_else(String::new, |g| g.relative().to_owned());
    let hybrid = made_group.map_or(Ok(None), gantry_cgroup::Group::hybrid_procs)?;
    let cgroup_procs = hybrid.map(|fd| fds.add(fd)).transpose()?;
    let root = rootfs::mount(&spec.rootfs)?;
    let streams = streams(Streams::of(spec), dir, &mut fds)?;
    let client = mounts::client(spec, &root, dir, &mut fds)?;
    let made = |e| LaunchError::prepare("make", dir.display().to_string(), e);
    let root_point = dir.join(ROOTFS);
    for point in [&root_point, &dir.join("mnt")] {
        std::fs::create_dir(point).map_err(made)?;
    }
    let at = text(
        "path of the bundle",
        root_point.display().to_string().into(),
    )?;
    let mut trees = vec![(fds.add_copy(&root)?, at)];
    for mount in &client {
        trees.push(mount.place()?);
    }
    let mut kept = Vec::new();
    let client = client.into_iter().map(ClientMount::into_mount).collect();
    let document = config::config(spec, &cgroups_path, client, seccomp, &mut kept)?;
    let json = serde_json::to_vec(&document).map_err(std::io::Error::from);
    bundle.write("config.json", &json.map_err(made)?)?;
    let line = Line::new(bundle, dir.join("log.json"), "create")?;
    let commands = launch_commands(&line, bundle, &streams)?;
    let process = NewProcess {
        id: spec.id.clone(),
        pid_dir: streams.pid_dir,
        pid_file: text("name", PID_FILE.into())?,
        stdio: streams.stdio,
        console: streams.console.map(|(fd, _)| fd),
        console_size: spec.console_size,
        cgroup_procs,
        oom_counter: group.oom_counter,
        log_nonblocking: spec.log_nonblocking,
    };
    let external = External {
        id: spec.id.clone(),
        commands: line.plan(commands, VERBS, dir, trees, Some(process), fds)?,
        ends: streams.ends,
        group: group.guard,
        root: RootMount::new(root),
        kept,
    };
    Ok(Prepared::external(external, group.discarded))
}

fn launch_commands(
    line: &Line<'_>,
    bundle: &Bundle,
    streams: &ProcessStreams,
) -> Result<Vec<Vec<std::ffi::CString>>, LaunchError> {
    let dir = bundle.dir().display().to_string();
    let pid_file = bundle.dir().join(PID_FILE).display().to_string();
    let mut create = vec!["create", "--bundle", &dir, "--pid-file", &pid_file];
    if let Some((_, name)) = streams.console {
        create.extend(["--console-socket", name]);
    }
    create.push(bundle.id());
    Ok(vec![
        line.command(&create)?,
        line.command(&["start", bundle.id()])?,
    ])
}
