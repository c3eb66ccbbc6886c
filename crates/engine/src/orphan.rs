//! Containers whose keeper died: they go on, their streams are read here as before, but nobody reports
//! their exit. A pidfd does, with the exit code on kernels that keep it there (6.15 and later).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use gantry_launch::process_start_time_ticks;
use gantry_rt::fd::AsyncFd;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::EngineError;

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

    /// Its root directory, to resolve paths in with `RESOLVE_IN_ROOT`; `None` when the process is gone.
    pub(crate) fn root(self) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(format!("/proc/{}/root", self.pid), flags, Mode::empty()) {
            Ok(root) => Ok(self.open()?.map(|_| root)),
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
                e => Err(e),
            },
        }
    }

    /// Waits for the end of the process and gives its wait status, if the kernel still knows it.
    pub(crate) async fn ended(self) -> Option<i32> {
        let pidfd = match self.open() {
            Ok(pidfd) => AsyncFd::new(pidfd?).ok()?,
            Err(e) => {
                tracing::warn!(pid = self.pid, error = %e, "a container without a keeper can't be watched");
                return None;
            }
        };
        if let Err(e) = pidfd.readable().await {
            tracing::warn!(pid = self.pid, error = %e, "a container without a keeper can't be waited for");
            return None;
        }
        match exit_status(pidfd.as_fd().as_raw_fd()) {
            Ok(status) => status,
            Err(e) => {
                tracing::warn!(pid = self.pid, error = %e, "this kernel does not keep exit codes in pidfds");
                None
            }
        }
    }
}

/// The kernel's `struct pidfd_info` (first version).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// The signal goes to the process group (Linux 6.9).
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
/// Ask for, or be told of, an exit code.
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xff, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | (64 << 16) | (0xff << 8) | 11;

fn exit_status(pidfd: i32) -> io::Result<Option<i32>> {
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the ioctl number says 64 bytes, which is the size of `info` (asserted above); the kernel
    // writes within it, and every bit pattern is a valid `PidfdInfo`.
    let done = unsafe { libc::ioctl(pidfd, PIDFD_GET_INFO as _, &raw mut info) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
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
    fn signal_and_exit_status() {
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let name = name_of(child.id());
        let pidfd = name.open().unwrap().unwrap();
        assert!(name.signal(libc::SIGTERM).unwrap());
        child.wait().unwrap();
        match exit_status(pidfd.as_fd().as_raw_fd()) {
            Ok(status) => assert_eq!(status, Some(libc::SIGTERM)),
            // An older kernel.
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ENOTTY)),
        }
        assert!(!name.signal(libc::SIGTERM).unwrap());
    }
}
