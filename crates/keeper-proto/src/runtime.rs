//! Commands of an external OCI runtime (runc, crun), which the keeper starts because only it forks: what makes a process
//! (create and start of a container, an exec), and what only acts on one (kill, pause, delete and so on).

use std::ffi::CString;

use crate::plan::{FdIndex, StdioFds};
use crate::wire::{Reader, WireError, Writer};

/// Most commands of one plan: create and start.
pub const MAX_COMMANDS: usize = 4;
/// Longest file with a process id that is believed.
pub const MAX_PID_BYTES: usize = 32;

/// A process that the first command leaves behind; the keeper is its parent then, as the nearest subreaper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewProcess {
    /// Container id; of an exec: container id, a dot, exec id.
    pub id: String,
    /// The directory in which the runtime leaves the process id.
    pub pid_dir: FdIndex,
    /// The name of that file.
    pub pid_file: CString,
    /// Standard streams of the first command and so of the process.
    pub stdio: StdioFds,
    /// The listening socket at which the runtime hands over the terminal.
    pub console: Option<FdIndex>,
    /// Rows and columns of the terminal; not every runtime follows its document.
    pub console_size: Option<(u16, u16)>,
    /// The group's `cgroup.procs` in a hierarchy that the runtime is not shown: it is born there itself.
    pub cgroup_procs: Option<FdIndex>,
    /// File whose `oom_kill` line counts OOM kills.
    pub oom_counter: Option<FdIndex>,
    /// A full spill is declared as a gap instead of blocking the container.
    pub log_nonblocking: bool,
}

/// Commands, each run when the one before has succeeded, in a mount namespace of their own each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimePlan {
    /// Program and arguments of each.
    pub commands: Vec<Vec<CString>>,
    /// Environment.
    pub env: Vec<CString>,
    /// The daemon's root directory: paths are below it.
    pub root: FdIndex,
    /// The daemon's mount namespace, of which the commands get a copy.
    pub mount_namespace: FdIndex,
    /// Working directory.
    pub cwd: CString,
    /// Detached trees, attached for the first command.
    pub trees: Vec<(FdIndex, CString)>,
    /// Directories that are covered by an empty file system.
    pub hidden: Vec<CString>,
    /// What comes of it; `None` for commands that only act.
    pub process: Option<NewProcess>,
    /// Of a command that is no runtime's (since protocol version 7).
    pub limits: Option<CommandLimits>,
}

/// Program, streams and time of a single command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLimits {
    /// The program, whatever the first argument says.
    pub program: CString,
    /// Its standard input, output and error.
    pub stdio: [FdIndex; 3],
    /// After so many ms it is ended.
    pub timeout_ms: u32,
}

fn index(r: &mut Reader<'_>, fds: usize) -> Result<FdIndex, WireError> {
    match r.u8()? {
        n if usize::from(n) < fds => Ok(n),
        n => Err(WireError::NoFd(n)),
    }
}

fn optional(w: &mut Writer, fd: Option<FdIndex>) {
    w.option(fd, |w, fd| {
        w.u8(fd);
    });
}

impl RuntimePlan {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.list(&self.commands, |w, argv| {
            w.cstrs(argv);
        });
        w.cstrs(&self.env).u8(self.root).u8(self.mount_namespace);
        w.bytes(self.cwd.as_bytes());
        w.list(&self.trees, |w, (fd, at)| {
            w.u8(*fd).bytes(at.as_bytes());
        });
        w.cstrs(&self.hidden);
        w.option(self.process.as_ref(), |w, process| process.encode(w));
        // Older keepers know nothing behind this.
        if let Some(limits) = &self.limits {
            w.bytes(limits.program.as_bytes());
            for fd in limits.stdio {
                w.u8(fd);
            }
            w.u32(limits.timeout_ms);
        }
        w.finish()
    }

    /// From bytes; `fds` descriptors came along.
    pub fn decode(bytes: &[u8], fds: usize) -> Result<RuntimePlan, WireError> {
        let mut r = Reader::new(bytes);
        let commands = r.list(Reader::cstrs)?;
        let fine = (1..=MAX_COMMANDS).contains(&commands.len());
        if !fine || commands.iter().any(Vec::is_empty) {
            return Err(WireError::Unknown {
                field: "number of commands",
                value: commands.len() as u64,
            });
        }
        Ok(RuntimePlan {
            commands,
            env: r.cstrs()?,
            root: index(&mut r, fds)?,
            mount_namespace: index(&mut r, fds)?,
            cwd: r.cstring()?,
            trees: r.list(|r| Ok((index(r, fds)?, r.cstring()?)))?,
            hidden: r.cstrs()?,
            process: r.option(|r| NewProcess::decode(r, fds))?,
            limits: match r.is_empty() {
                true => None,
                false => Some(CommandLimits {
                    program: r.cstring()?,
                    stdio: [
                        index(&mut r, fds)?,
                        index(&mut r, fds)?,
                        index(&mut r, fds)?,
                    ],
                    timeout_ms: r.u32()?,
                }),
            },
        })
    }
}

