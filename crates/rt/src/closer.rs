//! A thread that closes what may take long to close.
//!
//! The last reference to an overlay mount makes the kernel write out the whole file system of its upper directory
//! (`ovl_sync_fs`): a quarter of a millisecond when nothing is dirty, seconds when much is. That must hold up neither a
//! shard nor a worker that launches wait for.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use crate::queue::{self, Sender, TrySendError};

/// Descriptors that may wait to be closed. Above the usual limit of open files, so it is never full.
pub const CLOSER_CAPACITY: usize = 65_536;

const STACK_BYTES: usize = 64 << 10;

fn queue() -> Option<&'static Sender<OwnedFd>> {
    static QUEUE: OnceLock<Option<Sender<OwnedFd>>> = OnceLock::new();
    QUEUE
        .get_or_init(|| {
            let (tx, rx) = queue::bounded::<OwnedFd>(CLOSER_CAPACITY);
            let thread = std::thread::Builder::new()
                .name("closer".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    crate::workers::allow_every_cpu();
                    while let Some(fd) = rx.recv() {
                        drop(fd);
                    }
                });
            match thread {
                Ok(_detached) => Some(tx),
                Err(e) => {
                    tracing::error!(error = %e, "cannot start the thread that closes mounts");
                    None
                }
            }
        })
        .as_ref()
}

/// Starts the thread, if there is none: who will close something later says so when it comes to have it.
pub fn start() {
    queue();
}

/// Closes a descriptor on the closer's thread; the caller does not wait. Without the thread it is closed here.
pub fn close_later(fd: OwnedFd) {
    let Some(queue) = queue() else { return };
    if let Err(TrySendError::Full(fd) | TrySendError::Disconnected(fd)) = queue.try_send(fd) {
        tracing::warn!("the closer's queue is full: a mount is closed in line");
        drop(fd);
    }
}
