//! Places where tests let a daemon or a keeper die. Always compiled in; without [`DIR_ENV`] a point is one load.
//!
//! With it, a point that has a file of its name in that directory takes the file away and does what the file says:
//! `kill` (SIGKILL to the own process) or `stop` (SIGSTOP). A file fires once, in whichever process comes first, so
//! that a test can arm points while the processes run, and see by the absence of the file that one was reached.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

/// Variable that names the directory. The daemon passes it on to its keepers.
pub const DIR_ENV: &str = "GANTRY_FAULT_DIR";

static DIR: OnceLock<OwnedFd> = OnceLock::new();

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// A place in the life of a container or an exec.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point { $($(#[$doc])* $name,)* }

        impl Point {
            /// The name of its file.
            pub fn name(self) -> &'static str {
                match self { $(Point::$name => $text,)* }
            }
        }
    };
}

points! {
    /// Daemon: mounts and group of a start are made, nothing is sent.
    StartStaged = "start.staged";
    /// Daemon: the keeper has launched, nothing is recorded.
    StartLaunched = "start.launched";
    /// Daemon: it is recorded that it runs, nothing is announced.
    StartRecorded = "start.recorded";
    /// Daemon: the note about an exec is written, nothing is sent.
    ExecStaged = "exec.staged";
    /// Daemon: the keeper has launched an exec, nobody knows.
    ExecLaunched = "exec.launched";
    /// Daemon: an exec runs and its streams are read.
    ExecRunning = "exec.running";
    /// Daemon: the end of an exec is set, the keeper still has it.
    ExecEnded = "exec.ended";
    /// Daemon: the keeper has forgotten an exec, its note is there.
    ExecForgotten = "exec.forgotten";
    /// Daemon: the stop signal is sent.
    StopSignalled = "stop.signalled";
    /// Daemon: an exit is reported, output may be left.
    ExitReported = "exit.reported";
    /// Daemon: output has ended, nothing is recorded.
    ExitDrained = "exit.drained";
    /// Daemon: the exit is in the store, not in the journal.
    ExitCommitted = "exit.committed";
    /// Daemon: the exit is recorded, not announced.
    ExitRecorded = "exit.recorded";
    /// Daemon: the exit is announced, group and slot are there.
    ExitAnnounced = "exit.announced";
    /// Daemon: the group is gone, the keeper still has the container.
    ExitGroupGone = "exit.group-gone";
    /// Daemon: the keeper has forgotten the container.
    ExitForgotten = "exit.forgotten";
    /// Daemon: it is recorded that the container is being removed.
    RemoveMarked = "remove.marked";
    /// Daemon: its directory is set aside, its record is there.
    RemoveTrashed = "remove.trashed";
    /// Daemon: its record is gone, nothing is announced.
    RemoveCommitted = "remove.committed";
    /// Daemon: the successor of a dead keeper is connected and knows nothing.
    SuccessorConnected = "successor.connected";
    /// Keeper: a launch is asked for.
    KeeperLaunchReceived = "keeper.launch.received";
    /// Keeper: the process is cloned, nothing is noted.
    KeeperLaunchCloned = "keeper.launch.cloned";
    /// Keeper: the process is in its slot, nothing is answered.
    KeeperLaunchNoted = "keeper.launch.noted";
    /// Keeper: the launch is answered.
    KeeperLaunchAnswered = "keeper.launch.answered";
    /// Keeper: the process that entered a container has made another, which is not watched yet.
    KeeperExecEntered = "keeper.exec.entered";
    /// Keeper: a signal is asked for.
    KeeperSignalReceived = "keeper.signal.received";
    /// Keeper: a signal is sent, nothing is answered.
    KeeperSignalSent = "keeper.signal.sent";
    /// Keeper: a process has ended, its status is not collected.
    KeeperExitSeen = "keeper.exit.seen";
    /// Keeper: the status is collected, nothing is told.
    KeeperExitCollected = "keeper.exit.collected";
    /// Keeper: the exit is told.
    KeeperExitTold = "keeper.exit.told";
    /// Keeper: it is to forget a container.
    KeeperForgetReceived = "keeper.forget.received";
    /// Keeper: it has forgotten, nothing is answered.
    KeeperForgetDone = "keeper.forget.done";
    /// Keeper: it reads no output of a container any more, its files are not handed over.
    KeeperHandOver = "keeper.hand-over";
    /// Child: it is in its group, nothing else is done; it waits for ever.
    ChildBegin = "child.begin";
    /// Child: everything is done but the exec; it waits for ever.
    ChildExec = "child.exec";
}

/// Reads the environment, once, at the start of a program.
pub fn arm() -> io::Result<()> {
    let Some(path) = std::env::var_os(DIR_ENV) else {
        return Ok(());
    };
    let path = CString::new(path.into_encoded_bytes())?;
    let flags = libc::O_DIRECTORY | libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the path is NUL-terminated and lives through the call.
    let fd = unsafe { libc::open(path.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    drop(DIR.set(unsafe { OwnedFd::from_raw_fd(fd) }));
    Ok(())
}

/// A point is reached.
pub fn reach(point: Point) {
    let signal = match take(point).as_deref() {
        Some("kill") => libc::SIGKILL,
        Some("stop") => libc::SIGSTOP,
        _ => return,
    };
    // SAFETY: plain system calls without pointers.
    unsafe { libc::kill(libc::getpid(), signal) };
}

/// Takes the file of a point away and gives what it says, if there is one.
pub fn take(point: Point) -> Option<String> {
    let dir = DIR.get()?.as_raw_fd();
    let name = CString::new(point.name()).ok()?;
    // SAFETY: the path is NUL-terminated and lives through the call.
    let fd = unsafe { libc::openat(dir, name.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the descriptor is new and ours alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut word = [0u8; 16];
    // SAFETY: the buffer is live and as long as stated.
    let n = unsafe { libc::read(fd.as_raw_fd(), word.as_mut_ptr().cast(), word.len()) };
    // SAFETY: the path is NUL-terminated and lives through the call.
    if unsafe { libc::unlinkat(dir, name.as_ptr(), 0) } < 0 {
        // Somebody else was first.
        return None;
    }
    let word = word.get(..usize::try_from(n).ok()?)?;
    Some(String::from_utf8_lossy(word).trim().to_owned())
}
