//! User, capabilities, filter, working directory.

use std::ffi::CStr;

use gantry_keeper_proto::plan::Step;

use super::{Context, Done, Failed, at, at_detail, program};
use crate::raw::{self, SysResult};

const CAP_SYS_ADMIN: u64 = 1 << 21;

/// What loading the filter needs beside the container's capabilities: CAP_SYS_ADMIN, or no_new_privs.
fn extra_capabilities(context: &Context<'_>) -> u64 {
    if context.plan.seccomp.is_empty() || context.plan.no_new_privs {
        0
    } else {
        CAP_SYS_ADMIN
    }
}

/// Root of a user namespace that was entered: until then the process is a user that is unknown there.
pub(super) fn become_root() -> Done {
    at(Step::Identity, raw::setgroups(&[]))?;
    at(Step::Identity, raw::setresgid(0))?;
    at(Step::Identity, raw::setresuid(0))
}

/// Becomes the container's user with everything decided, and finds the program. What is left is to [`seal`] and to
/// execute it.
pub(super) fn prepare<'a>(context: &Context<'a>) -> Done<&'a CStr> {
    let plan = context.plan;
    drop_bounding(context)?;
    // As root first: the user may lack the right to pass through, as with runc.
    let there = enter_directory(context);
    if plan.uid != 0 {
        at(
            Step::Identity,
            raw::prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]),
        )?;
    }
    at(Step::Identity, raw::setgroups(&plan.groups))?;
    at(Step::Identity, raw::setresgid(plan.gid))?;
    at(Step::Identity, raw::setresuid(plan.uid))?;
    set_capabilities(context, extra_capabilities(context))?;
    match there {
        Err(libc::EACCES | libc::EPERM) => at(Step::Cwd, raw::chdir(&plan.cwd))?,
        other => at(Step::Cwd, other)?,
    }
    if at(Step::CwdOutside, raw::cwd_start())? != b'/' {
        return Err(Failed {
            step: Step::CwdOutside,
            detail: 0,
            errno: libc::ENOENT,
        });
    }
    let chosen = program::find(context)?;
    at(Step::Signals, raw::block_signals(false))?;
    Ok(chosen)
}

/// Gives up the last rights that the container does not give: the filter is loaded.
pub(super) fn seal(context: &Context<'_>) -> Done {
    if context.plan.no_new_privs {
        at(
            Step::NoNewPrivs,
            raw::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]),
        )?;
    }
    load_filter(context)?;
    if extra_capabilities(context) != 0 {
        set_capabilities(context, 0)?;
    }
    Ok(())
}

fn drop_bounding(context: &Context<'_>) -> Done {
    for capability in 0..=context.last_capability {
        if context.plan.capabilities.bounding & (1 << capability) == 0 {
            let dropped = raw::prctl(libc::PR_CAPBSET_DROP, [capability as usize, 0, 0, 0]);
            at_detail(Step::Bounding, capability as usize, dropped)?;
        }
    }
    Ok(())
}

fn set_capabilities(context: &Context<'_>, extra: u64) -> Done {
    let wanted = &context.plan.capabilities;
    let available = context.available_capabilities;
    let effective = (wanted.effective | extra) & available;
    let permitted = (wanted.permitted | extra) & available;
    at(
        Step::Capabilities,
        raw::capset(effective, permitted, wanted.inheritable & available),
    )?;
    let ambient = wanted.ambient & wanted.permitted & wanted.inheritable & available;
    if extra != 0 || ambient == 0 {
        return Ok(());
    }
    for capability in (0..=context.last_capability).filter(|c| ambient & (1 << c) != 0) {
        let raise = [
            libc::PR_CAP_AMBIENT_RAISE as usize,
            capability as usize,
            0,
            0,
        ];
        at(Step::Capabilities, raw::prctl(libc::PR_CAP_AMBIENT, raise))?;
    }
    Ok(())
}

fn load_filter(context: &Context<'_>) -> Done {
    let filter = &context.plan.seccomp;
    if filter.is_empty() {
        return Ok(());
    }
    // The plan's decoder has checked that these are whole instructions.
    let program = libc::sock_fprog {
        len: (filter.len() / 8) as libc::c_ushort,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    at(Step::Seccomp, raw::load_seccomp(&program))
}

fn enter_directory(context: &Context<'_>) -> SysResult {
    let plan = context.plan;
    match raw::chdir(&plan.cwd) {
        Err(libc::ENOENT) => {}
        result => return result,
    }
    // Missing below a mount of the client's.
    for directory in &plan.cwd_parents {
        match raw::mkdir(directory, 0o755) {
            Ok(()) | Err(libc::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    raw::chdir(&plan.cwd)
}
