//! A further process of a running container (an exec), in two steps.
//!
//! The first process enters the container's namespaces but stays in the host's process ids: nobody in the container can
//! see, signal or trace it, so it may still be the host's root while it gets everything ready. When it has nothing of
//! the host left but a copy of the keeper's memory, and no more rights than the container gives (the system call filter
//! included), it makes the second one, which is born into the container's process ids as a child of the keeper and only
//! takes its session and executes. A container that traces every new process catches at most one that is what the
//! program is going to be. The second has memory of its own: in memory shared with the first, a tracer could have
//! given orders to a process among the host's.

use gantry_keeper_proto::plan::{Join, Step};

use super::{Context, Done, Never, at, identity, mounts, program};
use crate::raw;

/// Everything but user and time.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

pub(super) fn run(context: &Context<'_>, join: Join) -> Done<Never> {
    super::fresh_state(context)?;
    super::join_cgroups(context)?;
    mounts::write_oom_score(context)?;
    super::confine(context)?;
    super::raise_limits(context)?;
    super::leave_keyring()?;
    let user = match join.user_namespace {
        true => libc::CLONE_NEWUSER,
        false => 0,
    };
    let joined = raw::setns(context.fd(join.pidfd), NAMESPACES | user);
    at(Step::Join, joined)?;
    super::standard_streams(context)?;
    at(Step::CloseFiles, super::close_files(context))?;
    super::limit(context)?;
    if join.user_namespace {
        identity::become_root()?;
    }
    let chosen = identity::prepare(context)?;
    enter(context, join.filter_last, chosen)
}

/// Makes the process that executes, and ends: the pid namespace has been joined, everything else is done.
pub(super) fn enter(
    context: &Context<'_>,
    filter_last: bool,
    chosen: &std::ffi::CStr,
) -> Done<Never> {
    // The keeper reads what is written there, and must not believe anybody in the container.
    at(Step::Status, raw::keep_from_forks(context.status))?;
    if !filter_last {
        identity::seal(context)?;
    }
    match at(Step::Enter, raw::fork_sibling(0, &context.status.child))? {
        0 => inside(context, filter_last, chosen),
        _ => raw::exit(0),
    }
}

/// The process in the container. It cannot tell the keeper any more; to the client it has been started.
fn inside(context: &Context<'_>, filter_last: bool, chosen: &std::ffi::CStr) -> ! {
    let tty = context.plan.stdio.tty_slave.map(|_| 0);
    let ready = super::session(tty).and_then(|()| match filter_last {
        true => identity::seal(context),
        false => Ok(()),
    });
    match ready {
        Ok(()) => program::execute(context, chosen),
        Err(failed) => program::give_up(failed.step.text(), failed.errno),
    }
}
