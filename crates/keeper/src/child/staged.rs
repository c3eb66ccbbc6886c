//! First processes that are not the one the keeper clones.
//!
//! The first process of a user namespace is made by the one that the keeper clones: that one is still the host's root,
//! so it raises limits, writes the id maps, and ends. Every namespace that is made with a user namespace belongs to it.
//!
//! In a pid namespace that others are in, the last process of a launch is the first one that can be seen there: it has
//! no more rights than the container gives, and only takes its session and executes, as with an exec.

use std::os::fd::RawFd;

use gantry_keeper_proto::plan::{Namespace, Step, UserNamespace, UserSource};

use super::{Context, Done, Failed, Never, at, hooks, identity, join, mounts, program};
use crate::raw;

pub(super) fn run(context: &Context<'_>) -> Done<Never> {
    super::raise_limits(context)?;
    // Made by the host's root: a remapped one may have a few hundred of them only.
    super::leave_keyring()?;
    match (context.plan.pid, &context.plan.user) {
        (Namespace::Join(pid), user) => beside(context, context.fd(pid), user.as_ref()),
        (_, Some(user)) => below(context, user),
        (_, None) => Err(Failed {
            step: Step::Plan,
            detail: 0,
            errno: libc::EINVAL,
        }),
    }
}

/// Into a pid namespace that others are in.
fn beside(context: &Context<'_>, pid: RawFd, user: Option<&UserNamespace>) -> Done<Never> {
    at(Step::PidJoin, raw::setns(pid, libc::CLONE_NEWPID))?;
    if let Some(user) = user {
        show_root(context)?;
        join_user(context, user)?;
        identity::become_root()?;
        let new = super::new_namespaces(context.plan);
        at(Step::UserNamespace, raw::unshare(new))?;
    }
    let chosen = super::furnish(context)?;
    join::enter(context, context.plan.filter_last, chosen)
}

fn join_user(context: &Context<'_>, user: &UserNamespace) -> Done {
    match user.source {
        UserSource::Join(fd) => at(
            Step::UserNamespace,
            raw::setns(context.fd(fd), libc::CLONE_NEWUSER),
        ),
        // Refused with the plan: a pid namespace belongs to a user namespace from its birth.
        UserSource::New { .. } => at(Step::UserNamespace, Err(libc::EINVAL)),
    }
}

/// Into a user namespace, with a pid namespace of its own.
fn below(context: &Context<'_>, user: &UserNamespace) -> Done<Never> {
    show_root(context)?;
    // Message queues belong to who makes the namespace: not to a user that is unknown there yet.
    let new = super::new_namespaces(context.plan) & !libc::CLONE_NEWIPC;
    let UserSource::New { uid_map, gid_map } = &user.source else {
        join_user(context, user)?;
        return match fork(context, new)? {
            0 => first(context),
            _ => raw::exit(0),
        };
    };
    let [gate, opener] = at(Step::UserNamespace, raw::pipe())?;
    match fork(context, new | libc::CLONE_NEWUSER)? {
        0 => {
            raw::close(opener);
            pass(context, gate)?;
            first(context)
        }
        pid => {
            mounts::write_map(context, pid, c"uid_map", uid_map)?;
            mounts::write_map(context, pid, c"gid_map", gid_map)?;
            at(Step::UserMap, raw::write(opener, b"1"))?;
            raw::exit(0)
        }
    }
}

/// For hooks; only the host's root can.
fn show_root(context: &Context<'_>) -> Done {
    match &context.plan.hooks {
        Some(plan) => hooks::show_root(context, plan),
        None => Ok(()),
    }
}

fn fork(context: &Context<'_>, namespaces: i32) -> Done<i32> {
    let forked = raw::fork_sibling(namespaces, &context.status.child);
    at(Step::UserNamespace, forked)
}

/// Waits until the maps are written.
fn pass(context: &Context<'_>, gate: RawFd) -> Done {
    let opened = at(Step::UserMap, raw::read_byte(gate))?;
    raw::close(gate);
    if opened.is_some() {
        return Ok(());
    }
    if context.status.failure().is_some() {
        // It has said why.
        raw::exit(1)
    }
    at(Step::UserMap, Err(libc::ESRCH))
}

/// The container's first process. Nobody else is in its pid namespace, so it may still report.
fn first(context: &Context<'_>) -> Done<Never> {
    identity::become_root()?;
    if context.plan.ipc == Namespace::New {
        at(Step::UserNamespace, raw::unshare(libc::CLONE_NEWIPC))?;
    }
    super::take_session(context)?;
    let chosen = super::furnish(context)?;
    identity::seal(context)?;
    program::execute(context, chosen)
}
