//! What happens to the tasks of a group: listing, freezing, killing, removing.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::detect::{Controller, Version};
use crate::error::CgroupError;
use crate::group::Group;
use crate::sysfs;

/// Nested groups below one container's that are looked at.
pub const MAX_NESTED_GROUPS: usize = 10_000;
/// How long a group may take to freeze.
pub const FREEZE_TIMEOUT_MS: u64 = 2_000;
/// How often all processes of a group are killed before giving up.
pub const KILL_ROUNDS: usize = 100;
/// How often a busy directory is tried again.
pub const REMOVE_ATTEMPTS: usize = 20;

/// Freezing before a kill only guards against reused pids; a stuck task must not delay the others.
const KILL_FREEZE_TIMEOUT: Duration = Duration::from_millis(100);
const KILL_PAUSE: Duration = Duration::from_millis(5);
const FREEZE_PAUSE: Duration = Duration::from_millis(1);
/// A v1 group that forks while it freezes can stay half frozen: it is thawed and tried again.
const FREEZE_RETRY_EVERY: u32 = 50;
const REMOVE_FIRST_PAUSE: Duration = Duration::from_millis(1);
const REMOVE_LONGEST_PAUSE: Duration = Duration::from_millis(50);

impl Group {
    /// The processes of the group and of groups inside it, ascending. Empty if it is gone.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        if let Some(root) = self.list_path() {
            for dir in tree(root)? {
                let Some(text) = sysfs::read_if_there(&dir, "cgroup.procs")? else {
                    continue;
                };
                // 0 stands for a process of a pid namespace that is not below ours.
                let ids = text.lines().filter_map(|line| line.parse::<i32>().ok());
                pids.extend(ids.filter(|pid| *pid > 0));
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// A hierarchy every process of the group is in: v1's if there are any, as a launcher may
    /// leave the empty cgroup2 of a hybrid host alone.
    fn list_path(&self) -> Option<&Path> {
        [
            Controller::Pids,
            Controller::Freezer,
            Controller::Memory,
            Controller::Devices,
        ]
        .into_iter()
        .find_map(|controller| match self.version {
            Version::V2 => None,
            Version::V1 | Version::Hybrid => self.path(controller),
        })
        .or_else(|| self.v2_path())
    }

    /// Stops every task of the group, and returns when all have stopped.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let frozen = self.try_freeze(Duration::from_millis(FREEZE_TIMEOUT_MS));
        if frozen.is_err() {
            self.thaw()?; // never half frozen
        }
        frozen
    }

    /// Lets the tasks of the group go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        match self.freezer()? {
            Freezer::V1(dir) => sysfs::write(dir, "freezer.state", "THAWED"),
            Freezer::V2(dir) => sysfs::write(dir, "cgroup.freeze", "0"),
        }
    }

    /// Whether every task of the group is stopped.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        Ok(self.freezer()?.state()?.0)
    }

    fn try_freeze(&self, timeout: Duration) -> Result<(), CgroupError> {
        let freezer = self.freezer()?;
        let start = Instant::now();
        let mut tries = 0u32;
        loop {
            match freezer {
                Freezer::V1(dir) => {
                    if tries % FREEZE_RETRY_EVERY == FREEZE_RETRY_EVERY - 1 {
                        sysfs::write(dir, "freezer.state", "THAWED")?;
                    }
                    sysfs::write(dir, "freezer.state", "FROZEN")?;
                }
                Freezer::V2(dir) if tries == 0 => sysfs::write(dir, "cgroup.freeze", "1")?,
                Freezer::V2(_) => {}
            }
            let (frozen, state) = freezer.state()?;
            if frozen {
                return Ok(());
            }
            if start.elapsed() >= timeout {
                return Err(CgroupError::FreezeTimeout {
                    path: freezer.dir().to_owned(),
                    waited_ms: start.elapsed().as_millis() as u64,
                    state,
                });
            }
            tries += 1;
            thread::sleep(FREEZE_PAUSE);
        }
    }

    /// The freezer: v1's if the host has it there, else every cgroup2 directory is one.
    fn freezer(&self) -> Result<Freezer<'_>, CgroupError> {
        let v1 = match self.version {
            Version::V2 => None,
            Version::V1 | Version::Hybrid => self.path(Controller::Freezer),
        };
        v1.map(Freezer::V1)
            .or_else(|| self.v2_path().map(Freezer::V2))
            .ok_or_else(|| CgroupError::MissingControllers {
                names: Controller::Freezer.name().to_owned(),
                cause: "a version 1 host without it cannot pause containers",
            })
    }

    /// Kills every process of the group, frozen or not, and returns when none is left.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        let mut left = 0;
        for round in 0..KILL_ROUNDS {
            if round > 0 {
                thread::sleep(KILL_PAUSE);
            }
            let at_once = self.kill_at_once()?;
            left = self.pids()?.len();
            if left == 0 {
                return Ok(());
            }
            // The kernel's way needs no help but time. On a hybrid host the processes may not be in
            // its hierarchy: if some are left after the first round, they are not.
            if !at_once || (self.version != Version::V2 && round > 0) {
                left = self.kill_frozen()?;
            }
            if left == 0 {
                return Ok(());
            }
        }
        Err(CgroupError::KillIncomplete {
            path: PathBuf::from(self.relative()),
            left,
            rounds: KILL_ROUNDS,
        })
    }

    /// One write that kills all, on kernels from 5.14 that have a cgroup2 directory.
    fn kill_at_once(&self) -> Result<bool, CgroupError> {
        match self.v2_path() {
            Some(dir) => sysfs::write_if_there(dir, "cgroup.kill", "1"),
            None => Ok(false),
        }
    }

    /// Kills one by one while nothing in the group can fork or exit: a pid that was read cannot
    /// be another process's when the signal is sent. Returns how many were there.
    fn kill_frozen(&self) -> Result<usize, CgroupError> {
        let frozen = self.try_freeze(KILL_FREEZE_TIMEOUT);
        let signalled = self.pids().and_then(|pids| {
            for pid in &pids {
                signal_kill(*pid)?;
            }
            Ok(pids.len())
        });
        let thawed = self.thaw();
        let signalled = signalled?;
        match (frozen, thawed) {
            // A task in an uninterruptible sleep keeps a group from freezing; it was signalled.
            (Ok(()) | Err(CgroupError::FreezeTimeout { .. }), Ok(())) => Ok(signalled),
            // No freezer at all: signalled just the same.
            (Err(CgroupError::MissingControllers { .. }), _) => Ok(signalled),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    /// Removes the group and groups inside it from every hierarchy. What is already gone is
    /// fine, so it can be repeated; the first error is reported after all were tried.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut first = Ok(());
        for dir in &self.dirs {
            let result = remove_tree(&dir.path);
            first = first.and(result);
        }
        first
    }
}

