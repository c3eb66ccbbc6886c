//! Descriptors that travel with a plan.

use std::os::fd::OwnedFd;

use gantry_keeper_proto::plan::FdIndex;
use gantry_keeper_proto::scm::MAX_FDS;

use crate::error::LaunchError;

/// Collects them and hands out their positions.
#[derive(Debug, Default)]
pub(crate) struct FdTable(Vec<OwnedFd>);

impl FdTable {
    pub(crate) fn add(&mut self, fd: OwnedFd) -> Result<FdIndex, LaunchError> {
        // One place is kept for a plan that does not fit into a message.
        let index = FdIndex::try_from(self.0.len())
            .ok()
            .filter(|n| usize::from(*n) + 1 < MAX_FDS);
        let index = index.ok_or(LaunchError::TooManyFiles(MAX_FDS - 1))?;
        self.0.push(fd);
        Ok(index)
    }

    /// For what is still needed here.
    pub(crate) fn add_copy(&mut self, fd: &OwnedFd) -> Result<FdIndex, LaunchError> {
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, 3)
            .map_err(|e| LaunchError::prepare("duplicate", "a descriptor", e))?;
        self.add(copy)
    }

    pub(crate) fn get(&self, index: FdIndex) -> Option<&OwnedFd> {
        self.0.get(usize::from(index))
    }

    pub(crate) fn into_vec(self) -> Vec<OwnedFd> {
        self.0
    }
}
