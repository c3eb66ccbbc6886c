//! Messages between daemon and keeper, one per SOCK_SEQPACKET packet, descriptors beside them.

use crate::wire::{Reader, WireError, Writer};

/// Version this program speaks. 2: launches into running containers ([`crate::plan::Join`]). 3: containers in
/// namespaces that are not their own. 4: taking over from a dead keeper ([`Request::Inherit`], [`Request::Adopt`]), and a
/// launch is answered with the process's pidfd. 5: user namespaces, AppArmor profiles, and pid namespaces that are joined
/// by the last process of a launch. 6: commands of external runtimes. 7: hooks, and commands with streams and a time limit.
pub const PROTOCOL_VERSION: u32 = 7;
/// First version that knows [`crate::plan::HookPlan`], and [`crate::runtime::RuntimePlan::limits`].
pub const HOOKS_VERSION: u32 = 7;
/// First version that knows [`Request::Runtime`].
pub const RUNTIME_VERSION: u32 = 6;
/// First version that knows [`crate::plan::UserNamespace`] and AppArmor profiles, and joins pid namespaces last.
pub const RIGHTS_VERSION: u32 = 5;
/// First version that takes over from a dead keeper.
pub const ADOPT_VERSION: u32 = 4;
/// First version that knows containers in namespaces that are not their own.
pub const NAMESPACES_VERSION: u32 = 3;
/// First version that knows [`crate::plan::Join`].
pub const EXEC_VERSION: u32 = 2;
/// Oldest version of the other side this program speaks to.
pub const OLDEST_VERSION: u32 = 1;
/// Entries of one list answer.
pub const LIST_PAGE: usize = 256;

const KIND_REQUEST: u8 = 1;
const KIND_REPLY: u8 = 2;
const KIND_EVENT: u8 = 3;

/// Daemon to keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// First message of a connection.
    Hello {
        /// [`PROTOCOL_VERSION`] of the daemon.
        version: u32,
        /// Differs for every life of the daemon.
        epoch: u64,
    },
    /// Launch; the plan's bytes are here, or in the last descriptor if empty.
    Launch {
        /// See [`crate::plan::Plan`].
        plan: Vec<u8>,
    },
    /// Send a signal to the first process.
    Signal {
        /// Container.
        id: String,
        /// Number.
        signo: i32,
    },
    /// Size of the terminal.
    Resize {
        /// Container.
        id: String,
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Drop the keeper's copy of standard input's write end.
    CloseStdin {
        /// Container.
        id: String,
    },
    /// Stop reading the container's output; answers with its files.
    HandOver {
        /// Container.
        id: String,
    },
    /// The exit is durable (or the launch given up): drop everything about the container.
    Forget {
        /// Container.
        id: String,
    },
    /// Containers with slots from here on.
    List {
        /// First slot wanted.
        from_slot: u32,
    },
    /// The ring memfd of this life of the daemon (one descriptor).
    SetRing {
        /// Epoch of the ring.
        epoch: u64,
    },
    /// End, if there is no container.
    ShutdownIfEmpty,
    /// The journal memfd of a keeper that died (one descriptor): from here on it is this keeper's, which has no
    /// container yet. The daemon goes on with its streams as they are.
    Inherit,
    /// A process that another keeper launched and that is nobody's now; answered as a launch. The pidfd comes first,
    /// then descriptors in the order of the fields that are true.
    Adopt(Adopt),
    /// Run commands of an external runtime; the plan's bytes are here, or in the last descriptor if empty. Answered as a
    /// launch if a process comes of it (its terminal comes along), else with [`Reply::Done`].
    Runtime {
        /// See [`crate::runtime::RuntimePlan`].
        plan: Vec<u8>,
    },
}

/// See [`Request::Adopt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// Container.
    pub id: String,
    /// Its slot in the inherited journal; a free one if it had none that is left.
    pub slot: Option<u32>,
    /// Process id.
    pub pid: i32,
    /// See [`Entry`].
    pub start_time_ticks: u64,
    /// A full spill drops instead of blocking.
    pub log_nonblocking: bool,
    /// Write end of standard input comes along.
    pub stdin: bool,
    /// Read end of standard output.
    pub stdout: bool,
    /// Read end of standard error.
    pub stderr: bool,
    /// Terminal master.
    pub tty_master: bool,
    /// Counter of OOM kills.
    pub oom_counter: bool,
}

