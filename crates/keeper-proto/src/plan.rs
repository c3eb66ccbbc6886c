//! The launch plan: everything a container's first process does between clone and exec, decided beforehand.
//!
//! The daemon makes it (nothing in it is looked up in the keeper's namespaces: files come as descriptors, paths are
//! the container's own), the keeper decodes it before the clone, and the child only walks through it.

mod step;

use std::ffi::CString;

pub use step::Step;

use crate::wire::{Reader, WireError, Writer};

/// Position of a descriptor in the message that carries the plan.
pub type FdIndex = u8;

/// Capability sets, one bit per capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilityMasks {
    /// What can ever be gained.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// Can be put in force.
    pub permitted: u64,
    /// Kept over exec of files that ask for it.
    pub inheritable: u64,
    /// Kept over exec without asking.
    pub ambient: u64,
}

/// A resource limit of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// Number of the resource (`RLIMIT_*`).
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Where a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A detached tree.
    Tree(FdIndex),
    /// A new proc of the container's pid namespace.
    Proc,
    /// A new sysfs of the container's network namespace.
    Sysfs,
    /// A new mqueue of the container's ipc namespace.
    Mqueue,
    /// Something that is already there inside the container.
    Inside(CString),
}

/// One mount, in the order of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOp {
    /// What.
    pub source: MountSource,
    /// Path in the container; symbolic links are followed inside it.
    pub target: CString,
    /// `MOUNT_ATTR_*` of a new file system (trees carry their own).
    pub attributes: u64,
    /// Refuse a target that goes through a symbolic link (proc, sysfs).
    pub no_symlinks: bool,
}

/// Where one of the child's namespaces comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// A new one; of a new network the loopback interface is up.
    New,
    /// The keeper's, which is the host's.
    Host,
    /// The one behind this descriptor (a namespace or a pidfd).
    Join(FdIndex),
}

impl Namespace {
    fn encode(self, w: &mut Writer) {
        match self {
            Namespace::New => w.u8(0),
            Namespace::Host => w.u8(1),
            Namespace::Join(fd) => w.u8(2).u8(fd),
        };
    }

    fn decode(r: &mut Reader<'_>, fds: usize) -> Result<Namespace, WireError> {
        match r.u8()? {
            0 => Ok(Namespace::New),
            1 => Ok(Namespace::Host),
            2 => match r.u8()? {
                fd if usize::from(fd) < fds => Ok(Namespace::Join(fd)),
                fd => Err(WireError::NoFd(fd)),
            },
            n => Err(WireError::Unknown {
                field: "namespace",
                value: n.into(),
            }),
        }
    }
}

/// Standard streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StdioFds {
    /// The container's end of standard input; /dev/null without.
    pub stdin_read: Option<FdIndex>,
    /// Kept by the keeper until close-stdin.
    pub stdin_write: Option<FdIndex>,
    /// Kept by the keeper.
    pub stdout_read: Option<FdIndex>,
    /// The container's end.
    pub stdout_write: Option<FdIndex>,
    /// Kept by the keeper.
    pub stderr_read: Option<FdIndex>,
    /// The container's end.
    pub stderr_write: Option<FdIndex>,
    /// Kept by the keeper.
    pub tty_master: Option<FdIndex>,
    /// The container's terminal.
    pub tty_slave: Option<FdIndex>,
}

