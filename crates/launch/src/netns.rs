//! Network namespaces made ahead.
//!
//! To make one takes the kernel 0.5 to 0.8 ms, a third of a start; a container that finds one ready joins it instead.
//! They belong to the host's user namespace, have loopback up and nothing else, and are used once. The pool is filled
//! after the first launch that wanted one, so that a daemon without containers has none.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use gantry_rt::workers;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Namespaces kept ready; each takes about 150 KiB of the kernel's memory.
pub const POOL_CAPACITY: usize = 8;

struct Pool {
    ready: OnceLock<ArrayQueue<OwnedFd>>,
    filling: AtomicBool,
}

static POOL: Pool = Pool {
    ready: OnceLock::new(),
    filling: AtomicBool::new(false),
};

/// A fresh namespace, if one is ready; the pool is filled up behind it. For workers.
pub(crate) fn take() -> Option<OwnedFd> {
    let ready = POOL.ready.get_or_init(|| ArrayQueue::new(POOL_CAPACITY));
    let found = ready.pop();
    if !POOL.filling.swap(true, Ordering::AcqRel) {
        let queued = workers::try_submit(|| {
            fill();
            POOL.filling.store(false, Ordering::Release);
        });
        if queued.is_err() {
            // Busy: the next launch asks again.
            POOL.filling.store(false, Ordering::Release);
        }
    }
    found
}

fn fill() {
    let Some(ready) = POOL.ready.get() else {
        return;
    };
    while !ready.is_full() {
        match make() {
            // Only one thread fills, so there is room.
            Ok(namespace) => drop(ready.push(namespace)),
            Err(e) => {
                // Launches make their own then, and say what is wrong.
                tracing::warn!(error = %e, "network namespaces can't be made ahead");
                return;
            }
        }
    }
}

/// Makes one. The thread is in it for a moment.
fn make() -> io::Result<OwnedFd> {
    let home = home()?;
    // SAFETY: the network namespace alone is unshared, which is no memory or descriptor table of other threads.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    let made = loopback_up().and_then(|socket| namespace_of(&socket));
    if let Err(e) = move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network)) {
        // Whatever this thread did next would be done in a namespace without a network.
        tracing::error!(error = %e, "a worker can't leave a network namespace");
        std::process::abort();
    }
    made
}

/// The daemon's own, in which every thread is but for the moment of making one.
fn home() -> io::Result<&'static File> {
    static HOME: OnceLock<File> = OnceLock::new();
    if let Some(home) = HOME.get() {
        return Ok(home);
    }
    // This thread's: another may be in a new one just now.
    let home = File::open("/proc/thread-self/ns/net")?;
    Ok(HOME.get_or_init(|| home))
}

/// The namespace that a socket was made in. By its path in /proc it takes the kernel several times as long.
fn namespace_of(socket: &OwnedFd) -> io::Result<OwnedFd> {
    const SIOCGSKNS: libc::c_ulong = 0x894c;
    // SAFETY: a call without pointers; it returns a new descriptor, closed on exec.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives a socket of the namespace.
fn loopback_up() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: all-zero is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request lives through the call, which reads the name and the flags only.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode_of_thread() -> u64 {
        rustix::fs::stat("/proc/thread-self/ns/net")
            .expect("own namespace")
            .st_ino
    }

    /// Needs root.
    #[test]
    fn a_namespace_is_new_and_the_thread_is_where_it_was() {
        let before = inode_of_thread();
        let (one, two) = (make().expect("one"), make().expect("two"));
        assert_eq!(inode_of_thread(), before);
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).expect("stat").st_ino;
        assert_ne!(inode(&one), before);
        assert_ne!(inode(&one), inode(&two));
    }
}
