//! Input that comes in bulk: from the client's socket to the container's stdin without being copied.
//!
//! Only where nothing looks at it: without a terminal there are no detach keys.

use std::io;
use std::os::fd::AsFd;
use std::pin::pin;

use gantry_rt::fd::AsyncFd;
use gantry_rt::{Either, race};

use super::hang_up;
use crate::io::ContainerIo;
use crate::splice::{self, BULK_PIPE_BYTES};

/// Full reads in a row after which input is bulk.
const BULK_AFTER: u32 = 4;
/// Moves in a row of less than [`SMALL_BYTES`] after which it is not any more: each takes a place in the pipe, however
/// small it is.
const SMALL_MOVES: u32 = 16;
const SMALL_BYTES: usize = 16 * 1024;
/// Moves before others of the shard get their turn.
const MOVES_PER_TURN: u32 = 16;

/// How it ended.
pub(super) enum Moved {
    /// The client's input has.
    Ended,
    /// The client is gone.
    Gone,
    /// It is not bulk any more, or cannot be: it is to be read.
    Small,
}

/// Whether input has become bulk.
#[derive(Default)]
pub(super) struct Pace {
    full: u32,
}

impl Pace {
    /// Takes note of a read that asked for `asked` bytes.
    pub(super) fn note(&mut self, bytes: usize, asked: usize) -> bool {
        self.full = if bytes == asked { self.full + 1 } else { 0 };
        let bulk = self.full >= BULK_AFTER;
        if bulk {
            self.full = 0;
        }
        bulk
    }
}

/// Moves input until it ends, or turns out to be none to be moved.
pub(super) async fn move_input(sock: &AsyncFd, io: &ContainerIo) -> Moved {
    match moving(sock, io).await {
        Ok(moved) => moved,
        // A container that takes no input any more, a socket that cannot be spliced: whoever reads finds out.
        Err(error) => {
            tracing::debug!(%error, "a client's input is not moved but read");
            Moved::Small
        }
    }
}

async fn moving(sock: &AsyncFd, io: &ContainerIo) -> io::Result<Moved> {
    let mut gone = pin!(hang_up(sock));
    let (mut small, mut moves) = (0, 0);
    io.grow_stdin();
    loop {
        let stdin = io.stdin().ok_or(io::ErrorKind::BrokenPipe)?;
        match splice::splice(sock.as_fd(), stdin.as_fd(), BULK_PIPE_BYTES)? {
            Some(0) => return Ok(Moved::Ended),
            Some(n) => {
                small = if n < SMALL_BYTES { small + 1 } else { 0 };
                if small >= SMALL_MOVES {
                    return Ok(Moved::Small);
                }
                moves += 1;
                if moves % MOVES_PER_TURN == 0 {
                    gantry_rt::yield_now().await;
                }
            }
            None if splice::held(sock)? == 0 => {
                // What is there now may have come since; an end is "readable" too.
                sock.readable().await?;
            }
            None => match race(stdin.writable(), &mut gone).await {
                Either::Left(writable) => writable?,
                Either::Right(()) => return Ok(Moved::Gone),
            },
        }
    }
}