/// A further process of a container that runs (an exec), instead of a first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// A pidfd of the container's first process, whose namespaces are joined.
    pub pidfd: FdIndex,
    /// The filter does not let the process that enters the container make the one that executes the program: that
    /// one loads it itself, last.
    pub filter_last: bool,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Container id; of an exec: container id, a dot, exec id.
    pub id: String,
    /// Clone without sharing memory and without waiting: something on the way to exec may hang.
    pub may_block: bool,
    /// A full spill is declared as a gap instead of blocking the container.
    pub log_nonblocking: bool,
    /// The root file system, detached. Without meaning for an exec, as are host name, mounts, sysctls and masks.
    pub rootfs: FdIndex,
    /// v2: the directory to be born in.
    pub cgroup_dir: Option<FdIndex>,
    /// v1: `cgroup.procs` of every hierarchy.
    pub cgroup_procs: Vec<FdIndex>,
    /// A cgroup namespace of its own.
    pub cgroup_namespace: bool,
    /// File whose `oom_kill` line counts OOM kills.
    pub oom_counter: Option<FdIndex>,
    /// Network namespace.
    pub network: Namespace,
    /// Process ids. One that is not new has other processes in it: then `may_block` is set too, because what they
    /// could trace must not share the keeper's memory.
    pub pid: Namespace,
    /// Semaphores, message queues, shared memory.
    pub ipc: Namespace,
    /// The host's names instead of `hostname` and `domainname`.
    pub host_uts: bool,
    /// Standard streams.
    pub stdio: StdioFds,
    /// Host name.
    pub hostname: CString,
    /// Domain name.
    pub domainname: CString,
    /// Mounts, in order.
    pub mounts: Vec<MountOp>,
    /// Paths below /proc/sys and what to write there.
    pub sysctls: Vec<(CString, Vec<u8>)>,
    /// Made inaccessible.
    pub masked_paths: Vec<CString>,
    /// An empty read-only tmpfs for masked directories.
    pub mask_dir: Option<FdIndex>,
    /// Made read-only.
    pub readonly_paths: Vec<CString>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Written to oom_score_adj.
    pub oom_score_adj: Option<i32>,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capabilities.
    pub capabilities: CapabilityMasks,
    /// No privileges by exec.
    pub no_new_privs: bool,
    /// The filter, 8 bytes per instruction; empty for none.
    pub seccomp: Vec<u8>,
    /// Directories to make on the way to the working directory, outermost first.
    pub cwd_parents: Vec<CString>,
    /// Working directory.
    pub cwd: CString,
    /// The program was named without a slash: candidates come from PATH.
    pub search_path: bool,
    /// Paths to try, in order.
    pub candidates: Vec<CString>,
    /// Arguments.
    pub argv: Vec<CString>,
    /// Environment.
    pub env: Vec<CString>,
    /// An exec (since protocol version 2).
    pub join: Option<Join>,
}

