//! Room that stays free on the file system of the data root: an archive may be larger than what there is, and the
//! metadata of everything else still has to be written.

use std::io;
use std::os::fd::AsFd;

/// Free bytes a load or import leaves.
pub const MIN_FREE_BYTES: u64 = 64 << 20;
/// Bytes written between two looks.
const LOOK_EVERY_BYTES: u64 = 16 << 20;

/// Watches the room while files are written.
#[derive(Debug)]
pub(crate) struct SpaceGuard {
    since_look_bytes: u64,
}

impl SpaceGuard {
    pub(crate) fn new() -> Self {
        // The first write looks.
        Self {
            since_look_bytes: LOOK_EVERY_BYTES,
        }
    }

    /// `bytes` are about to be written to the file system of `at`. Fails with `StorageFull`.
    pub(crate) fn take(&mut self, at: impl AsFd, bytes: u64) -> io::Result<()> {
        self.since_look_bytes = self.since_look_bytes.saturating_add(bytes);
        if self.since_look_bytes < LOOK_EVERY_BYTES {
            return Ok(());
        }
        self.since_look_bytes = 0;
        let stat = rustix::fs::fstatvfs(at)?;
        if stat.f_bavail.saturating_mul(stat.f_frsize) < MIN_FREE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("no space left on device ({MIN_FREE_BYTES} bytes are kept free)"),
            ));
        }
        Ok(())
    }

    /// As `io::copy` from `source` to `file`.
    pub(crate) fn copy(
        &mut self,
        source: &mut dyn io::Read,
        file: &mut std::fs::File,
    ) -> io::Result<u64> {
        let mut buffer = vec![0; COPY_BYTES];
        let mut copied = 0;
        loop {
            let n = match source.read(&mut buffer) {
                Ok(0) => return Ok(copied),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.take(&*file, n as u64)?;
            io::Write::write_all(file, &buffer[..n])?;
            copied += n as u64;
        }
    }
}

/// Bytes copied at once.
const COPY_BYTES: usize = 128 * 1024;
