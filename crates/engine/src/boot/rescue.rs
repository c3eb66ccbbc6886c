//! Containers that run although daemon and keeper died: found again by process id, start time and control group. What
//! they printed meanwhile is in their pipes, if anybody still holds those; the rest is declared lost.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use gantry_cgroup::Group;
use gantry_launch::{AdoptedContainer, Orphan, oom_counter};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::adopt::{self, Slot};
use super::untaken::Kept;
use crate::container::{Container, files};
use crate::launch_spec::{cgroup_parent, log_is_nonblocking};
use crate::model::ContainerId;
use crate::orphan::ProcessName;
use crate::shard::ShardEngine;
use crate::{EngineError, exec};

/// What is recorded of a container that went on without anybody.
const GAP: &str =
    "the daemon and the container's keeper died; output of that time may be missing from the log";
/// The kernel's PIPEFS_MAGIC.
const PIPEFS_MAGIC: i64 = 0x5049_5045;

/// What became of a container that no keeper had.
pub(super) enum Rescued {
    /// It is taken over.
    Taken,
    /// It does not run.
    Gone,
    /// A keeper has it now, and it could not be taken over from that.
    Kept(Kept, EngineError),
}

/// Takes a container over that its record says runs and no keeper has.
pub(super) async fn rescue(
    shard: &Rc<ShardEngine>,
    container: &Rc<Container>,
) -> Result<Rescued, EngineError> {
    let process = container.process();
    let found = container.id.clone();
    let (tty, open_stdin) = (
        container.fixed.config.tty,
        container.fixed.config.open_stdin,
    );
    let looked = files::on_worker(move || look(process, &found, tty, open_stdin));
    let Some(mut orphan) = looked.await? else {
        return Ok(Rescued::Gone);
    };
    orphan.log_nonblocking = log_is_nonblocking(&container.fixed.host);
    let parent = cgroup_parent(&shard.shared, &container.fixed.host);
    let (hierarchy, id) = (shard.shared.seccomp.hierarchy.clone(), container.id.clone());
    let counter =
        files::on_worker(move || Ok(oom_counter(&Group::open(&hierarchy, &parent, &id)?)));
    orphan.oom_counter = counter.await?;
    let link = shard.keeper()?;
    // Later the keeper's own task does it.
    if link.client().is_gone() && !shard.booted.get() {
        link.succeed(&shard.shared.config).await?;
    }
    let slot = link.adopt_orphan(&orphan).await?;
    let found = AdoptedContainer {
        id: container.id.to_string(),
        slot,
        generation: 0,
        pid: process.pid,
        start_time_ticks: process.start_time_ticks,
        tty,
        stdin_open: orphan.stdin.is_some(),
        spill_bytes: 0,
        exit: None,
    };
    let streams = orphan.stdout.is_some() || orphan.stderr.is_some();
    drop(orphan);
    tracing::warn!(id = %container.id, pid = process.pid, streams,
        "a container went on while neither daemon nor keeper were there");
    let kept = Kept::new(link, found, Slot::New);
    match adopt::adopt(container, &kept.link, kept.found.clone(), Slot::New).await {
        Ok(_) => {
            tell(container).await;
            Ok(Rescued::Taken)
        }
        Err(e) => Ok(Rescued::Kept(kept, e)),
    }
}

/// What a rescued container's record says, and the end of its execs, which nobody knows any more.
pub(super) async fn tell(container: &Rc<Container>) {
    container.amend(|inner| inner.state.error = GAP.to_owned());
    let journaled = container.shard.journal_append(&container.journal_entry());
    if let Err(e) = journaled {
        tracing::error!(id = %container.id, error = %e, "that output may be missing could not be recorded");
    }
    exec::stray::end_all(container).await;
}