impl Plan {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(self.id.as_bytes())
            .bool(self.may_block)
            .bool(self.log_nonblocking);
        w.u8(self.rootfs);
        w.option(self.cgroup_dir, |w, fd| {
            w.u8(fd);
        });
        w.bytes(&self.cgroup_procs).bool(self.cgroup_namespace);
        w.option(self.oom_counter, |w, fd| {
            w.u8(fd);
        });
        self.network.encode(&mut w);
        for fd in self.stdio.list() {
            w.option(fd, |w, fd| {
                w.u8(fd);
            });
        }
        w.bytes(self.hostname.as_bytes())
            .bytes(self.domainname.as_bytes());
        w.list(&self.mounts, encode_mount);
        w.list(&self.sysctls, |w, (path, value)| {
            w.bytes(path.as_bytes()).bytes(value);
        });
        w.cstrs(&self.masked_paths);
        w.option(self.mask_dir, |w, fd| {
            w.u8(fd);
        });
        w.cstrs(&self.readonly_paths);
        w.list(&self.rlimits, |w, r| {
            w.u32(r.resource).u64(r.soft).u64(r.hard);
        });
        w.option(self.oom_score_adj, |w, v| {
            w.i32(v);
        });
        self.encode_process(&mut w);
        w.option(self.join, |w, join| {
            w.u8(join.pidfd).bool(join.filter_last);
        });
        if self.shares_namespaces() {
            self.pid.encode(&mut w);
            self.ipc.encode(&mut w);
            w.bool(self.host_uts);
        }
        w.finish()
    }

    /// Whether a namespace that is always new for keepers before
    /// [`crate::msg::NAMESPACES_VERSION`] is not. They would not see it.
    pub fn shares_namespaces(&self) -> bool {
        self.pid != Namespace::New || self.ipc != Namespace::New || self.host_uts
    }

    fn encode_process(&self, w: &mut Writer) {
        w.u32(self.uid).u32(self.gid);
        w.list(&self.groups, |w, g| {
            w.u32(*g);
        });
        let c = &self.capabilities;
        w.u64(c.bounding)
            .u64(c.effective)
            .u64(c.permitted)
            .u64(c.inheritable)
            .u64(c.ambient);
        w.bool(self.no_new_privs).bytes(&self.seccomp);
        w.cstrs(&self.cwd_parents).bytes(self.cwd.as_bytes());
        w.bool(self.search_path)
            .cstrs(&self.candidates)
            .cstrs(&self.argv)
            .cstrs(&self.env);
    }

    /// From bytes; `fds` descriptors came along.
    pub fn decode(bytes: &[u8], fds: usize) -> Result<Plan, WireError> {
        let mut r = Reader::new(bytes);
        let index = |r: &mut Reader<'_>| {
            let n = r.u8()?;
            if usize::from(n) < fds {
                Ok(n)
            } else {
                Err(WireError::NoFd(n))
            }
        };
        let mut plan = Plan {
            id: r.string()?,
            may_block: r.bool()?,
            log_nonblocking: r.bool()?,
            rootfs: index(&mut r)?,
            cgroup_dir: r.option(index)?,
            cgroup_procs: {
                let list = r.bytes()?.to_vec();
                match list.iter().find(|n| usize::from(**n) >= fds) {
                    Some(n) => return Err(WireError::NoFd(*n)),
                    None => list,
                }
            },
            cgroup_namespace: r.bool()?,
            oom_counter: r.option(index)?,
            network: Namespace::decode(&mut r, fds)?,
            stdio: StdioFds {
                stdin_read: r.option(index)?,
                stdin_write: r.option(index)?,
                stdout_read: r.option(index)?,
                stdout_write: r.option(index)?,
                stderr_read: r.option(index)?,
                stderr_write: r.option(index)?,
                tty_master: r.option(index)?,
                tty_slave: r.option(index)?,
            },
            hostname: r.cstring()?,
            domainname: r.cstring()?,
            mounts: r.list(|r| decode_mount(r, fds))?,
            sysctls: r.list(|r| Ok((r.cstring()?, r.bytes()?.to_vec())))?,
            masked_paths: r.cstrs()?,
            mask_dir: r.option(index)?,
            readonly_paths: r.cstrs()?,
            rlimits: r.list(|r| {
                Ok(Rlimit {
                    resource: r.u32()?,
                    soft: r.u64()?,
                    hard: r.u64()?,
                })
            })?,
            oom_score_adj: r.option(Reader::i32)?,
            uid: r.u32()?,
            gid: r.u32()?,
            groups: r.list(Reader::u32)?,
            capabilities: CapabilityMasks {
                bounding: r.u64()?,
                effective: r.u64()?,
                permitted: r.u64()?,
                inheritable: r.u64()?,
                ambient: r.u64()?,
            },
            no_new_privs: r.bool()?,
            seccomp: r.bytes()?.to_vec(),
            cwd_parents: r.cstrs()?,
            cwd: r.cstring()?,
            search_path: r.bool()?,
            candidates: r.cstrs()?,
            argv: r.cstrs()?,
            env: r.cstrs()?,
            // Plans of version 1 end here.
            join: if r.is_empty() {
                None
            } else {
                r.option(|r| {
                    Ok(Join {
                        pidfd: index(r)?,
                        filter_last: r.bool()?,
                    })
                })?
            },
            pid: Namespace::New,
            ipc: Namespace::New,
            host_uts: false,
        };
        // Plans that share nothing end here.
        if !r.is_empty() {
            plan.pid = Namespace::decode(&mut r, fds)?;
            plan.ipc = Namespace::decode(&mut r, fds)?;
            plan.host_uts = r.bool()?;
        }
        if plan.pid != Namespace::New && !plan.may_block {
            // The child would share the keeper's memory in sight of others.
            return Err(WireError::Unknown {
                field: "shared pid namespace without may_block",
                value: 0,
            });
        }
        if !plan.seccomp.len().is_multiple_of(8) {
            return Err(WireError::Unknown {
                field: "seccomp length",
                value: plan.seccomp.len() as u64,
            });
        }
        Ok(plan)
    }
}

impl StdioFds {
    fn list(&self) -> [Option<FdIndex>; 8] {
        [
            self.stdin_read,
            self.stdin_write,
            self.stdout_read,
            self.stdout_write,
            self.stderr_read,
            self.stderr_write,
            self.tty_master,
            self.tty_slave,
        ]
    }
}

fn encode_mount(w: &mut Writer, op: &MountOp) {
    match &op.source {
        MountSource::Tree(fd) => w.u8(0).u8(*fd),
        MountSource::Proc => w.u8(1),
        MountSource::Sysfs => w.u8(2),
        MountSource::Mqueue => w.u8(3),
        MountSource::Inside(path) => w.u8(4).bytes(path.as_bytes()),
    };
    w.bytes(op.target.as_bytes())
        .u64(op.attributes)
        .bool(op.no_symlinks);
}