/// In place of a wait status: the process has ended, and nobody can say how.
pub const UNKNOWN_STATUS: i32 = -1;

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// As `wait(2)` gives it, or [`UNKNOWN_STATUS`].
    pub wait_status: i32,
    /// When the keeper saw it, unix nanoseconds.
    pub exited_at_unix_ns: u64,
    /// User CPU time in microseconds.
    pub user_us: u64,
    /// System CPU time in microseconds.
    pub system_us: u64,
    /// Largest resident set in KiB.
    pub maxrss_kib: u64,
    /// The cgroup counted an OOM kill.
    pub oom_killed: bool,
}

/// A container a keeper has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Container.
    pub id: String,
    /// Journal slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u16,
    /// Process id in the host's namespace.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: with the pid it names the process for good.
    pub start_time_ticks: u64,
    /// It has a terminal.
    pub tty: bool,
    /// The keeper still holds standard input open.
    pub stdin_open: bool,
    /// Bytes in the spill file (0: none).
    pub spill_bytes: u64,
    /// If it has ended, how.
    pub exit: Option<Exit>,
}

/// Keeper to daemon, answering a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To hello; the journal memfd comes along.
    Hello {
        /// The keeper's version.
        version: u32,
        /// The keeper's process id.
        pid: i32,
        /// Containers it has.
        containers: u32,
    },
    /// To launch.
    Launched {
        /// Process id.
        pid: i32,
        /// See [`Entry`].
        start_time_ticks: u64,
        /// Journal slot.
        slot: u32,
        /// Generation of the slot.
        generation: u16,
    },
    /// To hand over; descriptors come along in the order of the fields that are true.
    HandOver {
        /// Write end of standard input.
        stdin: bool,
        /// Read end of standard output.
        stdout: bool,
        /// Read end of standard error.
        stderr: bool,
        /// Terminal master.
        tty_master: bool,
        /// Spill file.
        spill: bool,
        /// Its length.
        spill_bytes: u64,
    },
    /// To list.
    List {
        /// The entries.
        entries: Vec<Entry>,
        /// Where to go on, if there are more.
        next_slot: Option<u32>,
    },
    /// Done.
    Done,
    /// Not done.
    Failed {
        /// Why.
        failure: Failure,
        /// For [`Failure::Launch`]: number of the [`crate::plan::Step`].
        step: u32,
        /// For [`Failure::Launch`]: which of several.
        detail: u32,
        /// Error of the system call, or 0.
        errno: i32,
    },
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Failure {
    /// A step of a launch failed.
    Launch = 1,
    /// The keeper has no such container.
    NoContainer = 2,
    /// It has that container already.
    Exists = 3,
    /// The container has ended.
    Ended = 4,
    /// The container has no terminal.
    NoTerminal = 5,
    /// A system call failed.
    System = 6,
    /// The message was not understood.
    Protocol = 7,
    /// There are containers.
    NotEmpty = 8,
    /// A command of a runtime failed: `step` is its position, `errno` its wait status.
    Runtime = 9,
}

/// Keeper to daemon, unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A container's first process ended; repeated for every connection until forgotten.
    Exited {
        /// Container.
        id: String,
        /// How.
        exit: Exit,
    },
}

/// What a daemon receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromKeeper {
    /// Answer to the request with this number.
    Reply(u32, Reply),
    /// An event.
    Event(Event),
}

fn unknown(field: &'static str, value: u8) -> WireError {
    WireError::Unknown {
        field,
        value: value.into(),
    }
}

