//! What a client types, on its way to the container.

use std::future::Future;

use gantry_rt::{Either, race};

use super::{AttachEnd, AttachOptions};
use crate::io::ContainerIo;
use crate::keys::Detector;

/// Looks for detach keys in a client's input and writes the rest to the container's stdin.
pub(crate) struct Typed<'a> {
    io: &'a ContainerIo,
    detector: Detector,
    out: Vec<u8>,
    /// The client sends input, and the container still takes it.
    stdin_open: bool,
}

impl<'a> Typed<'a> {
    pub(crate) fn new(io: &'a ContainerIo, options: &AttachOptions) -> Typed<'a> {
        let keys = if options.tty && options.stdin {
            options.detach_keys.clone()
        } else {
            Vec::new()
        };
        Typed {
            io,
            detector: Detector::new(keys),
            out: Vec::new(),
            stdin_open: options.stdin,
        }
    }

    /// Whether nothing has to look at the input: it goes to the container as it is.
    pub(crate) fn may_be_moved(&self) -> bool {
        self.stdin_open && !self.io.tty() && self.detector.finds_nothing()
    }

    /// Writes input, waiting until the container takes it, or until `gone`. Says if the client's part is over.
    pub(crate) async fn feed(
        &mut self,
        bytes: &[u8],
        gone: impl Future<Output = ()>,
    ) -> Option<AttachEnd> {
        self.out.clear();
        let detached = self.detector.feed(bytes, &mut self.out);
        if self.stdin_open && !self.out.is_empty() {
            // The container closed its stdin: input is thrown away from here on, output goes on.
            match self.io.try_write_stdin(&self.out) {
                Ok(n) if n == self.out.len() => {}
                Ok(n) => match race(self.io.write_stdin(&self.out[n..]), gone).await {
                    Either::Left(result) => self.stdin_open = result.is_ok(),
                    Either::Right(()) => return Some(AttachEnd::ClientGone),
                },
                Err(_) => self.stdin_open = false,
            }
        }
        detached.then_some(AttachEnd::Detached)
    }

    /// The input has ended: keys that were held back are written.
    pub(crate) async fn finish(&mut self) {
        self.out.clear();
        self.detector.flush(&mut self.out);
        if self.stdin_open && !self.out.is_empty() && self.io.write_stdin(&self.out).await.is_err()
        {
            tracing::debug!("the container closed its stdin before the last keys");
        }
    }
}
