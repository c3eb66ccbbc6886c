//! Pipes or a terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use gantry_keeper_proto::plan::StdioFds;
use rustix::fs::{Gid, Uid};
use rustix::pipe::PipeFlags;

use super::dev;
use super::fds::FdTable;
use crate::error::LaunchError;
use crate::remap::Remap;
use crate::spec::LaunchSpec;

/// The daemon's ends.
#[derive(Debug, Default)]
pub(crate) struct DaemonEnds {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) tty_master: Option<OwnedFd>,
}

fn failed(step: &'static str) -> impl Fn(rustix::io::Errno) -> LaunchError {
    move |e| LaunchError::prepare(step, "of the container", io::Error::from(e))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed("make a pipe"))
}

/// The container's user may open /dev/stdout and the like again.
fn give(fd: &OwnedFd, spec: &Streams<'_>) -> Result<(), LaunchError> {
    let uid = match spec.remap {
        None if spec.uid == 0 => return Ok(()),
        None => spec.uid,
        Some(remap) => host_uid(remap, spec.uid)?,
    };
    rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None::<Gid>)
        .map_err(failed("give a stream to the user"))
}

/// The host's id of the container's user.
fn host_uid(remap: &Remap, uid: u32) -> Result<u32, LaunchError> {
    remap.host_uid(uid).ok_or_else(|| LaunchError::Invalid {
        what: "user",
        value: uid.to_string(),
    })
}

/// What the streams are to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams<'a> {
    pub(crate) tty: bool,
    pub(crate) console_size: Option<(u16, u16)>,
    pub(crate) open_stdin: bool,
    pub(crate) uid: u32,
    pub(crate) remap: Option<&'a Remap>,
}

impl<'a> Streams<'a> {
    pub(crate) fn of(spec: &'a LaunchSpec) -> Streams<'a> {
        Streams {
            tty: spec.tty,
            console_size: spec.console_size,
            open_stdin: spec.open_stdin,
            uid: spec.uid,
            remap: spec.user.as_ref().map(|user| &*user.remap),
        }
    }
}

/// Makes the streams; the keeper gets copies of the daemon's ends. A terminal is made in the directory of a devpts.
pub(crate) fn make(
    spec: Streams<'_>,
    devpts: impl FnOnce() -> Result<OwnedFd, LaunchError>,
    fds: &mut FdTable,
) -> Result<(StdioFds, DaemonEnds), LaunchError> {
    let mut plan = StdioFds::default();
    let mut ends = DaemonEnds::default();
    if spec.tty {
        let acting = spec.remap.map(Remap::act_as_root).transpose();
        let _acting = acting.map_err(|e| LaunchError::prepare("act as", "root", e))?;
        let (master, slave) = dev::terminal(devpts()?.as_fd(), spec.console_size)
            .map_err(|e| LaunchError::prepare("make a terminal", "of the container", e))?;
        give(&slave, &spec)?;
        plan.tty_slave = Some(fds.add(slave)?);
        plan.tty_master = Some(fds.add_copy(&master)?);
        ends.tty_master = Some(master);
        return Ok((plan, ends));
    }
    if spec.open_stdin {
        let (read, write) = pipe()?;
        give(&read, &spec)?;
        plan.stdin_read = Some(fds.add(read)?);
        plan.stdin_write = Some(fds.add_copy(&write)?);
        ends.stdin = Some(write);
    }
    let (read, write) = pipe()?;
    give(&write, &spec)?;
    plan.stdout_write = Some(fds.add(write)?);
    plan.stdout_read = Some(fds.add_copy(&read)?);
    ends.stdout = Some(read);
    let (read, write) = pipe()?;
    give(&write, &spec)?;
    plan.stderr_write = Some(fds.add(write)?);
    plan.stderr_read = Some(fds.add_copy(&read)?);
    ends.stderr = Some(read);
    Ok((plan, ends))
}
