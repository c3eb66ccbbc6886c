//! `gantry-keeper`: parent of a shard's containers. It clones them, is their parent, holds their pidfds and pipe ends,
//! and outlives its daemon; a later daemon finds here what happened meanwhile.
//!
//! **Architecture invariants**
//! - One thread, no async runtime. It never waits, except for a child it shares memory with, and such a child is only
//!   made when nothing on its way to exec can hang.
//! - An exit is kept until the daemon says that it is durable.
//! - One reader of a pipe at a time: the daemon, or after its death the keeper, until the hand-over.
//! - No panic: it would take the parent of the containers away.

mod adopt;
mod child;
mod container;
mod launch;
mod poll;
mod raw;
mod runtime;
mod serve;
mod server;
mod setup;
mod strays;

use std::fmt::Arguments;
use std::io::Write;
use std::process::ExitCode;

/// One line into the log file (standard error).
pub fn log(line: Arguments<'_>) {
    // A full disk must not end the keeper.
    let _ = writeln!(std::io::stderr(), "{} {line}", container::now_ns());
}

/// First argument of a process that only holds a user namespace (`gantry_launch::Remap` says the same).
const HOLD_USER_NAMESPACE: &str = "user-namespace";

/// Makes a user namespace, says so, and waits until standard input ends: by then its maps are written and it is held
/// by a descriptor.
fn hold_user_namespace() -> ExitCode {
    let made = raw::unshare(libc::CLONE_NEWUSER);
    let answer = match made {
        Ok(()) => "ready".to_owned(),
        Err(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
    };
    let said = writeln!(std::io::stdout(), "{answer}");
    let waited = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    match (made, said, waited) {
        (Ok(()), Ok(()), Ok(_)) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().is_some_and(|arg| arg == HOLD_USER_NAMESPACE) {
        return hold_user_namespace();
    }
    let (Some(shard), Some(parent)) =
        (args.next(), args.next().and_then(|p| p.parse::<i32>().ok()))
    else {
        log(format_args!(
            "usage: gantry-keeper SHARD PARENT; it is started by gantryd"
        ));
        return ExitCode::FAILURE;
    };
    let host = match setup::detach() {
        Ok(host) => host,
        Err(e) => {
            log(format_args!("cannot start: {e}"));
            return ExitCode::FAILURE;
        }
    };
    match server::Server::new(host, &shard, parent).and_then(server::Server::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log(format_args!("ends: {e}"));
            ExitCode::FAILURE
        }
    }
}