fn decode_mount(r: &mut Reader<'_>, fds: usize) -> Result<MountOp, WireError> {
    let source = match r.u8()? {
        0 => {
            let fd = r.u8()?;
            if usize::from(fd) >= fds {
                return Err(WireError::NoFd(fd));
            }
            MountSource::Tree(fd)
        }
        1 => MountSource::Proc,
        2 => MountSource::Sysfs,
        3 => MountSource::Mqueue,
        4 => MountSource::Inside(r.cstring()?),
        n => {
            return Err(WireError::Unknown {
                field: "mount source",
                value: n.into(),
            });
        }
    };
    Ok(MountOp {
        source,
        target: r.cstring()?,
        attributes: r.u64()?,
        no_symlinks: r.bool()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(s: &str) -> CString {
        CString::new(s).expect("no NUL")
    }

    fn plan(join: Option<Join>) -> Plan {
        Plan {
            id: "c.e".into(),
            may_block: join.is_some(),
            log_nonblocking: false,
            rootfs: 0,
            cgroup_dir: Some(1),
            cgroup_procs: vec![2, 3],
            cgroup_namespace: join.is_none(),
            oom_counter: None,
            network: Namespace::Host,
            stdio: StdioFds {
                stdout_write: Some(1),
                ..StdioFds::default()
            },
            hostname: c("h"),
            domainname: c(""),
            mounts: Vec::new(),
            sysctls: Vec::new(),
            masked_paths: Vec::new(),
            mask_dir: None,
            readonly_paths: Vec::new(),
            rlimits: vec![Rlimit {
                resource: 7,
                soft: 1,
                hard: 2,
            }],
            oom_score_adj: Some(-5),
            uid: 1,
            gid: 2,
            groups: vec![2, 3],
            capabilities: CapabilityMasks::default(),
            no_new_privs: true,
            seccomp: vec![0; 16],
            cwd_parents: Vec::new(),
            cwd: c("/"),
            search_path: true,
            candidates: vec![c("/bin/true")],
            argv: vec![c("true")],
            env: vec![c("A=b")],
            join,
            pid: Namespace::New,
            ipc: Namespace::New,
            host_uts: false,
        }
    }

    #[test]
    fn shared_namespaces_come_back_and_memory_is_not_shared_in_sight_of_others() {
        let shared = Plan {
            may_block: true,
            pid: Namespace::Join(3),
            ipc: Namespace::Host,
            host_uts: true,
            ..plan(None)
        };
        assert_eq!(Plan::decode(&shared.encode(), 4), Ok(shared.clone()));
        assert_eq!(Plan::decode(&shared.encode(), 3), Err(WireError::NoFd(3)));
        for pid in [Namespace::Host, Namespace::Join(3)] {
            let unsafe_one = Plan {
                may_block: false,
                pid,
                ..shared.clone()
            };
            assert!(Plan::decode(&unsafe_one.encode(), 4).is_err());
        }
    }

    #[test]
    fn plans_come_back_as_they_went() {
        let join = |pidfd, filter_last| Some(Join { pidfd, filter_last });
        for plan in [plan(None), plan(join(3, false)), plan(join(0, true))] {
            assert_eq!(Plan::decode(&plan.encode(), 4), Ok(plan));
        }
    }

    #[test]
    fn a_plan_without_join_field_is_a_container() {
        let mut bytes = plan(None).encode();
        bytes.pop();
        assert_eq!(Plan::decode(&bytes, 4), Ok(plan(None)));
    }

    #[test]
    fn a_pidfd_that_was_not_sent_and_every_cut_are_refused() {
        let join = Some(Join {
            pidfd: 4,
            filter_last: false,
        });
        assert_eq!(
            Plan::decode(&plan(join).encode(), 4),
            Err(WireError::NoFd(4))
        );
        let bytes = plan(Some(Join {
            pidfd: 1,
            filter_last: false,
        }))
        .encode();
        // What is cut off exactly before the field is a plan of version 1.
        let version_1 = bytes.len() - 3;
        for len in (0..bytes.len()).filter(|len| *len != version_1) {
            assert!(Plan::decode(&bytes[..len], 4).is_err(), "{len}");
        }
    }
}
