//! The launch plan: everything a container's first process does between clone and exec, decided beforehand.
//!
//! The daemon makes it (nothing in it is looked up in the keeper's namespaces: files come as descriptors, paths are
//! the container's own), the keeper decodes it before the clone, and the child only walks through it.

mod hooks;
mod step;
mod user;

use std::ffi::CString;

pub use hooks::{HookCommand, HookEnd, HookPlan, MAX_HOOKS};
pub use step::Step;
pub use user::{UserNamespace, UserSource};

use crate::msg::{EXEC_VERSION, HOOKS_VERSION, NAMESPACES_VERSION, OLDEST_VERSION, RIGHTS_VERSION};
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
    /// The container's terminal, by where it is inside.
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
    /// The container has a user namespace of its own, which is joined too (since protocol version 4).
    pub user_namespace: bool,
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
    /// v1: `tasks` (or `cgroup.procs`) of every hierarchy.
    pub cgroup_procs: Vec<FdIndex>,
    /// A cgroup namespace of its own.
    pub cgroup_namespace: bool,
    /// File whose `oom_kill` line counts OOM kills.
    pub oom_counter: Option<FdIndex>,
    /// Network namespace.
    pub network: Namespace,
    /// Process ids. One that is not new has other processes in it: then `may_block` is set too, because what they
    /// could trace must not share the keeper's memory. One that is joined is entered by the last process of the launch,
    /// so no mount of the plan may be a new proc: the daemon brings one of that namespace.
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
    /// The user namespace, if it is not the keeper's (since protocol version 4). `may_block` is set too.
    pub user: Option<UserNamespace>,
    /// AppArmor's profile of the program (since protocol version 4).
    pub apparmor_profile: Option<CString>,
    /// With a joined pid namespace: as [`Join::filter_last`] (since protocol version 4).
    pub filter_last: bool,
    /// Hooks (since protocol version 7). `may_block` is set too.
    pub hooks: Option<HookPlan>,
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
        let version = self.oldest_keeper();
        if version >= NAMESPACES_VERSION {
            self.pid.encode(&mut w);
            self.ipc.encode(&mut w);
            w.bool(self.host_uts);
        }
        if version >= RIGHTS_VERSION {
            w.option(self.user.as_ref(), |w, user| user.encode(w));
            w.option(self.apparmor_profile.as_ref(), |w, profile| {
                w.bytes(profile.as_bytes());
            });
            w.bool(self.filter_last);
            w.bool(self.join.is_some_and(|join| join.user_namespace));
        }
        if version >= HOOKS_VERSION {
            w.option(self.hooks.as_ref(), |w, hooks| hooks.encode(w));
        }
        w.finish()
    }

    /// Protocol version of the oldest keeper that can do this. An older one would not see what it is asked for.
    pub fn oldest_keeper(&self) -> u32 {
        let rights = self.user.is_some()
            || self.apparmor_profile.is_some()
            || matches!(self.pid, Namespace::Join(_))
            || self.join.is_some_and(|join| join.user_namespace);
        let shares = self.pid != Namespace::New || self.ipc != Namespace::New || self.host_uts;
        match (rights, shares, self.join) {
            _ if self.hooks.is_some() => HOOKS_VERSION,
            (true, ..) => RIGHTS_VERSION,
            (_, true, _) => NAMESPACES_VERSION,
            (.., Some(_)) => EXEC_VERSION,
            _ => OLDEST_VERSION,
        }
    }

    /// Whether the process that is cloned makes another one, which executes the program.
    pub fn is_staged(&self) -> bool {
        self.join.is_some() || self.user.is_some() || matches!(self.pid, Namespace::Join(_))
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
                        user_namespace: false,
                    })
                })?
            },
            pid: Namespace::New,
            ipc: Namespace::New,
            host_uts: false,
            user: None,
            apparmor_profile: None,
            filter_last: false,
            hooks: None,
        };
        // Plans that share nothing end here.
        if !r.is_empty() {
            plan.pid = Namespace::decode(&mut r, fds)?;
            plan.ipc = Namespace::decode(&mut r, fds)?;
            plan.host_uts = r.bool()?;
        }
        // Plans of version 3 end here.
        if !r.is_empty() {
            plan.user = r.option(|r| UserNamespace::decode(r, fds))?;
            plan.apparmor_profile = r.option(Reader::cstring)?;
            plan.filter_last = r.bool()?;
            let user_namespace = r.bool()?;
            if let Some(join) = plan.join.as_mut() {
                join.user_namespace = user_namespace;
            }
        }
        // Plans of version 6 end here.
        if !r.is_empty() {
            plan.hooks = r.option(|r| HookPlan::decode(r, fds))?;
        }
        plan.check()?;
        Ok(plan)
    }

    /// What is decodable and may not be.
    fn check(&self) -> Result<(), WireError> {
        let refuse = |field: &'static str, value: u64| Err(WireError::Unknown { field, value });
        if (self.pid != Namespace::New || self.user.is_some()) && !self.may_block {
            // The child would share the keeper's memory in sight of others, or wait for a process that waits for it.
            return refuse(
                "shared pid namespace or user namespace without may_block",
                0,
            );
        }
        let proc = |op: &MountOp| op.source == MountSource::Proc;
        if matches!(self.pid, Namespace::Join(_)) && self.mounts.iter().any(proc) {
            // It would be the host's. Daemons of version 3 send this.
            return refuse("a new proc in a joined pid namespace", 0);
        }
        if self.pid == Namespace::Host && self.user.is_some() {
            return refuse("a user namespace in the host's pid namespace", 0);
        }
        let new_user = |user: &UserNamespace| matches!(user.source, UserSource::New { .. });
        if matches!(self.pid, Namespace::Join(_)) && self.user.as_ref().is_some_and(new_user) {
            return refuse("a new user namespace in a joined pid namespace", 0);
        }
        if self.hooks.is_some() && (!self.may_block || self.join.is_some()) {
            return refuse("hooks without may_block, or of an exec", 0);
        }
        if !self.seccomp.len().is_multiple_of(8) {
            return refuse("seccomp length", self.seccomp.len() as u64);
        }
        Ok(())
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
mod tests;