impl NewProcess {
    fn encode(&self, w: &mut Writer) {
        w.bytes(self.id.as_bytes()).u8(self.pid_dir);
        w.bytes(self.pid_file.as_bytes());
        let s = &self.stdio;
        for fd in [
            s.stdin_read,
            s.stdin_write,
            s.stdout_read,
            s.stdout_write,
            s.stderr_read,
            s.stderr_write,
            self.console,
            self.cgroup_procs,
            self.oom_counter,
        ] {
            optional(w, fd);
        }
        w.option(self.console_size, |w, (rows, columns)| {
            w.u16(rows).u16(columns);
        });
        w.bool(self.log_nonblocking);
    }

    fn decode(r: &mut Reader<'_>, fds: usize) -> Result<NewProcess, WireError> {
        let next = |r: &mut Reader<'_>| r.option(|r| index(r, fds));
        Ok(NewProcess {
            id: r.string()?,
            pid_dir: index(r, fds)?,
            pid_file: r.cstring()?,
            stdio: StdioFds {
                stdin_read: next(r)?,
                stdin_write: next(r)?,
                stdout_read: next(r)?,
                stdout_write: next(r)?,
                stderr_read: next(r)?,
                stderr_write: next(r)?,
                tty_master: None,
                tty_slave: None,
            },
            console: next(r)?,
            cgroup_procs: next(r)?,
            oom_counter: next(r)?,
            console_size: r.option(|r| Ok((r.u16()?, r.u16()?)))?,
            log_nonblocking: r.bool()?,
        })
    }
}

/// The process id in a runtime's file.
pub fn parse_pid(bytes: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    text.parse().ok().filter(|pid| *pid > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(process: Option<NewProcess>) -> RuntimePlan {
        RuntimePlan {
            commands: vec![
                vec![c"/bin/runc".into(), c"create".into()],
                vec![c"x".into()],
            ],
            env: vec![c"A=b".into()],
            root: 0,
            mount_namespace: 1,
            cwd: c"/run/b".into(),
            trees: vec![(2, c"/run/b/rootfs".into())],
            hidden: vec![c"/sys/fs/cgroup/unified".into()],
            process,
            limits: None,
        }
    }

    fn process() -> NewProcess {
        NewProcess {
            id: "c".into(),
            pid_dir: 3,
            pid_file: c"pid".into(),
            stdio: StdioFds {
                stdout_read: Some(4),
                stdout_write: Some(5),
                ..StdioFds::default()
            },
            console: None,
            console_size: Some((24, 80)),
            cgroup_procs: Some(2),
            oom_counter: Some(6),
            log_nonblocking: true,
        }
    }

    #[test]
    fn plans_come_back_as_they_went() {
        let limited = RuntimePlan {
            limits: Some(CommandLimits {
                program: c"/hook".into(),
                stdio: [4, 5, 6],
                timeout_ms: 1500,
            }),
            ..plan(None)
        };
        for plan in [plan(None), plan(Some(process())), limited] {
            assert_eq!(RuntimePlan::decode(&plan.encode(), 7), Ok(plan));
        }
    }

    #[test]
    fn cuts_and_missing_descriptors_are_refused() {
        let bytes = plan(Some(process())).encode();
        for len in 0..bytes.len() {
            assert!(RuntimePlan::decode(&bytes[..len], 7).is_err(), "{len}");
        }
        assert_eq!(RuntimePlan::decode(&bytes, 6), Err(WireError::NoFd(6)));
        let nothing = RuntimePlan {
            commands: Vec::new(),
            ..plan(None)
        };
        assert!(RuntimePlan::decode(&nothing.encode(), 7).is_err());
    }

    #[test]
    fn process_ids() {
        assert_eq!(parse_pid(b"15665\n"), Some(15665));
        for wrong in [&b""[..], b"-1", b"0", b"1", b"99999999999", b"12 3"] {
            assert_eq!(parse_pid(wrong), None);
        }
    }
}