impl Request {
    /// As a packet.
    pub fn encode(&self, number: u32) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(KIND_REQUEST).u32(number);
        match self {
            Request::Hello { version, epoch } => w.u8(1).u32(*version).u64(*epoch),
            Request::Launch { plan } => w.u8(2).bytes(plan),
            Request::Signal { id, signo } => w.u8(3).bytes(id.as_bytes()).i32(*signo),
            Request::Resize { id, rows, columns } => {
                w.u8(4).bytes(id.as_bytes()).u16(*rows).u16(*columns)
            }
            Request::CloseStdin { id } => w.u8(5).bytes(id.as_bytes()),
            Request::HandOver { id } => w.u8(6).bytes(id.as_bytes()),
            Request::Forget { id } => w.u8(7).bytes(id.as_bytes()),
            Request::List { from_slot } => w.u8(8).u32(*from_slot),
            Request::SetRing { epoch } => w.u8(9).u64(*epoch),
            Request::ShutdownIfEmpty => w.u8(10),
            Request::Inherit => w.u8(11),
            Request::Adopt(adopt) => adopt.encode(w.u8(12)),
            Request::Runtime { plan } => w.u8(13).bytes(plan),
        };
        w.finish()
    }

    /// From a packet: number and request.
    pub fn decode(bytes: &[u8]) -> Result<(u32, Request), WireError> {
        let mut r = Reader::new(bytes);
        let kind = r.u8()?;
        if kind != KIND_REQUEST {
            return Err(unknown("packet kind", kind));
        }
        let number = r.u32()?;
        let request = match r.u8()? {
            1 => Request::Hello {
                version: r.u32()?,
                epoch: r.u64()?,
            },
            2 => Request::Launch {
                plan: r.bytes()?.to_vec(),
            },
            3 => Request::Signal {
                id: r.string()?,
                signo: r.i32()?,
            },
            4 => Request::Resize {
                id: r.string()?,
                rows: r.u16()?,
                columns: r.u16()?,
            },
            5 => Request::CloseStdin { id: r.string()? },
            6 => Request::HandOver { id: r.string()? },
            7 => Request::Forget { id: r.string()? },
            8 => Request::List {
                from_slot: r.u32()?,
            },
            9 => Request::SetRing { epoch: r.u64()? },
            10 => Request::ShutdownIfEmpty,
            11 => Request::Inherit,
            12 => Request::Adopt(Adopt::decode(&mut r)?),
            13 => Request::Runtime {
                plan: r.bytes()?.to_vec(),
            },
            n => return Err(unknown("request", n)),
        };
        Ok((number, request))
    }

    /// Number of a request whose body may be of a newer version.
    pub fn number_of(bytes: &[u8]) -> Option<u32> {
        let mut r = Reader::new(bytes);
        (r.u8().ok()? == KIND_REQUEST)
            .then(|| r.u32().ok())
            .flatten()
    }
}

impl Adopt {
    fn encode<'a>(&self, w: &'a mut Writer) -> &'a mut Writer {
        w.bytes(self.id.as_bytes())
            .option(self.slot, |w, slot| {
                w.u32(slot);
            })
            .i32(self.pid)
            .u64(self.start_time_ticks)
            .bool(self.log_nonblocking)
            .bool(self.stdin)
            .bool(self.stdout)
            .bool(self.stderr)
            .bool(self.tty_master)
            .bool(self.oom_counter)
    }

    fn decode(r: &mut Reader<'_>) -> Result<Adopt, WireError> {
        Ok(Adopt {
            id: r.string()?,
            slot: r.option(Reader::u32)?,
            pid: r.i32()?,
            start_time_ticks: r.u64()?,
            log_nonblocking: r.bool()?,
            stdin: r.bool()?,
            stdout: r.bool()?,
            stderr: r.bool()?,
            tty_master: r.bool()?,
            oom_counter: r.bool()?,
        })
    }
}

impl Exit {
    fn encode(&self, w: &mut Writer) {
        w.i32(self.wait_status).u64(self.exited_at_unix_ns);
        w.u64(self.user_us)
            .u64(self.system_us)
            .u64(self.maxrss_kib)
            .bool(self.oom_killed);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Exit, WireError> {
        Ok(Exit {
            wait_status: r.i32()?,
            exited_at_unix_ns: r.u64()?,
            user_us: r.u64()?,
            system_us: r.u64()?,
            maxrss_kib: r.u64()?,
            oom_killed: r.bool()?,
        })
    }
}

impl Entry {
    fn encode(&self, w: &mut Writer) {
        w.bytes(self.id.as_bytes())
            .u32(self.slot)
            .u16(self.generation)
            .i32(self.pid);
        w.u64(self.start_time_ticks)
            .bool(self.tty)
            .bool(self.stdin_open)
            .u64(self.spill_bytes);
        w.option(self.exit.as_ref(), |w, exit| exit.encode(w));
    }

