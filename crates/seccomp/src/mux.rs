//! Calls that 32-bit x86 can also make through `socketcall` and `ipc`.
//!
//! A rule for such a call must count for both ways in, or old i386 binaries fail.

/// The multiplexing call of 32-bit x86 and the selector in its first argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Multiplexed {
    /// Number of the multiplexing call.
    pub number: u32,
    /// Its first argument.
    pub selector: u64,
}

const SOCKETCALL: u32 = 102;
const IPC: u32 = 117;

const SOCKET_CALLS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

const IPC_CALLS: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

/// How 32-bit x86 multiplexes this call, if it does.
pub(crate) fn on_x86(name: &str) -> Option<Multiplexed> {
    if let Some(at) = SOCKET_CALLS.iter().position(|known| *known == name) {
        return Some(Multiplexed {
            number: SOCKETCALL,
            selector: at as u64 + 1,
        });
    }
    let (_, selector) = IPC_CALLS.iter().find(|(known, _)| *known == name)?;
    Some(Multiplexed {
        number: IPC,
        selector: *selector,
    })
}
