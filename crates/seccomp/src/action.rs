//! What a filter answers.

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0x0000_0000;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// An action with its data, equal if the kernel would do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Ends the process with SIGSYS.
    KillProcess,
    /// Ends the thread with SIGSYS.
    KillThread,
    /// Sends a catchable SIGSYS.
    Trap,
    /// Fails with an errno.
    Errno(u16),
    /// Asks a tracer, ENOSYS without one.
    Trace(u16),
    /// Allows and logs.
    Log,
    /// Allows.
    Allow,
}

impl Action {
    /// What a filter returns to the kernel for this.
    pub const fn return_value(self) -> u32 {
        match self {
            Action::KillProcess => RET_KILL_PROCESS,
            Action::KillThread => RET_KILL_THREAD,
            Action::Trap => RET_TRAP,
            Action::Errno(errno) => RET_ERRNO | errno as u32,
            Action::Trace(message) => RET_TRACE | message as u32,
            Action::Log => RET_LOG,
            Action::Allow => RET_ALLOW,
        }
    }

    /// Whether calls that are newer than the profile may pass to the kernel (or its tracer),
    /// which says ENOSYS by itself.
    pub(crate) const fn lets_unknown_calls_through(self) -> bool {
        matches!(self, Action::Allow | Action::Log | Action::Trace(_))
    }
}
