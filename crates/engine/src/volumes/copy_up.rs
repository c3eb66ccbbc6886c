//! The image's content in a new, empty volume: owners, modes, times, links and extended attributes as they were.
//!
//! The copy is made beside the volume's directory and then takes its place in one step. A volume that other containers
//! have already keeps its directory; there the finished entries are moved in, which follows no link that such a
//! container may have put there.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use gantry_launch::{RootView, RootfsSpec};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};

use super::local::{COPY_PREFIX, Place, cannot_mount};
use crate::{EngineError, ids};

/// One volume to fill.
pub(super) struct Job {
    pub(super) place: Place,
    /// Path in the container.
    pub(super) target: String,
    /// No other container has it.
    pub(super) alone: bool,
    /// A file at the target is an error.
    pub(super) declared: bool,
}

/// Fills volumes. Blocks.
pub(super) fn copy_up(root: &RootfsSpec, jobs: &[Job]) -> Result<(), EngineError> {
    let view = RootView::mount(root)?;
    jobs.iter().try_for_each(|job| {
        let failed = |e| EngineError::io(format!("copy the image's {}", job.target), e);
        let Some(source) = view.open(&job.target).map_err(failed)? else {
            return Ok(());
        };
        if !source.is_directory().map_err(failed)? {
            if !job.declared {
                return Ok(());
            }
            return Err(EngineError::System(format!(
                "cannot mount volume over existing file, file exists {}",
                job.target
            )));
        }
        if job.place.volatile || job.place.readonly {
            return Ok(());
        }
        let into = &job.place.path;
        if !into.is_dir() {
            let gone = io::Error::from_raw_os_error(libc::ENOENT);
            return Err(cannot_mount(
                into,
                &into.display().to_string(),
                libc::MS_BIND as u32,
                &gone,
            ));
        }
        fill(&source.path(), into, job).map_err(failed)
    })
}

fn is_empty(dir: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(dir)?.next().is_none())
}

