//! What the kernel can do. A missing feature is named with its likely cause, before anything depends on it.

use std::path::Path;

/// A feature that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Name of the feature.
    pub feature: &'static str,
    /// What probably is the reason.
    pub cause: String,
    /// Whether nothing works without it.
    pub fatal: bool,
}

/// Probes everything; an empty list is a machine that has it all.
pub fn run() -> Vec<Missing> {
    [
        io_uring(),
        openat2(),
        clone3(),
        overlay(),
        new_mount_api(),
        mount_setattr(),
        pidfd(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether the kernel knows a system call: anything but ENOSYS (or EPERM from a filter) is a yes.
fn knows(number: libc::c_long) -> Result<(), std::io::Error> {
    // SAFETY: every probed call gets null or -1 for each argument, so the kernel refuses it before it does anything.
    let result = unsafe { libc::syscall(number, -1_i64, 0_usize, 0_usize, 0_usize, 0_usize) };
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        _ if result >= 0 => Ok(()),
        Some(libc::ENOSYS | libc::EPERM) => Err(error),
        _ => Ok(()),
    }
}

fn io_uring() -> Option<Missing> {
    let missing = |cause: String| {
        Some(Missing {
            feature: "io_uring",
            cause,
            fatal: true,
        })
    };
    match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
        Ok(text) if text.trim() == "2" => {
            return missing("the sysctl kernel.io_uring_disabled is 2: set it to 0".to_owned());
        }
        // 1 refuses only processes without CAP_SYS_ADMIN, which the call below shows.
        _ => {}
    }
    // SAFETY: 0 entries and no parameters: the kernel answers EFAULT or EINVAL, or makes nothing.
    let result =
        unsafe { libc::syscall(libc::SYS_io_uring_setup, 0_u32, std::ptr::null_mut::<u8>()) };
    let error = std::io::Error::last_os_error();
    if result >= 0 {
        return None;
    }
    match error.raw_os_error() {
        Some(libc::ENOSYS) => missing("the kernel was built without CONFIG_IO_URING".to_owned()),
        Some(libc::EPERM) => missing(
            "not permitted: kernel.io_uring_disabled is 1 and this process lacks CAP_SYS_ADMIN, or a seccomp filter \
             (a container?) forbids it"
                .to_owned(),
        ),
        _ => None,
    }
}

/// Flags of io_uring_setup(2): rings in memory of ours, and no array between them and the entries.
const IORING_SETUP_NO_MMAP: u32 = 1 << 14;
const IORING_SETUP_NO_SQARRAY: u32 = 1 << 16;
const IORING_REGISTER_PROBE: u32 = 8;
const IORING_OP_READ_MULTISHOT: u8 = 49;
const IO_URING_OP_SUPPORTED: u16 = 1;
/// Operations the kernel is asked about; more than it has is fine.
const PROBED_OPS: usize = 64;

/// `struct io_uring_probe` with room for [`PROBED_OPS`] answers of 8 bytes: op, resv, flags (16 bit), resv2.
#[repr(C, align(8))]
struct RingProbe {
    head: [u8; 16],
    ops: [[u8; 8]; PROBED_OPS],
}

/// What the rings for container output need, memory that the keeper can map too (6.5, 6.6) and multishot reads (6.7), and
/// is missing; `None` if nothing is.
pub fn output_ring() -> Option<String> {
    let setup = |flags: u32| -> std::io::Result<std::os::fd::OwnedFd> {
        // `struct io_uring_params`: 120 bytes, the flags at offset 8. The addresses stay 0.
        let mut params = [0u32; 30];
        params[2] = flags;
        // SAFETY: the kernel reads and writes the 120 bytes of `params`, which live through the call. With NO_MMAP
        // and null addresses it has nothing to put a ring into and makes none.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, params.as_mut_ptr()) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the call above returned this fd to us alone.
        Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd as i32) })
    };
    let old = |what: &str, since: &str| Some(format!("{what}: the kernel is older than {since}"));
    // A kernel that knows the flag misses the memory (EFAULT); one that does not refuses the flag (EINVAL).
    if let Err(e) = setup(IORING_SETUP_NO_MMAP)
        && e.raw_os_error() == Some(libc::EINVAL)
    {
        return old("no rings in memory of our own (NO_MMAP)", "6.5");
    }
    let ring = match setup(IORING_SETUP_NO_SQARRAY) {
        Ok(ring) => ring,
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            return old("no rings without an index array (NO_SQARRAY)", "6.6");
        }
        // Forbidden altogether is the other probe's finding.
        Err(e) => return Some(format!("a ring can't be made: {e}")),
    };
    let mut probe = RingProbe {
        head: [0; 16],
        ops: [[0; 8]; PROBED_OPS],
    };
    // SAFETY: the probe has room for as many answers as the last argument says and lives through the call.
    let asked = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            std::os::fd::AsRawFd::as_raw_fd(&ring),
            IORING_REGISTER_PROBE,
            &raw mut probe,
            PROBED_OPS,
        )
    };
    if asked < 0 {
        let error = std::io::Error::last_os_error();
        return Some(format!("the ring can't be asked: {error}"));
    }
    let supported = probe.ops.iter().any(|op| {
        let flags = u16::from_ne_bytes([op[2], op[3]]);
        op[0] == IORING_OP_READ_MULTISHOT && flags & IO_URING_OP_SUPPORTED != 0
    });
    if supported {
        return None;
    }
    old("no multishot reads (READ_MULTISHOT)", "6.7")
}

