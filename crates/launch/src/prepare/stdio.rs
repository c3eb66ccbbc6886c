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

/// What the streams are to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams {
    pub(crate) tty: bool,
    pub(crate) console_size: Option<(u16, u16)>,
    pub(crate) open_stdin: bool,
    pub(crate) uid: u32,
}

impl Streams {
    pub(crate) fn of(spec: &LaunchSpec) -> Streams {
        Streams {
            tty: spec.tty,
            console_size: spec.console_size,
            open_stdin: spec.open_stdin,
            uid: spec.uid,
        }
    }
}

/// Makes the streams; the keeper gets copies of the daemon's ends. A terminal is made in the directory of a devpts.
pub(crate) fn make(
    spec: Streams,
    devpts: impl FnOnce() -> Result<OwnedFd, LaunchError>,
    fds: &mut FdTable,
) -> Result<(StdioFds, DaemonEnds), LaunchError> {
    let mut plan = StdioFds::default();
    let mut ends = DaemonEnds::default();
    if spec.tty {
        let (master, slave) = dev::terminal(devpts()?.as_fd(), spec.console_size)
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