fn fill(from: &Path, into: &Path, job: &Job) -> io::Result<()> {
    if !is_empty(into)? {
        return Ok(());
    }
    let beside = if job.place.own {
        into.parent().unwrap_or(into)
    } else {
        into
    };
    let id = ids::generate().map_err(io::Error::other)?;
    let copy = beside.join(format!("{COPY_PREFIX}{}", ids::short(&id)));
    let done = Copy::default().directory(from, &copy).and_then(|()| {
        if job.alone && job.place.own {
            return fs::rename(&copy, into);
        }
        for entry in fs::read_dir(&copy)? {
            let entry = entry?;
            let (name, old) = (entry.file_name(), entry.path());
            match rustix::fs::renameat_with(CWD, &old, CWD, into.join(name), RenameFlags::NOREPLACE)
            {
                // What another container has put there meanwhile is newer.
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        attributes(&copy, into, &fs::symlink_metadata(&copy)?)?;
        fs::remove_dir_all(&copy)
    });
    match done {
        // Somebody else filled it first.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => fs::remove_dir_all(&copy),
        Err(e) => {
            if let Err(left) = fs::remove_dir_all(&copy) {
                tracing::warn!(path = %copy.display(), error = %left, "an unfinished copy is left");
            }
            Err(e)
        }
        Ok(()) => Ok(()),
    }
}

/// A copy under way; nothing else changes either side.
#[derive(Default)]
struct Copy {
    /// First copy of every file with several names, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Copy {
    fn directory(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        // Directories that wait for their content; depth costs no stack.
        let mut pending = vec![(from.to_owned(), to.to_owned())];
        let mut made = Vec::new();
        while let Some((from, to)) = pending.pop() {
            fs::create_dir(&to)?;
            for entry in fs::read_dir(&from)? {
                let entry = entry?;
                let target = to.join(entry.file_name());
                let meta = entry.metadata()?;
                if meta.is_dir() {
                    pending.push((entry.path(), target));
                } else {
                    self.entry(&entry.path(), &target, &meta)?;
                }
            }
            made.push((from, to));
        }
        // Last: adding entries changes the times, and the mode may forbid it.
        for (from, to) in made.iter().rev() {
            attributes(from, to, &fs::metadata(from)?)?;
        }
        Ok(())
    }

    fn entry(&mut self, from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
        if meta.nlink() > 1 {
            let key = (meta.dev(), meta.ino());
            if let Some(first) = self.linked.get(&key) {
                return fs::hard_link(first, to);
            }
            self.linked.insert(key, to.to_owned());
        }
        let kind = meta.file_type();
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
        } else if kind.is_file() {
            let mut source = fs::File::open(from)?;
            let mut target = fs::File::create_new(to)?;
            io::copy(&mut source, &mut target)?;
        } else {
            let raw = rustix::fs::FileType::from_raw_mode(meta.mode());
            let device = if kind.is_char_device() || kind.is_block_device() {
                meta.rdev()
            } else {
                0
            };
            rustix::fs::mknodat(CWD, to, raw, Mode::from_raw_mode(0o600), device)?;
        }
        attributes(from, to, meta)
    }
}

/// Owner, mode, extended attributes and times, in the order in which none undoes another.
fn attributes(from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    rustix::fs::chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let is_link = meta.file_type().is_symlink();
    if !is_link {
        let file = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        drop(rustix::fs::open(to, file, Mode::empty())?);
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    extended(from, to, is_link)?;
    let time = |seconds: i64, nanos: i64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    Ok(rustix::fs::utimensat(
        CWD,
        to,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Longest list of names and longest value of extended attributes (the kernel's limits).
const MAX_XATTR_BYTES: usize = 64 << 10;

fn extended(from: &Path, to: &Path, is_link: bool) -> io::Result<()> {
    // The source of a directory's own attributes is a path with a dot at its end, which no link is.
    let mut names = vec![0u8; MAX_XATTR_BYTES];
    let length = match rustix::fs::llistxattr(from, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    if length == 0 || is_link {
        return Ok(());
    }
    let mut value = vec![0u8; MAX_XATTR_BYTES];
    let names = names.get(..length).unwrap_or_default();
    for name in names.split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let size = match rustix::fs::lgetxattr(from, name, &mut value) {
            Ok(size) => size,
            Err(rustix::io::Errno::NODATA) => continue,
            Err(e) => return Err(e.into()),
        };
        let value = value.get(..size).unwrap_or_default();
        match rustix::fs::lsetxattr(to, name, value, rustix::fs::XattrFlags::empty()) {
            // A label of another security module, or a file system without attributes.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(into: &Path, alone: bool) -> Job {
        Job {
            place: Place {
                path: into.to_owned(),
                own: true,
                volatile: false,
                readonly: false,
            },
            target: "/x".to_owned(),
            alone,
            declared: false,
        }
    }

    #[test]
    fn trees_are_copied_whole_into_empty_places_only() {
        let dir = tempfile::tempdir().expect("tempdir");
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("d/e")).expect("mkdir");
        fs::write(from.join("d/f"), "content").expect("write");
        fs::hard_link(from.join("d/f"), from.join("g")).expect("link");
        std::os::unix::fs::symlink("/nowhere", from.join("s")).expect("symlink");
        fs::set_permissions(from.join("d/f"), fs::Permissions::from_mode(0o4751)).expect("chmod");
        fs::set_permissions(&from, fs::Permissions::from_mode(0o1700)).expect("chmod");
        for alone in [true, false] {
            let into = dir.path().join(format!("volume-{alone}/_data"));
            fs::create_dir_all(&into).expect("mkdir");
            fill(&from.join("."), &into, &job(&into, alone)).expect("filled");
            let meta = |name: &str| fs::symlink_metadata(into.join(name)).expect("there");
            assert_eq!(meta("d/f").mode() & 0o7777, 0o4751);
            assert_eq!(meta("d/f").ino(), meta("g").ino());
            assert_eq!(
                fs::read_link(into.join("s")).expect("link"),
                Path::new("/nowhere")
            );
            assert_eq!(meta(".").mode() & 0o7777, 0o1700);
            assert!(into.join("d/e").is_dir());
            let around = fs::read_dir(into.parent().expect("parent")).expect("list");
            assert_eq!(around.count(), 1, "no copy is left");
            fs::remove_file(into.join("s")).expect("remove");
            fill(&from.join("."), &into, &job(&into, alone)).expect("not empty");
            assert!(
                !into.join("s").is_symlink(),
                "a volume with content is left alone"
            );
        }
    }
}
