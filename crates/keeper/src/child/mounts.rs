//! The container's file systems.

use std::ffi::CStr;
use std::os::fd::RawFd;

use gantry_keeper_proto::plan::{MountOp, MountSource, Step};

use super::{Context, Done, at, at_detail};
use crate::raw::{self, SysResult};
use crate::setup::ROOT_POINT;

/// Makes the root file system `/`.
pub(super) fn attach_root(context: &Context<'_>) -> Done {
    let root = context.fd(context.plan.rootfs);
    let point = at(Step::Rootfs, raw::resolve(ROOT_POINT, false))?;
    at(Step::Rootfs, raw::move_mount(root, point))?;
    at(Step::Rootfs, raw::fchdir(root))?;
    // The old root ends up on top of the new one, and is what "." leads to for umount.
    at(Step::Pivot, raw::pivot_root(c".", c"."))?;
    at(Step::OldRoot, raw::umount(c".", libc::MNT_DETACH))?;
    at(Step::Pivot, raw::chdir(c"/"))
}

pub(super) fn attach_all(context: &Context<'_>) -> Done {
    for (i, op) in context.plan.mounts.iter().enumerate() {
        let tree = at_detail(Step::Mount, i, tree_of(context, op))?;
        let target = at_detail(
            Step::MountTarget,
            i,
            raw::resolve(&op.target, op.no_symlinks),
        )?;
        let moved = raw::move_mount(tree, target);
        raw::close(target);
        raw::close(tree);
        at_detail(Step::Mount, i, moved)?;
    }
    Ok(())
}

fn tree_of(context: &Context<'_>, op: &MountOp) -> SysResult<RawFd> {
    match &op.source {
        MountSource::Tree(fd) => Ok(context.fd(*fd)),
        MountSource::Proc => raw::new_fs(c"proc", op.attributes),
        MountSource::Sysfs => raw::new_fs(c"sysfs", op.attributes),
        MountSource::Mqueue => raw::new_fs(c"mqueue", op.attributes),
        MountSource::Inside(path) => clone_at(path),
    }
}

fn clone_at(path: &CStr) -> SysResult<RawFd> {
    let from = raw::resolve(path, false)?;
    let tree = raw::clone_tree(from, false);
    raw::close(from);
    tree
}

fn write_file(path: &CStr, value: &[u8]) -> SysResult {
    let resolve = raw::IN_ROOT | libc::RESOLVE_NO_SYMLINKS;
    write_file_at(libc::AT_FDCWD, path, resolve, value)
}

fn write_file_at(dir: RawFd, path: &CStr, resolve: u64, value: &[u8]) -> SysResult {
    let file = raw::openat2(dir, path, libc::O_WRONLY | libc::O_CLOEXEC, resolve)?;
    let written = raw::write(file, value);
    raw::close(file);
    written.map(drop)
}

pub(super) fn write_sysctls(context: &Context<'_>) -> Done {
    for (i, (path, value)) in context.plan.sysctls.iter().enumerate() {
        at_detail(Step::Sysctl, i, write_file(path, value))?;
    }
    Ok(())
}

pub(super) fn write_oom_score(context: &Context<'_>) -> Done {
    let Some(score) = context.plan.oom_score_adj else {
        return Ok(());
    };
    let mut digits = [0u8; 12];
    let text = decimal(score, &mut digits);
    // Its own directory by number: "self" would be a symbolic link, and in a shared namespace it is not number 1.
    let mut pid_digits = [0u8; 12];
    let pid = decimal(raw::getpid(), &mut pid_digits);
    let mut path = [0u8; 40];
    let parts = [&b"/proc/"[..], pid, &b"/oom_score_adj"[..]];
    let bytes = parts.iter().flat_map(|part| part.iter());
    for (place, byte) in path.iter_mut().zip(bytes) {
        *place = *byte;
    }
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| libc::EINVAL);
    let written = path.and_then(|path| write_file(path, text));
    at(Step::OomScore, written)
}

/// As [`write_oom_score`] for a process that still sees the host's /proc.
pub(super) fn write_own_oom_score(context: &Context<'_>) -> Done {
    let Some(score) = context.plan.oom_score_adj else {
        return Ok(());
    };
    let mut digits = [0u8; 12];
    let text = decimal(score, &mut digits);
    at(
        Step::OomScore,
        write_file_at(context.proc, c"self/oom_score_adj", 0, text),
    )
}

/// Decimal digits without formatting machinery.
fn decimal(value: i32, buf: &mut [u8; 12]) -> &[u8] {
    let mut left = value.unsigned_abs();
    let mut start = buf.len();
    for place in buf.iter_mut().rev() {
        if left == 0 && start < 12 {
            break;
        }
        *place = b'0' + (left % 10) as u8;
        left /= 10;
        start -= 1;
    }
    if value < 0
        && let Some(place) = start.checked_sub(1).and_then(|at| buf.get_mut(at))
    {
        *place = b'-';
        start -= 1;
    }
    buf.get(start..).unwrap_or_default()
}

/// A path that the kernel of this host does not have needs no mask.
fn absent(errno: raw::Errno) -> bool {
    errno == libc::ENOENT || errno == libc::ENOTDIR
}

pub(super) fn mask(context: &Context<'_>) -> Done {
    let Some(mask_dir) = context.plan.mask_dir else {
        return Ok(());
    };
    let mask_dir = context.fd(mask_dir);
    let mut attached = false;
    for (i, path) in context.plan.masked_paths.iter().enumerate() {
        let target = match raw::resolve(path, false) {
            Ok(target) => target,
            Err(errno) if absent(errno) => continue,
            Err(errno) => return at_detail(Step::Mask, i, Err(errno)),
        };
        let result = mask_one(target, mask_dir, &mut attached);
        raw::close(target);
        at_detail(Step::Mask, i, result)?;
    }
    Ok(())
}

fn mask_one(target: RawFd, mask_dir: RawFd, attached: &mut bool) -> SysResult {
    let is_dir = raw::mode_of(target)? & libc::S_IFMT == libc::S_IFDIR;
    if is_dir && !*attached {
        // Only an attached mount can be copied (before 6.15), so the first one is moved.
        *attached = true;
        return raw::move_mount(mask_dir, target);
    }
    let tree = if is_dir {
        raw::clone_tree(mask_dir, false)?
    } else {
        clone_at(c"/dev/null")?
    };
    let result = raw::move_mount(tree, target);
    raw::close(tree);
    result
}

pub(super) fn make_readonly(context: &Context<'_>) -> Done {
    for (i, path) in context.plan.readonly_paths.iter().enumerate() {
        let target = match raw::resolve(path, false) {
            Ok(target) => target,
            Err(errno) if absent(errno) => continue,
            Err(errno) => return at_detail(Step::ReadOnly, i, Err(errno)),
        };
        let result = raw::clone_tree(target, true).and_then(|tree| {
            let result = raw::mount_readonly(tree).and_then(|()| raw::move_mount(tree, target));
            raw::close(tree);
            result
        });
        raw::close(target);
        at_detail(Step::ReadOnly, i, result)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn numbers_are_written_in_decimal() {
        for value in [0, 7, -1, 1000, -1000, i32::MAX, i32::MIN] {
            assert_eq!(decimal(value, &mut [0; 12]), value.to_string().as_bytes());
        }
    }
}
