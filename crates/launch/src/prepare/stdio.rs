//! Pipes or a terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use gantry_keeper_proto::plan::StdioFds;
use rustix::fs::{Gid, Uid};
use rustix::pipe::PipeFlags;

use super::dev;
use super::fds::FdTable;
use crate::error::LaunchError;
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
fn give(fd: &OwnedFd, uid: u32) -> Result<(), LaunchError> {
    if uid == 0 {
        return Ok(());
    }
    rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None::<Gid>)
        .map_err(failed("give a stream to the user"))
}

/// Makes the streams; the keeper gets copies of the daemon's ends.
pub(crate) fn make(
    spec: &LaunchSpec,
    devpts: &OwnedFd,
    fds: &mut FdTable,
) -> Result<(StdioFds, DaemonEnds), LaunchError> {
    let mut plan = StdioFds::default();
    let mut ends = DaemonEnds::default();
    if spec.tty {
        let (master, slave) = dev::terminal(devpts.as_fd(), spec.console_size)
            .map_err(|e| LaunchError::prepare("make a terminal", "of the container", e))?;
        give(&slave, spec.uid)?;
        plan.tty_slave = Some(fds.add(slave)?);
        plan.tty_master = Some(fds.add_copy(&master)?);
        ends.tty_master = Some(master);
        return Ok((plan, ends));
    }
    if spec.open_stdin {
        let (read, write) = pipe()?;
        give(&read, spec.uid)?;
        plan.stdin_read = Some(fds.add(read)?);
        plan.stdin_write = Some(fds.add_copy(&write)?);
        ends.stdin = Some(write);
    }
    let (read, write) = pipe()?;
    give(&write, spec.uid)?;
    plan.stdout_write = Some(fds.add(write)?);
    plan.stdout_read = Some(fds.add_copy(&read)?);
    ends.stdout = Some(read);
    let (read, write) = pipe()?;
    give(&write, spec.uid)?;
    plan.stderr_write = Some(fds.add(write)?);
    plan.stderr_read = Some(fds.add_copy(&read)?);
    ends.stderr = Some(read);
    Ok((plan, ends))
}
