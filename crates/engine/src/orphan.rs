//! Processes that are not this process's children: named for good, signalled, and how they ended.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use std::time::Duration;

use gantry_keeper_proto::process::{Ended, Stat, how_ended, keeps_status};
use gantry_launch::process_start_time_ticks;
use gantry_rt::fd::AsyncFd;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::EngineError;

/// The signal goes to the process group (Linux 6.9).
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
/// Pause between two looks at a process that is about to end.
const END_PAUSE: Duration = Duration::from_millis(10);

/// A process named for good by its pid and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessName {
    pub(crate) pid: i32,
    pub(crate) start_time_ticks: u64,
}

impl ProcessName {
    /// A pidfd of exactly this process; `None` when it is gone.
    pub(crate) fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // Looked at after the open: if it is the same process now, the pidfd is its.
        match process_start_time_ticks(self.pid) {
            Ok(ticks) if ticks == self.start_time_ticks => Ok(Some(pidfd)),
            _ => Ok(None),
        }
    }

    /// Its root directory, to resolve paths in with `RESOLVE_IN_ROOT`, and a pidfd; `None` when the process is gone.
    pub(crate) fn open_with_root(self) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(format!("/proc/{}/root", self.pid), flags, Mode::empty()) {
            // What is looked at afterwards holds for both.
            Ok(root) => Ok(self.open()?.map(|pidfd| (root, pidfd))),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends a signal; false when the process is gone.
    pub(crate) fn signal(self, number: i32) -> Result<bool, EngineError> {
        let context = |e| EngineError::io(format!("signal process {}", self.pid), e);
        let Some(pidfd) = self.open().map_err(context)? else {
            return Ok(false);
        };
        let signal = Signal::from_named_raw(number).ok_or_else(|| {
            EngineError::InvalidParameter(format!("signal {number} can't be sent without a keeper"))
        })?;
        match rustix::process::pidfd_send_signal(&pidfd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(context(e.into())),
        }
    }

    /// Kills the process group that it leads; false when there is none.
    pub(crate) fn kill_group(self) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else {
            return Ok(false);
        };
        // SAFETY: no memory is passed: the signal has no `siginfo`, and the other arguments are numbers.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                PIDFD_SIGNAL_PROCESS_GROUP,
            )
        };
        match sent {
            0 => Ok(true),
            _ => match io::Error::last_os_error() {
                e if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
                // An older kernel. The pidfd was the process's a moment ago, and as long as the group has members its
                // number is not given to another.
                e if e.raw_os_error() == Some(libc::EINVAL) => self.kill_group_by_number(),
                e => Err(e),
            },
        }
    }

    fn kill_group_by_number(self) -> io::Result<bool> {
        let Some(leader) = Pid::from_raw(self.pid) else {
            return Ok(false);
        };
        match rustix::process::kill_process_group(leader, Signal::KILL) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for the end of the process and gives its wait status, if anybody still knows it.
    pub(crate) async fn ended(self) -> Option<i32> {
        let pidfd = match self.open() {
            Ok(pidfd) => AsyncFd::new(pidfd?).ok()?,
            Err(e) => {
                tracing::warn!(pid = self.pid, error = %e, "a container without a keeper can't be watched");
                return None;
            }
        };
        loop {
            if let Err(e) = pidfd.readable().await {
                tracing::warn!(pid = self.pid, error = %e, "a container without a keeper can't be waited for");
                return None;
            }
            match how_ended(pidfd.as_fd(), self.stat(), self.start_time_ticks) {
                Ok(Ended::Status(status)) => return Some(status),
                Ok(Ended::Unknown) => return None,
                Ok(Ended::NotYet) => gantry_rt::sleep(END_PAUSE).await,
                Err(e) => {
                    tracing::warn!(pid = self.pid, error = %e, "the end of a container without a keeper is unknown");
                    return None;
                }
            }
        }
    }

    /// What /proc says of the process id now.
    pub(crate) fn stat(self) -> Option<Stat> {
        let file = std::fs::File::open(format!("/proc/{}/stat", self.pid)).ok()?;
        Stat::read_file(file).ok()
    }

    /// Its end is known: if it came to this process as an orphan, it is a zombie that may go.
    pub(crate) fn collect(self) {
        if keeps_status() {
            // Then none comes.
            return;
        }
        let is_it =
            |stat: &Stat| stat.state == 'Z' && stat.start_time_ticks == self.start_time_ticks;
        if let (Some(_), Some(pid)) = (self.stat().filter(is_it), Pid::from_raw(self.pid))
            && let Err(e) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)
        {
            // The child of somebody else.
            tracing::debug!(pid = self.pid, error = %e, "not collected");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn name_of(pid: u32) -> ProcessName {
        let pid = pid as i32;
        ProcessName {
            pid,
            start_time_ticks: process_start_time_ticks(pid).unwrap(),
        }
    }

    #[test]
    fn another_process_with_the_pid_is_not_it() {
        let own = name_of(std::process::id());
        assert!(own.open().unwrap().is_some());
        assert!(
            ProcessName {
                start_time_ticks: own.start_time_ticks + 1,
                ..own
            }
            .open()
            .unwrap()
            .is_none()
        );
        assert!(ProcessName { pid: 0, ..own }.open().unwrap().is_none());
    }

    #[test]
    fn groups_are_killed_whole() {
        use std::io::Read;
        use std::os::unix::process::CommandExt;
        for by_number in [false, true] {
            let mut leader = Command::new("sh")
                .args(["-c", "sleep 60 & echo; wait"])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .process_group(0)
                .spawn()
                .unwrap();
            let mut output = leader.stdout.take().unwrap();
            output.read_exact(&mut [0]).unwrap();
            let name = name_of(leader.id());
            let killed = match by_number {
                true => name.kill_group_by_number(),
                false => name.kill_group(),
            };
            assert!(killed.unwrap());
            leader.wait().unwrap();
            // Ends when the last one that holds it has.
            assert_eq!(output.read(&mut [0]).unwrap(), 0);
            assert!(!name.kill_group().unwrap());
        }
    }

    #[test]
    fn signals() {
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let name = name_of(child.id());
        assert!(name.signal(libc::SIGTERM).unwrap());
        child.wait().unwrap();
        assert!(!name.signal(libc::SIGTERM).unwrap());
    }
}
