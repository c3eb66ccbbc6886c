//! The container's file systems.

use std::ffi::CStr;
use std::os::fd::RawFd;

use gantry_keeper_proto::plan::{MountOp, MountSource, Step};

use super::{Context, Done, at, at_detail, hooks};
use crate::raw::{self, SysResult};
use crate::setup::ROOT_POINT;

/// proc and sysfs of a user namespace, made ahead; `None` once they are taken, or for the keeper's own namespace.
#[derive(Default)]
struct Kernel {
    proc: Option<RawFd>,
    sysfs: Option<RawFd>,
}

/// Makes the root file system `/`, and attaches what is mounted in it.
pub(super) fn attach(context: &Context<'_>) -> Done {
    let mut kernel = make_kernel(context)?;
    let Some(hooks) = &context.plan.hooks else {
        match context.plan.user {
            None => cover_root(context)?,
            Some(_) => replace_root(context)?,
        }
        return fill(context, &mut kernel);
    };
    match context.plan.user {
        None => hooks::show_root(context, hooks)?,
        // Who made this process has shown it.
        Some(_) => hooks::renew_root()?,
    }
    fill(context, &mut kernel)?;
    hooks::create(context, hooks)?;
    change_root()
}

/// Attaches what is mounted in the root file system, which is the working directory.
fn fill(context: &Context<'_>, kernel: &mut Kernel) -> Done {
    for (i, op) in context.plan.mounts.iter().enumerate() {
        let tree = at_detail(Step::Mount, i, tree_of(context, op, kernel))?;
        let target = at_detail(
            Step::MountTarget,
            i,
            raw::resolve(&op.target, op.no_symlinks),
        )?;
        let moved = raw::move_mount(tree, target);
        // At once: a table of descriptors that has grown stays as large as it was, and the container can see its size.
        raw::close(target);
        raw::close(tree);
        at_detail(Step::Mount, i, moved)?;
    }
    Ok(())
}

/// In a user namespace these can only be made while the host's are in sight, which they are on the point of the root
/// until the old root is gone.
fn make_kernel(context: &Context<'_>) -> Done<Kernel> {
    let mut kernel = Kernel::default();
    let Some(user) = &context.plan.user else {
        return Ok(kernel);
    };
    // With hooks, all of the host's are.
    let views = user.views.iter().filter(|_| context.plan.hooks.is_none());
    for view in views {
        at(Step::Rootfs, put_on(ROOT_POINT, context.fd(*view)))?;
    }
    for (i, op) in context.plan.mounts.iter().enumerate() {
        let (place, kind) = match op.source {
            MountSource::Proc => (&mut kernel.proc, c"proc"),
            MountSource::Sysfs => (&mut kernel.sysfs, c"sysfs"),
            _ => continue,
        };
        *place = Some(at_detail(Step::Mount, i, raw::new_fs(kind, op.attributes))?);
    }
    Ok(kernel)
}

fn put_on(point: &CStr, tree: RawFd) -> SysResult {
    let point = raw::resolve(point, false)?;
    let moved = raw::move_mount(tree, point);
    raw::close(point);
    moved
}

/// Puts the root file system over the keeper's, which is an empty file system: whatever leads to the namespace's root ends
/// up in what is on top of it. pivot_root(2) would look at every process of the host, and the end of the old root wait
/// for every processor.
fn cover_root(context: &Context<'_>) -> Done {
    let root = context.fd(context.plan.rootfs);
    at(Step::Rootfs, put_on(c"/", root))?;
    at(Step::Rootfs, raw::fchdir(root))?;
    at(Step::Pivot, raw::chroot(c"."))
}

/// Takes the old root away, with the host's proc and sysfs that are on it.
fn replace_root(context: &Context<'_>) -> Done {
    let root = context.fd(context.plan.rootfs);
    at(Step::Rootfs, put_on(ROOT_POINT, root))?;
    at(Step::Rootfs, raw::fchdir(root))?;
    change_root()
}