    fn decode(r: &mut Reader<'_>) -> Result<Entry, WireError> {
        Ok(Entry {
            id: r.string()?,
            slot: r.u32()?,
            generation: r.u16()?,
            pid: r.i32()?,
            start_time_ticks: r.u64()?,
            tty: r.bool()?,
            stdin_open: r.bool()?,
            spill_bytes: r.u64()?,
            exit: r.option(Exit::decode)?,
        })
    }
}

impl Reply {
    /// As a packet.
    pub fn encode(&self, number: u32) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(KIND_REPLY).u32(number);
        match self {
            Reply::Hello {
                version,
                pid,
                containers,
            } => w.u8(1).u32(*version).i32(*pid).u32(*containers),
            Reply::Launched {
                pid,
                start_time_ticks,
                slot,
                generation,
            } => w
                .u8(2)
                .i32(*pid)
                .u64(*start_time_ticks)
                .u32(*slot)
                .u16(*generation),
            Reply::HandOver {
                stdin,
                stdout,
                stderr,
                tty_master,
                spill,
                spill_bytes,
            } => w
                .u8(3)
                .bool(*stdin)
                .bool(*stdout)
                .bool(*stderr)
                .bool(*tty_master)
                .bool(*spill)
                .u64(*spill_bytes),
            Reply::List { entries, next_slot } => {
                w.u8(4)
                    .list(entries, |w, e| e.encode(w))
                    .option(*next_slot, |w, slot| {
                        w.u32(slot);
                    })
            }
            Reply::Done => w.u8(5),
            Reply::Failed {
                failure,
                step,
                detail,
                errno,
            } => w
                .u8(6)
                .u8(*failure as u8)
                .u32(*step)
                .u32(*detail)
                .i32(*errno),
        };
        w.finish()
    }

    fn decode(r: &mut Reader<'_>) -> Result<Reply, WireError> {
        Ok(match r.u8()? {
            1 => Reply::Hello {
                version: r.u32()?,
                pid: r.i32()?,
                containers: r.u32()?,
            },
            2 => Reply::Launched {
                pid: r.i32()?,
                start_time_ticks: r.u64()?,
                slot: r.u32()?,
                generation: r.u16()?,
            },
            3 => Reply::HandOver {
                stdin: r.bool()?,
                stdout: r.bool()?,
                stderr: r.bool()?,
                tty_master: r.bool()?,
                spill: r.bool()?,
                spill_bytes: r.u64()?,
            },
            4 => Reply::List {
                entries: r.list(Entry::decode)?,
                next_slot: r.option(Reader::u32)?,
            },
            5 => Reply::Done,
            6 => Reply::Failed {
                failure: Failure::from_number(r.u8()?)?,
                step: r.u32()?,
                detail: r.u32()?,
                errno: r.i32()?,
            },
            n => return Err(unknown("reply", n)),
        })
    }
}

impl Failure {
    fn from_number(n: u8) -> Result<Failure, WireError> {
        Ok(match n {
            1 => Failure::Launch,
            2 => Failure::NoContainer,
            3 => Failure::Exists,
            4 => Failure::Ended,
            5 => Failure::NoTerminal,
            6 => Failure::System,
            7 => Failure::Protocol,
            8 => Failure::NotEmpty,
            9 => Failure::Runtime,
            n => return Err(unknown("failure", n)),
        })
    }
}

impl Event {
    /// As a packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(KIND_EVENT).u32(0);
        match self {
            Event::Exited { id, exit } => exit.encode(w.u8(1).bytes(id.as_bytes())),
        }
        w.finish()
    }
}

impl FromKeeper {
    /// From a packet.
    pub fn decode(bytes: &[u8]) -> Result<FromKeeper, WireError> {
        let mut r = Reader::new(bytes);
        let kind = r.u8()?;
        let number = r.u32()?;
        match kind {
            KIND_REPLY => Ok(FromKeeper::Reply(number, Reply::decode(&mut r)?)),
            KIND_EVENT => match r.u8()? {
                1 => Ok(FromKeeper::Event(Event::Exited {
                    id: r.string()?,
                    exit: Exit::decode(&mut r)?,
                })),
                n => Err(unknown("event", n)),
            },
            n => Err(unknown("packet kind", n)),
        }
    }
}
