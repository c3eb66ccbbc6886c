//! One container of a keeper: its process, its pipe ends, its spill.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use gantry_keeper_proto::msg::{Entry, Exit, UNKNOWN_STATUS};
use gantry_keeper_proto::process::{self, Ended};
use gantry_keeper_proto::shm::{JournalMap, ShmError, SpillWriter, Stream};

use crate::launch::Pending;
use crate::poll::{Poll, Token, is_readable};
use crate::raw;
use crate::server::wipe;
use crate::setup::{Host, stat_of};

/// Most bytes read from a pipe at once.
const READ_BYTES: usize = 64 * 1024;

/// The keeper's ends of the standard streams.
#[derive(Debug, Default)]
pub struct Ends {
    /// Write end of standard input.
    pub stdin: Option<OwnedFd>,
    /// Read end of standard output.
    pub stdout: Option<OwnedFd>,
    /// Read end of standard error.
    pub stderr: Option<OwnedFd>,
    /// The terminal.
    pub tty_master: Option<OwnedFd>,
}

/// See the module.
#[derive(Debug)]
pub struct Container {
    /// Container id.
    pub id: String,
    /// Journal slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u16,
    /// Process id.
    pub pid: i32,
    /// Field 22 of its stat.
    pub start_time_ticks: u64,
    /// Gone after the exit was collected.
    pub pidfd: Option<OwnedFd>,
    /// Streams.
    pub ends: Ends,
    /// Counts OOM kills.
    pub oom_counter: Option<File>,
    /// A full spill drops instead of blocking.
    pub log_nonblocking: bool,
    /// Set once it has ended.
    pub exit: Option<Exit>,
    /// The clone has not executed its program yet (launches that may block).
    pub pending: Option<Pending>,
    /// Another keeper launched it: it is not our child.
    pub adopted: bool,
    /// Made when there is something to keep.
    spill: Option<SpillWriter>,
    /// The keeper reads the output.
    reading: bool,
    /// End of output seen, by stream.
    ended: [bool; 2],
    /// Dropped since the spill was full.
    dropped_bytes: u64,
}

pub fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}

impl Container {
    /// A process that was just cloned.
    pub fn new(id: String, slot: u32, generation: u16, pid: i32, pidfd: OwnedFd) -> Container {
        Container {
            id,
            slot,
            generation,
            pid,
            start_time_ticks: 0,
            pidfd: Some(pidfd),
            ends: Ends::default(),
            oom_counter: None,
            log_nonblocking: false,
            exit: None,
            pending: None,
            adopted: false,
            spill: None,
            reading: false,
            ended: [false; 2],
            dropped_bytes: 0,
        }
    }

    /// For a list.
    pub fn entry(&self) -> Entry {
        Entry {
            id: self.id.clone(),
            slot: self.slot,
            generation: self.generation,
            pid: self.pid,
            start_time_ticks: self.start_time_ticks,
            tty: self.ends.tty_master.is_some(),
            stdin_open: self.ends.stdin.is_some() || self.ends.tty_master.is_some(),
            spill_bytes: self.spill_bytes(),
            exit: self.exit,
        }
    }

    /// Length of the spill.
    pub fn spill_bytes(&self) -> u64 {
        self.spill.as_ref().map_or(0, SpillWriter::end)
    }

    /// The spill file.
    pub fn spill_file(&self) -> Option<&File> {
        self.spill.as_ref().map(SpillWriter::file)
    }

    fn output(&self, stream: Stream) -> Option<&OwnedFd> {
        match stream {
            Stream::Stdout => self.ends.tty_master.as_ref().or(self.ends.stdout.as_ref()),
            Stream::Stderr => self.ends.stderr.as_ref(),
        }
    }

    fn token(&self, stream: Stream) -> Token {
        match stream {
            Stream::Stdout => Token::Stdout(self.slot),
            Stream::Stderr => Token::Stderr(self.slot),
        }
    }