#[derive(Debug, Clone, Copy)]
enum Freezer<'a> {
    V1(&'a Path),
    V2(&'a Path),
}

impl Freezer<'_> {
    fn dir(&self) -> &Path {
        match self {
            Freezer::V1(dir) | Freezer::V2(dir) => dir,
        }
    }

    /// Whether it is frozen, and in the kernel's words.
    fn state(&self) -> Result<(bool, String), CgroupError> {
        match self {
            Freezer::V1(dir) => {
                let state = sysfs::read(dir, "freezer.state")?.trim().to_owned();
                Ok((state == "FROZEN", state))
            }
            Freezer::V2(dir) => {
                let events = sysfs::read(dir, "cgroup.events")?;
                let frozen = sysfs::keyed(&events, "frozen") == Some(1);
                Ok((frozen, events.replace('\n', ", ")))
            }
        }
    }
}

fn signal_kill(pid: i32) -> Result<(), CgroupError> {
    let Some(process) = Pid::from_raw(pid) else {
        return Ok(());
    };
    match kill_process(process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(CgroupError::io(
            "kill",
            format!("process {pid}"),
            error.into(),
        )),
    }
}

/// A directory and all below it, parents before children.
fn tree(root: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let mut dirs = vec![root.to_owned()];
    let mut next = 0;
    while next < dirs.len() {
        let children = sysfs::child_dirs(&dirs[next])?;
        dirs.extend(children);
        next += 1;
        if dirs.len() > MAX_NESTED_GROUPS {
            return Err(CgroupError::TooManyNestedGroups {
                path: root.to_owned(),
            });
        }
    }
    Ok(dirs)
}

fn remove_tree(root: &Path) -> Result<(), CgroupError> {
    // Nearly always there is nothing inside.
    match fs::remove_dir(root) {
        Ok(()) => return Ok(()),
        Err(error) if sysfs::is_gone(&error) => return Ok(()),
        Err(_) => {}
    }
    for dir in tree(root)?.iter().rev() {
        remove_one(dir)?;
    }
    Ok(())
}

fn remove_one(dir: &Path) -> Result<(), CgroupError> {
    let mut pause = REMOVE_FIRST_PAUSE;
    for _ in 0..REMOVE_ATTEMPTS {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if sysfs::is_gone(&error) => return Ok(()),
            // A task that is just leaving, or a child group that somebody still makes.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => thread::sleep(pause),
            Err(error) => return Err(CgroupError::io("remove", dir, error)),
        }
        pause = (pause * 2).min(REMOVE_LONGEST_PAUSE);
    }
    Err(CgroupError::Busy {
        path: dir.to_owned(),
        attempts: REMOVE_ATTEMPTS,
    })
}
