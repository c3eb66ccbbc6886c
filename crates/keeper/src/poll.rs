//! epoll, with a typed token per descriptor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What a descriptor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The listening socket.
    Listener,
    /// The daemon's connection.
    Connection,
    /// The daemon's pidfd.
    Daemon,
    /// A container's pidfd.
    Process(u32),
    /// A container's standard output, or its terminal.
    Stdout(u32),
    /// A container's standard error.
    Stderr(u32),
    /// The pipe that tells that a container has executed its program.
    Exec(u32),
    /// The pidfd of a runtime's command.
    Command(u32),
    /// The time at which a list has waited long enough for launches.
    Deadline,
    /// The time at which a command has taken too long.
    CommandLimit(u32),
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, slot) = match self {
            Token::Listener => (0u64, 0),
            Token::Connection => (1, 0),
            Token::Daemon => (2, 0),
            Token::Process(slot) => (3, slot),
            Token::Stdout(slot) => (4, slot),
            Token::Stderr(slot) => (5, slot),
            Token::Exec(slot) => (6, slot),
            Token::Command(number) => (7, number),
            Token::Deadline => (8, 0),
            Token::CommandLimit(number) => (9, number),
        };
        kind << 32 | u64::from(slot)
    }

    fn decode(n: u64) -> Option<Token> {
        let slot = n as u32;
        Some(match n >> 32 {
            0 => Token::Listener,
            1 => Token::Connection,
            2 => Token::Daemon,
            3 => Token::Process(slot),
            4 => Token::Stdout(slot),
            5 => Token::Stderr(slot),
            6 => Token::Exec(slot),
            7 => Token::Command(slot),
            8 => Token::Deadline,
            9 => Token::CommandLimit(slot),
            _ => return None,
        })
    }
}

/// Events taken at once.
const BATCH: usize = 64;

/// An epoll instance. Level-triggered: what is not worked off is told again.
#[derive(Debug)]
pub struct Poll(OwnedFd);

impl Poll {
    /// Empty.
    pub fn new() -> io::Result<Poll> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours alone.
        Ok(Poll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn control(&self, op: i32, fd: BorrowedFd<'_>, events: i32, token: Token) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token.encode(),
        };
        // SAFETY: both descriptors are open, the event lives through the call.
        match unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd.as_raw_fd(), &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Watches for input (and end and error).
    pub fn watch(&self, fd: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN, token)
    }

    /// Watches for room, too, or no longer.
    pub fn want_output(&self, fd: BorrowedFd<'_>, token: Token, wanted: bool) -> io::Result<()> {
        let events = if wanted {
            libc::EPOLLIN | libc::EPOLLOUT
        } else {
            libc::EPOLLIN
        };
        self.control(libc::EPOLL_CTL_MOD, fd, events, token)
    }

    /// Watches no longer. Fine if it was not watched.
    pub fn forget(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        match self.control(libc::EPOLL_CTL_DEL, fd, 0, Token::Listener) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// Waits for events, at most so long (-1: for ever).
    pub fn wait(&self, out: &mut Vec<Token>, timeout_ms: i32) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        // SAFETY: the buffer has room for BATCH events.
        let n = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                BATCH as i32,
                timeout_ms,
            )
        };
        if n < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted {
                Ok(())
            } else {
                Err(error)
            };
        }
        out.extend(
            events
                .iter()
                .take(n as usize)
                .filter_map(|e| Token::decode(e.u64)),
        );
        Ok(())
    }
}

/// Whether reading would not wait: there is input, an end or an error. Container pipes are blocking, and a told event may
/// be of a descriptor that has gone since.
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one live pollfd.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 }
}
