//! A process that is not our child: how it ended.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The kernel's `struct pidfd_info` (first version).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// Ask for, or be told of, an exit code.
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xff, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | (64 << 16) | (0xff << 8) | 11;

/// What is known of the end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its wait status.
    Status(i32),
    /// It has ended, and nobody can say how.
    Unknown,
    /// It has not.
    NotYet,
}

/// Longest line of a /proc/PID/stat: 52 fields of up to 20 digits, and a name of up to 64 bytes.
const MAX_STAT_BYTES: usize = 2048;

/// Fields 3 (state), 22 (start time in ticks) and 52 (wait status of a zombie) of a /proc/PID/stat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// One letter.
    pub state: char,
    /// Parent's process id.
    pub parent: i32,
    /// With the process id it names the process for good.
    pub start_time_ticks: u64,
    /// Only of a zombie.
    pub wait_status: i32,
}

impl Stat {
    /// From the text of the file; the program's name in it may hold anything.
    pub fn parse(text: &[u8]) -> Option<Stat> {
        let after = text.iter().rposition(|b| *b == b')')?;
        let rest = std::str::from_utf8(text.get(after + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first of them is field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Stat {
            state: field(3)?.chars().next()?,
            parent: field(4)?.parse().ok()?,
            start_time_ticks: field(22)?.parse().ok()?,
            wait_status: field(52).and_then(|f| f.parse().ok()).unwrap_or(0),
        })
    }

    /// Of a process below `proc`, an open /proc.
    pub fn read(proc: BorrowedFd<'_>, pid: i32) -> io::Result<Stat> {
        let path = format!("/proc/self/fd/{}/{pid}/stat", proc.as_raw_fd());
        Stat::read_file(std::fs::File::open(path)?)
    }

    /// From an open stat file.
    pub fn read_file(mut file: std::fs::File) -> io::Result<Stat> {
        // The kernel gives the whole line to one read.
        let mut line = [0; MAX_STAT_BYTES];
        let length = file.read(&mut line)?;
        Stat::parse(line.get(..length).unwrap_or_default())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// How a process has ended whose pidfd is readable. `stat` is read now, by the caller; it is that of the process, or of
/// another with the same number, or could not be read. A zombie says it there, and only when it is gone the pidfd does
/// (Linux 6.15 and later, if it was opened while the process was there).
pub fn how_ended(
    pidfd: BorrowedFd<'_>,
    stat: Option<Stat>,
    start_time_ticks: u64,
) -> io::Result<Ended> {
    if let Some(stat) = stat
        && stat.start_time_ticks == start_time_ticks
    {
        return Ok(match stat.state {
            'Z' | 'X' => Ended::Status(stat.wait_status),
            _ => Ended::NotYet,
        });
    }
    match kept_status(pidfd) {
        Ok(Some(status)) => Ok(Ended::Status(status)),
        Ok(None) => Ok(Ended::Unknown),
        // An older kernel.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => {
            Ok(Ended::Unknown)
        }
        // It is gone, and the pidfd was opened too late to know.
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(Ended::Unknown),
        Err(e) => Err(e),
    }
}

/// The wait status that the kernel keeps in a pidfd; `None` while it keeps none.
pub fn kept_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the ioctl number says 64 bytes, which is the size of `info` (asserted above); the kernel writes within it,
    // and every bit pattern is a valid `PidfdInfo`.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}

/// Whether this kernel keeps wait statuses in pidfds. Asked of its version: a kernel that does not keep them answers the
/// question for a process that lives just as one that does.
pub fn keeps_status() -> bool {
    // SAFETY: all-zero is valid, and the kernel fills it.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is live.
    if unsafe { libc::uname(&mut name) } < 0 {
        return false;
    }
    let release: Vec<u8> = name.release.iter().map(|c| *c as u8).collect();
    let text = String::from_utf8_lossy(&release).into_owned();
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};
    use std::process::{Command, Stdio};

    #[test]
    fn stat_of_a_program_with_a_wild_name() {
        let text = b"7 (a) b) Z 1 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 9";
        let stat = Stat::parse(text).expect("stat");
        assert_eq!(
            stat,
            Stat {
                state: 'Z',
                parent: 1,
                start_time_ticks: 4711,
                wait_status: 9
            }
        );
        for bad in [&b""[..], b"7 (x", b"7 (x)", b"7 (x) S 1 2 3"] {
            assert_eq!(Stat::parse(bad), None);
        }
    }

    fn open(pid: u32) -> OwnedFd {
        // SAFETY: a plain system call; the descriptor is new and ours alone.
        unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            assert!(fd >= 0);
            OwnedFd::from_raw_fd(fd as i32)
        }
    }

    #[test]
    fn a_zombie_and_a_collected_process_say_how_they_ended() {
        let mut child = Command::new("sh")
            .args(["-c", "read x; exit 7"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh");
        let proc = std::fs::File::open("/proc").expect("/proc");
        let pid = child.id() as i32;
        let pidfd = open(child.id());
        let ticks = Stat::read(proc.as_fd(), pid)
            .expect("stat")
            .start_time_ticks;
        let now = |ticks| {
            how_ended(pidfd.as_fd(), Stat::read(proc.as_fd(), pid).ok(), ticks).expect("asked")
        };
        assert_eq!(now(ticks), Ended::NotYet);
        drop(child.stdin.take());
        while Stat::read(proc.as_fd(), pid).expect("stat").state != 'Z' {
            std::thread::yield_now();
        }
        assert_eq!(now(ticks), Ended::Status(7 << 8));
        child.wait().expect("wait");
        let known = if keeps_status() {
            Ended::Status(7 << 8)
        } else {
            Ended::Unknown
        };
        assert_eq!(now(ticks), known);
    }
}