/// Blocks.
fn look(
    process: ProcessName,
    id: &ContainerId,
    tty: bool,
    open_stdin: bool,
) -> Result<Option<Orphan>, EngineError> {
    let failed = |e| EngineError::io(format!("look for process {}", process.pid), e);
    let Some(pidfd) = process.open().map_err(failed)? else {
        return Ok(None);
    };
    if process.stat().is_none_or(|s| matches!(s.state, 'Z' | 'X')) {
        return Ok(None);
    }
    // A file under exec-root may be older than the machine's start: the group says that it is the same process.
    let groups =
        std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).map_err(failed)?;
    if !groups.contains(&**id) {
        return Ok(None);
    }
    let pipe = |fd: i32, flags: OFlags| match tty {
        true => None,
        false => pipe_of(process.pid, fd, flags),
    };
    Ok(Some(Orphan {
        id: id.to_string(),
        slot: None,
        pid: process.pid,
        start_time_ticks: process.start_time_ticks,
        log_nonblocking: false,
        pidfd,
        stdin: pipe(0, OFlags::WRONLY).filter(|_| open_stdin),
        stdout: pipe(1, OFlags::RDONLY),
        stderr: pipe(2, OFlags::RDONLY),
        tty_master: None,
        oom_counter: None,
    }))
}

/// The other end of a pipe that a process has as this descriptor. What it has there is its own doing: nothing but a pipe
/// is opened.
fn pipe_of(pid: i32, fd: i32, flags: OFlags) -> Option<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let path = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::open(format!("/proc/{pid}/fd/{fd}"), path, Mode::empty()).ok()?;
    let stat = rustix::fs::statat(&found, "", AtFlags::EMPTY_PATH).ok()?;
    let fs = rustix::fs::fstatfs(&found).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo || fs.f_type as i64 != PIPEFS_MAGIC {
        return None;
    }
    // Not blocking: the container may close its end in this moment.
    let own = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&found.as_fd())
    );
    let opened = rustix::fs::open(own, flags | OFlags::NONBLOCK, Mode::empty()).ok()?;
    Some(opened)
}

/// Spills that a keeper left that died, of containers and execs that are not there any more.
pub(super) async fn remove_left_spills(shard: &Rc<ShardEngine>, containers: &[Rc<Container>]) {
    let ended: std::collections::HashSet<String> = containers
        .iter()
        .filter(|c| !c.has_process())
        .map(|c| c.id.to_string())
        .collect();
    let root = shard.shared.config.exec_root.clone();
    let removed = files::on_worker(move || {
        let failed = |e| EngineError::io("look for left spills", e);
        for file in std::fs::read_dir(&root).map_err(failed)? {
            let file = file.map_err(failed)?;
            let name = file.file_name();
            let of = name.to_str().and_then(|n| n.strip_prefix("spill-"));
            let of = of.map(|id| id.strip_suffix(".lines").unwrap_or(id));
            let container = of.map(|id| exec::parse_key(id).map_or(id, |(container, _)| container));
            if container.is_some_and(|id| ended.contains(id)) {
                std::fs::remove_file(file.path()).map_err(failed)?;
            }
        }
        Ok(())
    });
    if let Err(e) = removed.await {
        tracing::warn!(error = %e, "spills of ended containers are left");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn only_pipes_are_opened() {
        let own = std::process::id() as i32;
        let (mut read, mut write) = std::io::pipe().expect("pipe");
        let number = |fd: &dyn std::os::fd::AsRawFd| fd.as_raw_fd();
        write.write_all(b"x").expect("write");
        let mut again = File::from(pipe_of(own, number(&write), OFlags::RDONLY).expect("a pipe"));
        let mut buf = [0; 1];
        again.read_exact(&mut buf).expect("read");
        assert_eq!(&buf, b"x");
        assert!(pipe_of(own, number(&read), OFlags::WRONLY).is_some());
        let file = File::open("/dev/zero").expect("open");
        assert!(pipe_of(own, number(&file), OFlags::RDONLY).is_none());
        drop(write);
        drop(again);
        assert_eq!(read.read(&mut buf).expect("end"), 0);
    }
}