/// The working directory becomes `/`.
fn change_root() -> Done {
    // The old root ends up on top of the new one, and is what "." leads to for umount.
    at(Step::Pivot, raw::pivot_root(c".", c"."))?;
    at(Step::OldRoot, raw::umount(c".", libc::MNT_DETACH))?;
    at(Step::Pivot, raw::chdir(c"/"))
}

fn tree_of(context: &Context<'_>, op: &MountOp, kernel: &mut Kernel) -> SysResult<RawFd> {
    let made = |ahead: &mut Option<RawFd>, kind: &CStr| match ahead.take() {
        Some(tree) => Ok(tree),
        None => raw::new_fs(kind, op.attributes),
    };
    match &op.source {
        MountSource::Tree(fd) => Ok(context.fd(*fd)),
        MountSource::Proc => made(&mut kernel.proc, c"proc"),
        MountSource::Sysfs => made(&mut kernel.sysfs, c"sysfs"),
        MountSource::Mqueue => raw::new_fs(c"mqueue", op.attributes),
        MountSource::Inside(path) => terminal_at(context, path),
    }
}

/// A copy of the mount at a path, if `is_it` says so of what is there: a client may have its own /dev, and in it a link to
/// a file of the kernel, which it could write to at the place the copy is for.
fn clone_at(path: &CStr, is_it: impl Fn(&libc::stat) -> bool) -> SysResult<RawFd> {
    let from = raw::resolve(path, false)?;
    let tree = raw::stat_of(from).and_then(|stat| match is_it(&stat) {
        true => raw::clone_tree(from, false),
        false => Err(libc::ENODEV),
    });
    raw::close(from);
    tree
}

fn terminal_at(context: &Context<'_>, path: &CStr) -> SysResult<RawFd> {
    let slave = context.plan.stdio.tty_slave.ok_or(libc::ENOTTY)?;
    let own = raw::stat_of(context.fd(slave))?;
    clone_at(path, |there| {
        (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)
    })
}

fn null_device() -> SysResult<RawFd> {
    clone_at(c"/dev/null", |there| {
        there.st_mode & libc::S_IFMT == libc::S_IFCHR && there.st_rdev == libc::makedev(1, 3)
    })
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

/// Writes a file of the host's /proc, for which a process of the host may have rights that it is about to lose.
pub(super) fn write_of_host(context: &Context<'_>, path: &CStr, value: &[u8]) -> SysResult {
    write_file_at(context.proc, path, 0, value)
}

/// Of the calling process, which may only raise it once it has left the host's user namespace.
pub(super) fn write_oom_score(context: &Context<'_>) -> Done {
    let Some(score) = context.plan.oom_score_adj else {
        return Ok(());
    };
    let mut digits = [0u8; 12];
    let text = decimal(score, &mut digits);
    at(
        Step::OomScore,
        write_of_host(context, c"self/oom_score_adj", text),
    )
}

/// Writes the map of a process that was just made: `name` is `uid_map` or `gid_map`.
pub(super) fn write_map(context: &Context<'_>, pid: i32, name: &CStr, map: &[u8]) -> Done {
    let mut digits = [0u8; 12];
    let pid = decimal(pid, &mut digits);
    let mut path = [0u8; 32];
    let parts = [pid, b"/", name.to_bytes()];
    let bytes = parts.iter().flat_map(|part| part.iter());
    for (place, byte) in path.iter_mut().zip(bytes) {
        *place = *byte;
    }
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| libc::EINVAL);
    let written = path.and_then(|path| write_of_host(context, path, map));
    at(Step::UserMap, written)
}

/// Decimal digits without formatting machinery.
pub(super) fn decimal(value: i32, buf: &mut [u8; 12]) -> &[u8] {
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
    let is_dir = raw::stat_of(target)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if is_dir && !*attached {
        // Only an attached mount can be copied (before 6.15), so the first one is moved.
        *attached = true;
        return raw::move_mount(mask_dir, target);
    }
    let tree = if is_dir {
        raw::clone_tree(mask_dir, false)?
    } else {
        null_device()?
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
