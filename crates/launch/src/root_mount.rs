//! A reference to a container's mounted root file system, beside the one in its mount namespace.

use std::os::fd::OwnedFd;

/// Keeps the overlay alive when the container's last process has ended, so that its exit need not wait for what the end
/// of an overlay brings: the kernel writes out the whole file system of the upper directory. Dropped, the mount ends on
/// a thread for that ([`gantry_rt::closer`]).
#[derive(Debug)]
pub struct RootMount(Option<OwnedFd>);

impl RootMount {
    pub(crate) fn new(mount: OwnedFd) -> RootMount {
        gantry_rt::closer::start();
        RootMount(Some(mount))
    }
}

impl Drop for RootMount {
    fn drop(&mut self) {
        if let Some(mount) = self.0.take() {
            gantry_rt::closer::close_later(mount);
        }
    }
}
