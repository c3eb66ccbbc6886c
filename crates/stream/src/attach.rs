//! A client's connection, once it is a stream.

mod bulk_input;
mod typed;

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use gantry_rt::fd::AsyncFd;
use gantry_rt::{Either, race};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::io::ContainerIo;
use crate::queue::Flushed;
use crate::subscription::Subscription;
use crate::sys::untaken;

use bulk_input::Moved;
pub(crate) use typed::Typed;

/// Most bytes taken from a client at once.
const INPUT_BYTES: usize = 32 * 1024;

/// Most reads of input that is thrown away at the end: more than what a socket holds.
const MAX_DISCARDED_READS: usize = 256;

/// What the client asked for.
#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    /// Its input goes to the container.
    pub stdin: bool,
    /// It wants standard output.
    pub stdout: bool,
    /// It wants standard error.
    pub stderr: bool,
    /// The container has a terminal: detach keys are looked for.
    pub tty: bool,
    /// Output in frames; otherwise raw.
    pub multiplexed: bool,
    /// See [`crate::keys`]. Empty: none.
    pub detach_keys: Vec<u8>,
    /// The container's stdin ends with this client's.
    pub stdin_once: bool,
    /// What a client that detaches is told, where dockerd says something.
    pub farewell: &'static str,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachEnd {
    /// The client typed the detach keys.
    Detached,
    /// The client hung up.
    ClientGone,
    /// All output was sent.
    Eof,
}

