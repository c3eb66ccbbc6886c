//! A shared mapping of a memfd.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::ShmError;

/// Makes a memfd of this size (sparse: pages come when they are touched).
pub fn memfd(name: &CStr, bytes: usize) -> Result<OwnedFd, ShmError> {
    // SAFETY: a plain system call with a NUL-terminated name.
    let fd =
        unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(ShmError::last("memfd_create"));
    }
    // SAFETY: the call above returned this fd to us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a plain system call on an fd we own.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), bytes as libc::off_t) } < 0 {
        return Err(ShmError::last("ftruncate"));
    }
    // The size is sealed: neither side can make the other fault with SIGBUS by shrinking it.
    // SAFETY: a plain system call on an fd we own.
    if unsafe {
        libc::fcntl(
            fd.as_raw_fd(),
            libc::F_ADD_SEALS,
            libc::F_SEAL_SHRINK | libc::F_SEAL_GROW,
        )
    } < 0
    {
        return Err(ShmError::last("fcntl(F_ADD_SEALS)"));
    }
    Ok(fd)
}

/// A shared read-write mapping. Other processes and the kernel write to it at the same time, so no `&[u8]` into it is
/// ever handed out except where the protocol says that nobody writes there.
#[derive(Debug)]
pub struct SharedMap {
    fd: OwnedFd,
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory that belongs to this value; access goes through atomics or raw pointers whose
// users state why they may.
unsafe impl Send for SharedMap {}

impl SharedMap {
    /// Maps all `bytes` of `fd`, which must be exactly that long and sealed against shrinking.
    pub fn new(fd: OwnedFd, bytes: usize) -> Result<SharedMap, ShmError> {
        // SAFETY: all-zero is a valid `stat`.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the fd is open and `stat` is a valid place to write to.
        if unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) } < 0 {
            return Err(ShmError::last("fstat"));
        }
        if stat.st_size as usize != bytes {
            return Err(ShmError::Layout("the memfd has another size"));
        }
        // SAFETY: a plain system call on an open fd.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(ShmError::Layout(
                "the memfd is not sealed against shrinking",
            ));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address the kernel chooses touches no existing memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        let map = match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => SharedMap { fd, base, bytes },
            _ => return Err(ShmError::last("mmap")),
        };
        // A process forked from here goes into a container, where others may look into its memory.
        // SAFETY: exactly our own mapping; it stays as it is for this process.
        if unsafe { libc::madvise(map.base.as_ptr().cast(), bytes, libc::MADV_DONTFORK) } < 0 {
            return Err(ShmError::last("madvise"));
        }
        Ok(map)
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memfd, to be sent to the other side.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Pointer to `len` bytes at `offset`; panics if they are not all inside (offsets are ours or checked before).
    pub fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.bytes),
            "inside the mapping"
        );
        // SAFETY: just checked to be inside the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// An atomic in the mapping; panics if it is misaligned or outside.
    pub fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "aligned");
        // SAFETY: inside the mapping, aligned, lives as long as `self`; everybody uses atomic access there.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    /// An atomic in the mapping; panics if it is misaligned or outside.
    pub fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "aligned");
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }

    /// Copies bytes out.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        let from = self.at(offset, out.len());
        // SAFETY: source inside the mapping, destination a distinct slice. If the other side writes at the same time
        // (it is not supposed to) the bytes are arbitrary but bytes.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) }
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: destination inside the mapping, source a distinct slice.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; nothing borrowed from `self` lives on.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
