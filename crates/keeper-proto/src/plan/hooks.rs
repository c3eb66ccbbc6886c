//! Hooks of the OCI runtime specification: programs that run while a container comes to be. Those of the container's own
//! namespaces are in the plan; for the others the child waits at a gate while the daemon has them run.

use std::ffi::CString;

use super::FdIndex;
use crate::wire::{Reader, WireError, Writer};

/// Most hooks of one plan.
pub const MAX_HOOKS: usize = 256;

/// A hook that the container's first process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCommand {
    /// The program.
    pub path: CString,
    /// Arguments, the program's name first.
    pub argv: Vec<CString>,
    /// Environment.
    pub env: Vec<CString>,
    /// How long it may take, in ms; then it is ended.
    pub timeout_ms: u32,
}

/// What a launch with hooks needs. The root file system is attached in a copy of the daemon's mounts, where hooks expect
/// it, and everything in it is mounted before it becomes `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookPlan {
    /// A SEQPACKET socket: the child says by one byte that it is there, and goes on when one comes back. At its end it
    /// gives up.
    pub gate: FdIndex,
    /// The daemon's mount namespace, of which the child gets a copy.
    pub mount_namespace: FdIndex,
    /// The daemon's root directory.
    pub root: FdIndex,
    /// Where the root file system is attached, in that namespace.
    pub root_point: CString,
    /// Run before the root file system becomes `/`.
    pub create_container: Vec<HookCommand>,
    /// Run right before the program, with its rights.
    pub start_container: Vec<HookCommand>,
    /// Standard input of the former: the container's state, filled in before the gate opens.
    pub create_state: FdIndex,
    /// Standard input of the latter.
    pub start_state: FdIndex,
    /// Standard output; how far it is written is the position of this file.
    pub stdout: FdIndex,
    /// Standard error, likewise.
    pub stderr: FdIndex,
}

/// Why a hook counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookEnd {
    /// It ended with this wait status.
    Status(i32),
    /// It could not be executed: the errno.
    NotExecuted(i32),
    /// It took too long and was ended.
    TimedOut,
}

impl HookEnd {
    /// As detail and errno of a failed step; `number` is the hook's position.
    pub fn encode(self, number: usize) -> (u32, i32) {
        let (kind, value) = match self {
            HookEnd::Status(status) => (0, status),
            HookEnd::NotExecuted(errno) => (1, errno),
            HookEnd::TimedOut => (2, 0),
        };
        (kind << 16 | (number as u32 & 0xffff), value)
    }

    /// The hook's position and its end.
    pub fn decode(detail: u32, errno: i32) -> (usize, HookEnd) {
        let end = match detail >> 16 {
            0 => HookEnd::Status(errno),
            1 => HookEnd::NotExecuted(errno),
            _ => HookEnd::TimedOut,
        };
        ((detail & 0xffff) as usize, end)
    }
}

impl HookPlan {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.u8(self.gate).u8(self.mount_namespace).u8(self.root);
        w.bytes(self.root_point.as_bytes());
        for hooks in [&self.create_container, &self.start_container] {
            w.list(hooks, |w, hook| {
                w.bytes(hook.path.as_bytes())
                    .cstrs(&hook.argv)
                    .cstrs(&hook.env)
                    .u32(hook.timeout_ms);
            });
        }
        w.u8(self.create_state).u8(self.start_state);
        w.u8(self.stdout).u8(self.stderr);
    }

    pub(super) fn decode(r: &mut Reader<'_>, fds: usize) -> Result<HookPlan, WireError> {
        let index = |r: &mut Reader<'_>| match r.u8()? {
            n if usize::from(n) < fds => Ok(n),
            n => Err(WireError::NoFd(n)),
        };
        let plan = HookPlan {
            gate: index(r)?,
            mount_namespace: index(r)?,
            root: index(r)?,
            root_point: r.cstring()?,
            create_container: r.list(hook)?,
            start_container: r.list(hook)?,
            create_state: index(r)?,
            start_state: index(r)?,
            stdout: index(r)?,
            stderr: index(r)?,
        };
        let count = plan.create_container.len() + plan.start_container.len();
        if count > MAX_HOOKS {
            return Err(WireError::Unknown {
                field: "number of hooks",
                value: count as u64,
            });
        }
        Ok(plan)
    }
}

fn hook(r: &mut Reader<'_>) -> Result<HookCommand, WireError> {
    Ok(HookCommand {
        path: r.cstring()?,
        argv: r.cstrs()?,
        env: r.cstrs()?,
        timeout_ms: r.u32()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_come_back_with_their_positions() {
        for end in [
            HookEnd::Status(3 << 8),
            HookEnd::NotExecuted(2),
            HookEnd::TimedOut,
        ] {
            for number in [0, 7, MAX_HOOKS] {
                let (detail, errno) = end.encode(number);
                assert_eq!(HookEnd::decode(detail, errno), (number, end));
            }
        }
    }
}
