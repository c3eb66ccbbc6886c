//! Finding and executing the program, with Go's rules for looking it up (runc's, and so Docker's).

use std::ffi::CStr;

use gantry_keeper_proto::fault::Point;
use gantry_keeper_proto::plan::Step;

use super::{Context, Done, Failed, hooks};
use crate::raw::{self, Errno};

/// Exit code of a program that was found but could not be executed.
pub(super) const EXEC_FAILED: i32 = 255;

enum Unfit {
    Stat(Errno),
    Directory,
    Permission(Errno),
}

fn check(path: &CStr) -> Result<(), Unfit> {
    let mode = raw::mode_at(path).map_err(Unfit::Stat)?;
    if mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Unfit::Directory);
    }
    match raw::may_execute(path) {
        // Not known to this kernel or forbidden by its filter: by the mode alone.
        Err(libc::ENOSYS | libc::EPERM) if mode & 0o111 != 0 => Ok(()),
        Err(libc::ENOSYS | libc::EPERM) => Err(Unfit::Permission(libc::EACCES)),
        Err(errno) => Err(Unfit::Permission(errno)),
        Ok(()) => Ok(()),
    }
}

/// The path to execute.
pub(super) fn find<'a>(context: &Context<'a>) -> Done<&'a CStr> {
    let plan = context.plan;
    if plan.search_path {
        let found = plan.candidates.iter().find(|path| check(path).is_ok());
        let missing = Failed {
            step: Step::LookupNotFound,
            detail: 0,
            errno: libc::ENOENT,
        };
        return found.map(|path| path.as_c_str()).ok_or(missing);
    }
    let empty = Failed {
        step: Step::LookupNotFound,
        detail: 0,
        errno: libc::ENOENT,
    };
    let path = plan.candidates.first().ok_or(empty)?;
    match check(path) {
        Ok(()) => Ok(path),
        Err(Unfit::Stat(errno)) => Err(Failed {
            step: Step::LookupStat,
            detail: 0,
            errno,
        }),
        Err(Unfit::Directory) => Err(Failed {
            step: Step::LookupDirectory,
            detail: 0,
            errno: libc::EISDIR,
        }),
        Err(Unfit::Permission(errno)) => Err(Failed {
            step: Step::LookupPermission,
            detail: 0,
            errno,
        }),
    }
}

/// Executes, after the hooks that come before it. A program that was found but cannot be executed has been started as far as Docker's clients see: the error
/// goes to the container's standard error and the exit code is 255.
pub(super) fn execute(context: &Context<'_>, path: &CStr) -> ! {
    hooks::start(context);
    context.reach(Point::ChildExec);
    // SAFETY: both lists were made null-terminated from strings that the context keeps.
    let errno = unsafe { raw::execve(path, context.argv, context.env) };
    say(&[
        b"exec ",
        path.to_bytes(),
        b": ",
        text(errno).as_bytes(),
        b"\n",
    ]);
    raw::exit(EXEC_FAILED)
}

/// As an execution that failed.
pub(super) fn give_up(step: &str, errno: Errno) -> ! {
    say(&[step.as_bytes(), b": ", text(errno).as_bytes(), b"\n"]);
    raw::exit(EXEC_FAILED)
}

pub(super) fn say(parts: &[&[u8]]) {
    for part in parts {
        // Nobody else can be told.
        let _ = raw::write(2, part);
    }
}

pub(super) fn text(errno: Errno) -> &'static str {
    match errno {
        libc::ENOEXEC => "exec format error",
        libc::ENOENT => "no such file or directory",
        libc::EACCES => "permission denied",
        libc::EPERM => "operation not permitted",
        libc::E2BIG => "argument list too long",
        libc::ETXTBSY => "text file busy",
        libc::ENOMEM => "cannot allocate memory",
        libc::ELIBBAD => "accessing a corrupted shared library",
        libc::ELOOP => "too many levels of symbolic links",
        libc::EIO => "input/output error",
        libc::EAGAIN => "resource temporarily unavailable",
        libc::EINVAL => "invalid argument",
        _ => "cannot be executed",
    }
}
