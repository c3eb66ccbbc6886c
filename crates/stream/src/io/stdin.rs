//! The way in: a container's standard input.

use std::io;
use std::rc::Rc;

use gantry_rt::fd::AsyncFd;

use super::ContainerIo;
use crate::splice::BULK_PIPE_BYTES;

/// Most bytes written to a container's stdin in one call.
const STDIN_WRITE_BYTES: usize = 64 * 1024;

impl ContainerIo {
    /// Writes to the container's stdin, waiting until it takes it (and for the container's start). `BrokenPipe` when it
    /// is closed.
    pub async fn write_stdin(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !self.started.get() {
            let known = self.stdin_signal.count();
            self.stdin_signal.changed(known).await;
        }
        loop {
            bytes = &bytes[self.try_write_stdin(bytes)?..];
            if bytes.is_empty() {
                return Ok(());
            }
            self.stdin()
                .ok_or(io::ErrorKind::BrokenPipe)?
                .writable()
                .await?;
        }
    }

    /// Writes what the container's stdin takes now, and says how much that was. `BrokenPipe` when it is closed.
    pub fn try_write_stdin(&self, bytes: &[u8]) -> io::Result<usize> {
        if !self.started.get() {
            return Ok(0);
        }
        let stdin = self.stdin().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut written = 0;
        while written < bytes.len() {
            let end = bytes.len().min(written + STDIN_WRITE_BYTES);
            match rustix::io::write(&*stdin, &bytes[written..end]) {
                Ok(n) => written += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(written)
    }

    /// The container's stdin as long as it is open.
    pub(crate) fn stdin(&self) -> Option<Rc<AsyncFd>> {
        self.stdin.borrow().clone()
    }

    /// Makes room for bulk. A pipe that cannot be made larger stays as it is.
    pub(crate) fn grow_stdin(&self) {
        if let Some(stdin) = self.stdin()
            && let Err(error) = rustix::pipe::fcntl_setpipe_size(&*stdin, BULK_PIPE_BYTES)
        {
            tracing::debug!(slot = self.slot, %error, "a container's stdin stays as small as it is");
        }
    }

    /// Closes the daemon's end of stdin. The keeper's copy must be closed too for the container to see the end. A
    /// terminal stays open.
    pub fn close_stdin(&self) {
        if !self.tty {
            *self.stdin.borrow_mut() = None;
        }
    }
}
