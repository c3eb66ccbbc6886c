//! Children that no slot knows. In a pid namespace of others a process whose parent ends comes to the nearest subreaper,
//! which is the keeper; it is collected here when it ends.

use std::mem::MaybeUninit;

use crate::raw;
use crate::server::Server;

/// How long an ended one may wait when nothing else happens.
pub const STRAY_SWEEP_MS: i32 = 60_000;
/// Most that are collected at once.
const STRAYS_PER_SWEEP: usize = 256;

impl Server {
    /// Collects those that have ended.
    pub fn sweep_strays(&mut self) {
        if !self.strays || self.runtimes.is_launching() {
            return;
        }
        for _ in 0..STRAYS_PER_SWEEP {
            let Some(pid) = ended_child(libc::P_ALL, 0, libc::WNOWAIT) else {
                return;
            };
            // What a launch has just made belongs to a slot that does not know it yet.
            let mut slots = self.slots.iter().flatten();
            let known = slots.any(|c| {
                c.pid == pid || c.pending.as_ref().is_some_and(|p| p.child() == Some(pid))
            }) || self.runtimes.has_pid(pid);
            if known {
                // Its own event collects it, and the next sweep goes on behind it.
                return;
            }
            ended_child(libc::P_PID, pid, 0);
        }
    }
}

/// A child that has ended, if there is one.
fn ended_child(kind: libc::idtype_t, pid: i32, flags: i32) -> Option<i32> {
    // SAFETY: all-zero is valid.
    let mut info: libc::siginfo_t = unsafe { MaybeUninit::zeroed().assume_init() };
    let args = [
        kind as usize,
        pid as usize,
        &raw mut info as usize,
        (libc::WEXITED | libc::WNOHANG | flags) as usize,
        0,
    ];
    // SAFETY: the kernel fills the struct, which lives through the call.
    unsafe { raw::sys(libc::SYS_waitid, &args) }.ok()?;
    // SAFETY: filled by the kernel, or still zero; the field exists for SIGCHLD.
    Some(unsafe { info.si_pid() }).filter(|pid| *pid > 0)
}