    /// No daemon is there: the keeper keeps what comes.
    pub fn start_reading(&mut self, poll: &Poll) -> io::Result<()> {
        self.reading = true;
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(fd) = self.output(stream).filter(|_| !self.ended[stream.index()]) {
                // Twice is fine: an earlier try may have failed half-way.
                poll.forget(fd.as_fd())?;
                poll.watch(fd.as_fd(), self.token(stream))?;
            }
        }
        Ok(())
    }

    /// A daemon takes over; a declared gap is the last the spill gets.
    pub fn stop_reading(&mut self, poll: &Poll, exec_root: &OwnedFd) -> Result<(), ShmError> {
        self.reading = false;
        let gone = |source| ShmError::Io {
            step: "epoll",
            source,
        };
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(fd) = self.output(stream) {
                poll.forget(fd.as_fd()).map_err(gone)?;
            }
        }
        let dropped = std::mem::take(&mut self.dropped_bytes);
        if dropped > 0 {
            self.spill(exec_root)?.append_gap(dropped, now_ns())?;
        }
        Ok(())
    }

    /// The daemon is dead, and may have written to the spill: goes on where it committed. Past that is what it was just
    /// writing, which its ring has too.
    pub fn go_on_after_daemon(
        &mut self,
        journal: &JournalMap,
        exec_root: &OwnedFd,
    ) -> Result<(), ShmError> {
        let committed = journal.load(self.slot)?.spill_end;
        let end = committed.max(self.spill_bytes());
        if committed > 0 && self.spill.is_none() {
            self.spill = Some(SpillWriter::new(
                self.open_spill(exec_root, libc::O_CREAT)?,
            )?);
        }
        match &mut self.spill {
            Some(spill) => spill.go_on_at(end),
            None => Ok(()),
        }
    }

    fn open_spill(&self, exec_root: &OwnedFd, flags: i32) -> Result<File, ShmError> {
        open_spill(exec_root, &self.id, flags).map_err(|source| ShmError::Io {
            step: "open of a spill",
            source,
        })
    }

    /// Goes on with the spill that another keeper left, if there is one.
    pub fn pick_up_spill(&mut self, exec_root: &OwnedFd) -> Result<(), ShmError> {
        let failed = |source| ShmError::Io {
            step: "open of a spill",
            source,
        };
        match open_spill(exec_root, &self.id, 0) {
            Ok(file) => self.spill = Some(SpillWriter::new(file)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        Ok(())
    }

    fn spill(&mut self, exec_root: &OwnedFd) -> Result<&mut SpillWriter, ShmError> {
        if self.spill.is_none() {
            // What is there was never committed.
            let file = self.open_spill(exec_root, libc::O_CREAT | libc::O_TRUNC)?;
            self.spill = Some(SpillWriter::new(file)?);
        }
        self.spill.as_mut().ok_or(ShmError::Corrupt("no spill"))
    }

    /// Keeps bytes whatever the limit says: they are in no pipe any more.
    pub fn keep(
        &mut self,
        exec_root: &OwnedFd,
        stream: Stream,
        bytes: &[u8],
    ) -> Result<(), ShmError> {
        self.spill(exec_root)?.append(stream, bytes, now_ns())
    }

    /// Input on a stream: into the spill, if there is room.
    pub fn read_output(
        &mut self,
        stream: Stream,
        poll: &Poll,
        journal: &JournalMap,
        exec_root: &OwnedFd,
    ) -> Result<(), ShmError> {
        if !self.reading || self.ended[stream.index()] {
            return Ok(());
        }
        let io_error = |step: &'static str| move |source| ShmError::Io { step, source };
        let Some(fd) = self.output(stream) else {
            return Ok(());
        };
        let replayed = journal.load(self.slot)?.spill_offset;
        let room = self
            .spill
            .as_ref()
            .is_none_or(|s| s.has_room(replayed, READ_BYTES));
        if !room && !self.log_nonblocking {
            // The pipe fills up and the container waits, as its log mode says.
            return poll.forget(fd.as_fd()).map_err(io_error("epoll"));
        }
        if !is_readable(fd.as_fd()) {
            return Ok(());
        }
        let mut buf = [0u8; READ_BYTES];
        let n = match read(fd, &mut buf) {
            Ok(n) => n,
            // A terminal without any process.
            Err(e) if e.raw_os_error() == Some(libc::EIO) => 0,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(e) => return Err(io_error("read of a container's output")(e)),
        };
        if n == 0 {
            poll.forget(fd.as_fd()).map_err(io_error("epoll"))?;
            self.ended[stream.index()] = true;
            return Ok(());
        }
        if !room {
            self.dropped_bytes += n as u64;
            return Ok(());
        }
        let kept = self.keep(exec_root, stream, &buf[..n]);
        wipe(&mut buf[..n]);
        kept
    }

    /// The pidfd is readable: collects the exit. `None` if it was collected before.
    pub fn collect_exit(&mut self, host: &Host, poll: &Poll) -> io::Result<Option<Exit>> {
        let Some(pidfd) = self.pidfd.as_ref() else {
            return Ok(None);
        };
        let ended = match self.adopted {
            true => self.look_at_end(pidfd, host)?,
            false => wait(pidfd)?,
        };
        let Some(mut exit) = ended else {
            return Ok(None);
        };
        // The daemon holds a copy: closing ours does not take it out of epoll, which would tell of it without end.
        poll.forget(pidfd.as_fd())?;
        exit.oom_killed = self
            .oom_counter
            .take()
            .is_some_and(|f| counted_oom_kill(&f));
        self.pidfd = None;
        self.exit = Some(exit);
        Ok(Some(exit))
    }

    /// How a process has ended that is the child of somebody else.
    fn look_at_end(&self, pidfd: &OwnedFd, host: &Host) -> io::Result<Option<Exit>> {
        if !is_readable(pidfd.as_fd()) {
            return Ok(None);
        }
        let stat = stat_of(host.proc.as_fd(), self.pid).ok();
        let wait_status = match process::how_ended(pidfd.as_fd(), stat, self.start_time_ticks)? {
            Ended::Status(status) => status,
            Ended::Unknown => UNKNOWN_STATUS,
            Ended::NotYet => return Ok(None),
        };
        Ok(Some(Exit {
            wait_status,
            exited_at_unix_ns: now_ns(),
            ..Exit::default()
        }))
    }

    /// Removes the spill file.
    pub fn remove_spill(&mut self, exec_root: &OwnedFd) {
        if self.spill.take().is_some()
            && let Err(e) = unlink(exec_root, &spill_name(&self.id))
            && e.kind() != io::ErrorKind::NotFound
        {
            crate::log(format_args!(
                "{}: the spill file is left behind: {e}",
                self.id
            ));
        }
    }
}

fn read(fd: &OwnedFd, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is live and as long as stated.
    let n = unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
    if n < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(n as usize)
    }
}