fn mount_setattr() -> Option<Missing> {
    let error = knows(libc::SYS_mount_setattr).err()?;
    Some(Missing {
        feature: "mount_setattr",
        cause: format!("kernel older than 5.12, or a seccomp filter: {error}"),
        fatal: true,
    })
}

fn openat2() -> Option<Missing> {
    let error = knows(libc::SYS_openat2).err()?;
    Some(Missing {
        feature: "openat2",
        cause: format!("kernel older than 5.6, or a seccomp filter: {error}"),
        fatal: true,
    })
}

fn clone3() -> Option<Missing> {
    // SAFETY: a null argument block of size 0 is refused with EINVAL before anything is cloned.
    let result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null_mut::<u8>(), 0_usize) };
    let error = std::io::Error::last_os_error();
    let absent = result < 0 && matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM));
    absent.then(|| Missing {
        feature: "clone3",
        cause: format!("kernel older than 5.3, or a seccomp filter: {error}"),
        fatal: true,
    })
}

fn new_mount_api() -> Option<Missing> {
    let error = knows(libc::SYS_move_mount).err()?;
    Some(Missing {
        feature: "fsopen and move_mount",
        cause: format!("kernel older than 5.2: {error}"),
        fatal: true,
    })
}

fn pidfd() -> Option<Missing> {
    let error = knows(libc::SYS_pidfd_send_signal).err()?;
    Some(Missing {
        feature: "pidfds",
        cause: format!("kernel older than 5.3: {error}"),
        fatal: true,
    })
}

fn overlay() -> Option<Missing> {
    // Asking for the file system by name also loads its module, which /proc/filesystems would not show.
    match rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => None,
        Err(rustix::io::Errno::NODEV) => Some(Missing {
            feature: "overlay",
            cause: "no such file system: the kernel has neither CONFIG_OVERLAY_FS nor the module overlay.ko (modprobe overlay)".to_owned(),
            fatal: true,
        }),
        Err(rustix::io::Errno::PERM) => {
            Some(Missing { feature: "overlay", cause: "not permitted: gantryd must run as root".to_owned(), fatal: true })
        }
        Err(e) => Some(Missing { feature: "overlay", cause: format!("fsopen: {e}"), fatal: true }),
    }
}

/// `PRETTY_NAME` and `VERSION_ID` of os-release.
pub fn operating_system() -> (String, String) {
    let text = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|p| std::fs::read_to_string(Path::new(p)).ok())
        .unwrap_or_default();
    let value = |key: &str| {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or("").trim_matches(['"', '\'']).to_owned()
    };
    let name = value("PRETTY_NAME");
    (
        if name.is_empty() {
            "Linux".to_owned()
        } else {
            name
        },
        value("VERSION_ID"),
    )
}

/// Memory of the machine in bytes.
pub fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        .saturating_mul(1024)
}

/// Docker's name of the file system a path is on.
pub fn filesystem_name(path: &Path) -> String {
    match rustix::fs::statfs(path).map(|s| s.f_type as u32) {
        Ok(0xef53) => "extfs".to_owned(),
        Ok(0x5846_5342) => "xfs".to_owned(),
        Ok(0x9123_683e) => "btrfs".to_owned(),
        Ok(0x0102_1994) => "tmpfs".to_owned(),
        Ok(0x794c_7630) => "overlayfs".to_owned(),
        Ok(0x2fc1_2fc1) => "zfs".to_owned(),
        Ok(other) => format!("{other:#x}"),
        Err(_) => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_machine_is_described() {
        assert!(super::memory_bytes() > 0);
        assert!(!super::operating_system().0.is_empty());
        for missing in super::run() {
            assert!(!missing.cause.is_empty());
        }
        // What is missing is told by the kernel's answers; its version says the same.
        let missing = super::output_ring();
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        let mut numbers = release
            .split(['.', '-'])
            .map_while(|n| n.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        assert!(missing.is_none() || version < (6, 7), "{missing:?}");
    }
}
