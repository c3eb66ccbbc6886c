//! Hearing of kills for lack of memory while a group lives: one fd for any number of groups.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::detect::{Controller, Version};
use crate::error::CgroupError;
use crate::group::Group;
use crate::sysfs;

/// Bytes of inotify events read at once.
const EVENT_BYTES: usize = 4096;

/// Is readable when something happened to the memory of a watched group. A watch ends with its group.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    version: Version,
}

/// What happened since the last look. It may be less than a kill: [`Group::oom_kill_count`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fired {
    /// So often something happened to any group (v1). The removal of a group counts, too.
    Times(u64),
    /// In the groups with these marks, one or several times each (v2).
    In(Vec<i32>),
    /// So much that it is not known where.
    Anywhere,
}

impl OomWatch {
    /// Watches nothing yet.
    pub fn new(version: Version) -> Result<OomWatch, CgroupError> {
        let made = match version {
            Version::V2 => inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK),
            Version::V1 | Version::Hybrid => {
                eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            }
        };
        let fd = made.map_err(|e| failed("watch", Path::new("memory events"), e.into()))?;
        Ok(OomWatch { fd, version })
    }

    /// Watches one more group. The mark is the group's in [`Fired::In`]; `None` if its memory is not accounted.
    pub fn add(&self, group: &Group) -> Result<Option<i32>, CgroupError> {
        let Some(dir) = group.path(Controller::Memory) else {
            return Ok(None);
        };
        match self.version {
            Version::V2 => {
                let path = dir.join("memory.events");
                inotify::add_watch(&self.fd, &path, WatchFlags::MODIFY)
                    .map(Some)
                    .map_err(|e| failed("watch", &path, e.into()))
            }
            Version::V1 | Version::Hybrid => {
                let path = dir.join("memory.oom_control");
                let control = File::open(&path).map_err(|e| failed("open", &path, e))?;
                let wish = format!("{} {}", self.fd.as_raw_fd(), control.as_raw_fd());
                sysfs::write(dir, "cgroup.event_control", &wish)?;
                Ok(Some(0))
            }
        }
    }

    /// What happened since the last call; without waiting.
    pub fn fired(&self) -> Result<Fired, CgroupError> {
        let read = match self.version {
            Version::V2 => self.changed(),
            Version::V1 | Version::Hybrid => self.times(),
        };
        read.map_err(|e| failed("read", Path::new("memory events"), e.into()))
    }

    fn times(&self) -> Result<Fired, Errno> {
        let mut count = [0; 8];
        match rustix::io::read(&self.fd, &mut count) {
            Ok(_) => Ok(Fired::Times(u64::from_ne_bytes(count))),
            Err(Errno::AGAIN) => Ok(Fired::Times(0)),
            Err(e) => Err(e),
        }
    }

    fn changed(&self) -> Result<Fired, Errno> {
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut events = inotify::Reader::new(&self.fd, &mut buffer);
        let mut marks = Vec::new();
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    return Ok(Fired::Anywhere);
                }
                Ok(event) if event.events().contains(ReadFlags::MODIFY) => {
                    if !marks.contains(&event.wd()) {
                        marks.push(event.wd());
                    }
                }
                // A watch ended with its group.
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(Fired::In(marks)),
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn failed(what: &'static str, path: &Path, error: io::Error) -> CgroupError {
    CgroupError::io(what, path, error)
}
