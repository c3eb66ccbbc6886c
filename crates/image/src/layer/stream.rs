//! A layer's tar on its way: what is read of it is hashed, and written, by a second thread.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use sha2::{Digest, Sha256};

use crate::digest;
use crate::space::SpaceGuard;

/// Bytes that travel at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// Buffers on their way.
const BUFFERS: usize = 8;

/// Reads the source; each buffer that was consumed goes to the other thread.
pub(super) struct Tapped<'a> {
    source: &'a mut dyn Read,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
    to: SyncSender<Vec<u8>>,
    back: Receiver<Vec<u8>>,
}

impl Tapped<'_> {
    /// Hands the buffer on and fills another.
    fn next_buffer(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let full = std::mem::take(&mut self.buffer);
            // The other thread has failed: its error is the one that is told.
            self.to.send(full).map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        self.buffer = match self.back.try_recv() {
            Ok(buffer) => buffer,
            Err(TryRecvError::Empty) => Vec::new(),
            Err(TryRecvError::Disconnected) => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        self.buffer.resize(BUFFER_BYTES, 0);
        self.at = 0;
        let mut filled = 0;
        while filled < BUFFER_BYTES && !self.ended {
            match self.source.read(&mut self.buffer[filled..]) {
                Ok(0) => self.ended = true,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.buffer.clear();
                    return Err(e);
                }
            }
        }
        self.buffer.truncate(filled);
        Ok(())
    }
}

impl Read for Tapped<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() {
            if self.ended && self.buffer.is_empty() {
                return Ok(0);
            }
            self.next_buffer()?;
        }
        let n = buf.len().min(self.buffer.len() - self.at);
        buf[..n].copy_from_slice(&self.buffer[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// What went by: its digest and length.
pub(super) type Passed = io::Result<(String, u64)>;

fn take(from: &Receiver<Vec<u8>>, back: &SyncSender<Vec<u8>>, mut file: Option<&File>) -> Passed {
    let mut hasher = Sha256::new();
    let mut len_bytes = 0;
    let mut space = SpaceGuard::new();
    for buffer in from {
        if let Some(file) = &mut file {
            space.take(*file, buffer.len() as u64)?;
            file.write_all(&buffer)?;
        }
        hasher.update(&buffer);
        len_bytes += buffer.len() as u64;
        // One more than there is room for is let go.
        drop(back.try_send(buffer));
    }
    Ok((digest::format(&hasher.finalize()), len_bytes))
}

/// Runs `consume`, which reads all of `source`; what it reads is also written to `file` if there is one. The first result is
/// the other thread's: if it failed, `consume` has failed because of it.
///
/// # Errors
/// There can't be another thread.
pub(super) fn tap<R>(
    source: &mut dyn Read,
    file: Option<&File>,
    consume: impl FnOnce(&mut Tapped<'_>) -> R,
) -> io::Result<(Passed, R)> {
    let (to, from) = sync_channel(BUFFERS);
    let (give, back) = sync_channel(BUFFERS);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("layer-tar".to_owned())
            .spawn_scoped(scope, move || take(&from, &give, file))?;
        let mut tapped = Tapped {
            source,
            buffer: Vec::new(),
            at: 0,
            ended: false,
            to,
            back,
        };
        let consumed = consume(&mut tapped);
        drop(tapped);
        let passed = thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that keeps a layer panicked")));
        Ok((passed, consumed))
    })
}
