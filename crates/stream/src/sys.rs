//! The few io_uring structures and system calls the pump needs.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

pub const SETUP_CQSIZE: u32 = 1 << 3;
pub const SETUP_COOP_TASKRUN: u32 = 1 << 8;
pub const SETUP_NO_MMAP: u32 = 1 << 14;
pub const SETUP_NO_SQARRAY: u32 = 1 << 16;
pub const OP_ASYNC_CANCEL: u8 = 14;
pub const OP_READ_MULTISHOT: u8 = 49;
pub const SQE_BUFFER_SELECT: u8 = 1 << 5;
pub const SQE_CQE_SKIP_SUCCESS: u8 = 1 << 6;
pub const REGISTER_EVENTFD: u32 = 4;
pub const REGISTER_PBUF_RING: u32 = 22;
pub const ENTER_GETEVENTS: u32 = 1;

#[repr(C)]
#[derive(Default)]
pub struct SqOffsets {
    pub head: u32,
    pub tail: u32,
    pub ring_mask: u32,
    pub ring_entries: u32,
    pub flags: u32,
    pub dropped: u32,
    pub array: u32,
    pub resv1: u32,
    pub user_addr: u64,
}

#[repr(C)]
#[derive(Default)]
pub struct CqOffsets {
    pub head: u32,
    pub tail: u32,
    pub ring_mask: u32,
    pub ring_entries: u32,
    pub overflow: u32,
    pub cqes: u32,
    pub flags: u32,
    pub resv1: u32,
    pub user_addr: u64,
}

#[repr(C)]
#[derive(Default)]
pub struct Params {
    pub sq_entries: u32,
    pub cq_entries: u32,
    pub flags: u32,
    pub sq_thread_cpu: u32,
    pub sq_thread_idle: u32,
    pub features: u32,
    pub wq_fd: u32,
    pub resv: [u32; 3],
    pub sq_off: SqOffsets,
    pub cq_off: CqOffsets,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Sqe {
    pub opcode: u8,
    pub flags: u8,
    pub ioprio: u16,
    pub fd: i32,
    pub off: u64,
    pub addr: u64,
    pub len: u32,
    pub op_flags: u32,
    pub user_data: u64,
    pub buf_group: u16,
    pub personality: u16,
    pub file_index: u32,
    pub addr3: u64,
    pub pad: u64,
}
const _: () = assert!(size_of::<Sqe>() == 64 && size_of::<Params>() == 120);

#[repr(C)]
pub struct BufReg {
    pub ring_addr: u64,
    pub ring_entries: u32,
    pub bgid: u16,
    pub flags: u16,
    pub resv: [u64; 3],
}

/// io_uring_setup(2).
///
/// # Safety
/// The addresses in `params` must be mappings that live as long as the returned ring and are used by nothing else.
pub unsafe fn setup(entries: u32, params: &mut Params) -> io::Result<OwnedFd> {
    // SAFETY: `params` is a valid io_uring_params; the caller vouches for the addresses inside.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_io_uring_setup,
            entries,
            std::ptr::from_mut(params),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above returned this fd to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// io_uring_register(2) with one structure.
///
/// # Safety
/// `arg` must be what the operation wants, and memory it names must live as long as the ring.
pub unsafe fn register<T>(ring: BorrowedFd<'_>, op: u32, arg: &T) -> io::Result<()> {
    // SAFETY: `arg` is valid for the call; the caller vouches for what it names.
    let r = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            op,
            std::ptr::from_ref(arg),
            1,
        )
    };
    if r < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// io_uring_enter(2) without waiting; returns how many entries were taken.
pub fn enter(ring: BorrowedFd<'_>, to_submit: u32) -> io::Result<u32> {
    // SAFETY: no pointers are passed; what the entries name is the business of whoever wrote them.
    let r = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            ring.as_raw_fd(),
            to_submit,
            0u32,
            ENTER_GETEVENTS,
            0usize,
            0usize,
        )
    };
    if r < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(r as u32)
    }
}

/// What was sent to a socket and its peer has not taken yet (on TCP: not acknowledged), in the kernel's own measure; 0
/// is nothing.
pub(crate) fn untaken(socket: BorrowedFd<'_>) -> io::Result<i32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (of sockets: SIOCOUTQ, the same number) writes one int.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes)
}