fn spill_name(id: &str) -> String {
    format!("spill-{id}")
}

fn open_spill(exec_root: &OwnedFd, id: &str, create: i32) -> io::Result<File> {
    let name = CString::new(spill_name(id))?;
    let flags = libc::O_RDWR | create | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: the path is NUL-terminated and lives through the call.
    let fd = unsafe { libc::openat(exec_root.as_raw_fd(), name.as_ptr(), flags, 0o600) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Writes a short file of the exec root.
pub fn write_file(exec_root: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    use std::io::Write;
    let name = CString::new(name)?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: the path is NUL-terminated and lives through the call.
    let fd = unsafe { libc::openat(exec_root.as_raw_fd(), name.as_ptr(), flags, 0o600) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    unsafe { File::from_raw_fd(fd) }.write_all(text.as_bytes())
}

/// Removes a file of the exec root.
pub fn unlink(exec_root: &OwnedFd, name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the path is NUL-terminated and lives through the call.
    match unsafe { libc::unlinkat(exec_root.as_raw_fd(), name.as_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// waitid with resource usage; `None` if the process has not ended.
pub fn wait(pidfd: &OwnedFd) -> io::Result<Option<Exit>> {
    // SAFETY: all-zero is valid for both.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe {
        (
            MaybeUninit::zeroed().assume_init(),
            MaybeUninit::zeroed().assume_init(),
        )
    };
    let flags = (libc::WEXITED | libc::WNOHANG) as usize;
    let args = [
        libc::P_PIDFD as usize,
        pidfd.as_raw_fd() as usize,
        &raw mut info as usize,
        flags,
        &raw mut usage as usize,
    ];
    // SAFETY: the kernel fills both structs, which live through the call.
    unsafe { raw::sys(libc::SYS_waitid, &args) }.map_err(io::Error::from_raw_os_error)?;
    // SAFETY: filled by the kernel, or still zero; both fields exist for SIGCHLD.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let wait_status = match info.si_code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | 0x80,
        _ => status,
    };
    let micros = |t: libc::timeval| (t.tv_sec as u64).saturating_mul(1_000_000) + t.tv_usec as u64;
    Ok(Some(Exit {
        wait_status,
        exited_at_unix_ns: now_ns(),
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        maxrss_kib: usage.ru_maxrss as u64,
        oom_killed: false,
    }))
}

fn counted_oom_kill(file: &File) -> bool {
    let mut buf = [0u8; 512];
    let Ok(n) = file.read_at(&mut buf, 0) else {
        return false;
    };
    let text = String::from_utf8_lossy(buf.get(..n).unwrap_or_default()).into_owned();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count
        .and_then(|n| n.trim().parse::<u64>().ok())
        .is_some_and(|n| n > 0)
}

/// Reads a whole memfd from its beginning.
pub fn read_memfd(fd: OwnedFd, limit: usize) -> io::Result<Vec<u8>> {
    use std::io::Seek;
    let mut file = File::from(fd);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