/// Serves the connection until the output ends, the client detaches or hangs up. The client closing only its write side
/// ends its input; output goes on. `input_closed` is called when the container's stdin should be closed (with the
/// keeper's copy of it). The subscription was made earlier: nothing is missed between a container's start and the first
/// wait.
pub async fn serve(
    subscription: Subscription,
    sock: AsyncFd,
    over_read: Bytes,
    io: Rc<ContainerIo>,
    options: AttachOptions,
    input_closed: impl FnOnce(),
) -> AttachEnd {
    let sock = Rc::new(sock);
    subscription.connect(sock.clone(), options.multiplexed);
    let closer = RefCell::new(Some(input_closed));
    let close_input = || {
        if options.stdin && options.stdin_once && !options.tty {
            io.close_stdin();
            if let Some(f) = closer.borrow_mut().take() {
                f();
            }
        }
    };
    let input = async {
        let end = input(&sock, &over_read, &io, &options, &close_input).await;
        // A hang-up ends the container's input as an orderly end does.
        close_input();
        end
    };
    let end = match race(output(&sock, &subscription), input).await {
        Either::Left(Ok(())) => AttachEnd::Eof,
        Either::Left(Err(_)) => {
            close_input();
            AttachEnd::ClientGone
        }
        Either::Right(end) => end,
    };
    if end == AttachEnd::Detached && !options.farewell.is_empty() {
        // One that does not read does not hear it.
        let text = options.farewell.as_bytes();
        let _unheard = rustix::net::send(&*sock, text, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
    // The peer may be gone already; then there is nothing left to shut down.
    let _already_gone = rustix::net::shutdown(&*sock, Shutdown::Both);
    discard(&sock);
    end
}

/// Takes what the client has sent and nobody reads any more: closed with that in it, a socket resets the connection, and
/// the client hears of an error instead of the end. After the shutdown a local client can send nothing more.
fn discard(sock: &AsyncFd) {
    let mut buffer = vec![0; INPUT_BYTES];
    for _ in 0..MAX_DISCARDED_READS {
        match rustix::net::recv(sock, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// How long [`answer_taken`] waits.
pub const ANSWER_TAKEN_LIMIT: Duration = Duration::from_secs(1);
/// Longest pause between two of its looks.
const MAX_LOOK_PAUSE: Duration = Duration::from_millis(16);

/// Waits until the client has taken what was sent so far, the head of the answer. docker-py reads the head with a buffer
/// and the stream without it: output that comes together with the head is lost to it. dockerd needs so long to start a
/// program that this does not happen there.
pub async fn answer_taken(sock: &AsyncFd) {
    let mut pause = Duration::from_millis(1);
    let mut waited = Duration::ZERO;
    // A socket that can't be asked is not waited for.
    while waited < ANSWER_TAKEN_LIMIT && untaken(sock.as_fd()).is_ok_and(|bytes| bytes > 0) {
        gantry_rt::sleep(pause).await;
        waited += pause;
        pause = (pause * 2).min(MAX_LOOK_PAUSE);
    }
}

/// Sends output until it ends: what the pump could not send itself.
async fn output(sock: &AsyncFd, subscription: &Subscription) -> io::Result<()> {
    loop {
        match subscription.flush()? {
            Flushed::Blocked => sock.writable().await?,
            Flushed::All if subscription.more().await => {}
            Flushed::All => return Ok(()),
        }
    }
}

/// Takes the client's input until it detaches or is gone. An orderly end of its input alone does not end this.
async fn input(
    sock: &AsyncFd,
    over_read: &[u8],
    io: &ContainerIo,
    options: &AttachOptions,
    close_input: &impl Fn(),
) -> AttachEnd {
    let mut typed = Typed::new(io, options);
    let mut buffer = vec![0; INPUT_BYTES];
    let mut first = Some(over_read).filter(|b| !b.is_empty());
    let mut pace = bulk_input::Pace::default();
    loop {
        let bytes = match first.take() {
            Some(bytes) => bytes,
            None => match sock.recv(&mut buffer).await {
                Ok(0) => break,
                Ok(n) => &buffer[..n],
                Err(_) => return AttachEnd::ClientGone,
            },
        };
        let bulk = pace.note(bytes.len(), INPUT_BYTES) && typed.may_be_moved();
        if let Some(end) = typed.feed(bytes, hang_up(sock)).await {
            return end;
        }
        if bulk {
            match bulk_input::move_input(sock, io).await {
                Moved::Ended => break,
                Moved::Gone => return AttachEnd::ClientGone,
                Moved::Small => {}
            }
        }
    }
    typed.finish().await;
    // As Docker: the end of a client's input that does not end the container's stdin ends the attachment.
    if !options.stdin || (options.stdin_once && !options.tty) {
        close_input();
        hang_up(sock).await;
    }
    AttachEnd::ClientGone
}

/// Waits until the peer has closed both directions (on TCP: until it resets), not when it only ended its input.
pub async fn hang_up(sock: &impl AsFd) {
    wait_for(sock, PollFlags::empty()).await;
}

/// Waits until the peer has ended its input or closed both directions.
pub async fn input_ended(sock: &impl AsFd) {
    wait_for(sock, PollFlags::RDHUP).await;
}

/// Waits for one of the events or a hang-up. The runtime waits for "readable", which a half-closed socket always is; an epoll
/// that asks for nothing is readable on hang-up and error only. Its wake-ups are not to be believed, though: one comes for
/// a half-close too.
async fn wait_for(sock: &impl AsFd, events: PollFlags) {
    let asked = epoll::EventFlags::from_bits_retain(events.bits().into());
    let wait = async {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, sock, epoll::EventData::new_u64(0), asked)?;
        let epoll = AsyncFd::new(epoll)?;
        loop {
            if has_happened(sock, events)? {
                return io::Result::Ok(());
            }
            epoll.readable().await?;
        }
    };
    if let Err(error) = wait.await {
        tracing::error!(%error, "cannot wait for a client to hang up; taken as gone");
    }
}

fn has_happened(sock: &impl AsFd, events: PollFlags) -> io::Result<bool> {
    let mut polled = [PollFd::new(sock, events)];
    poll(&mut polled, Some(&Timespec::default()))?;
    Ok(polled[0]
        .revents()
        .intersects(events | PollFlags::HUP | PollFlags::ERR))
}
