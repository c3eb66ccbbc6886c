//! `docker cp`, out of a container and into it.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use gantry_image::ImageError;
use gantry_image::tree::{Packer, Unpack, Whiteouts, unpack};
use rustix::fs::{FileType, OFlags};

use super::files::{Files, PathStat};
use super::paths::{absolute, base, last_error, not_found};
use crate::EngineError;

/// How an archive goes into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyIn {
    /// A directory takes no other file's place, nor the other way round.
    pub no_overwrite_dir_non_dir: bool,
    /// What is made belongs to the container's user, if it has one.
    pub to_user: bool,
}

/// What is to be archived: a name in an open directory.
#[derive(Debug)]
pub struct CopyOut {
    /// What it is.
    pub stat: PathStat,
    dir: OwnedFd,
    name: CString,
    shown: String,
}

impl Files {
    /// Finds what an archive of a path would have. `container` is what its client calls it.
    ///
    /// # Errors
    /// As [`Files::stat`].
    pub fn find(&self, path: &str, container: &str) -> Result<CopyOut, EngineError> {
        let called = path;
        let path = absolute(path);
        let stat = self.stat(&path, container).map_err(|e| match e {
            EngineError::NotFound(_) => not_found(called, container),
            e => e,
        })?;
        let failed = |e| last_error("lstat", &path, container, e);
        let shown = base(&path).to_owned();
        if FileType::from_raw_mode(stat.mode) == FileType::Directory {
            let dir = self.open_path(&path, OFlags::DIRECTORY).map_err(failed)?;
            let name = c".".to_owned();
            return Ok(CopyOut {
                stat,
                dir,
                name,
                shown,
            });
        }
        let parent = path.rfind('/').map_or("/", |at| &path[..=at]);
        let dir = self.open_path(parent, OFlags::DIRECTORY).map_err(failed)?;
        let name = CString::new(shown.as_str())
            .map_err(|_| EngineError::InvalidParameter("invalid path".to_owned()))?;
        Ok(CopyOut {
            stat,
            dir,
            name,
            shown,
        })
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// The kernel's, or the writer's.
    pub fn copy_out(&self, found: &CopyOut, to: &mut dyn Write) -> io::Result<()> {
        let owner = |uid, gid| self.owner_inside(uid, gid);
        let mut packer = Packer::new(to, &owner, Whiteouts::None);
        packer.add(found.dir.as_fd(), &found.name, found.shown.as_bytes())?;
        packer.finish()
    }

    /// Writes an archive of everything, with names that begin at the root.
    ///
    /// # Errors
    /// The kernel's, or the writer's.
    pub fn export(&self, to: &mut dyn Write) -> io::Result<()> {
        let owner = |uid, gid| self.owner_inside(uid, gid);
        let mut packer = Packer::new(to, &owner, Whiteouts::None);
        packer.add(self.root(), c".", b"")?;
        packer.finish()
    }

    /// Unpacks an archive into the directory at a path. What is there stays as far as the archive does not replace it.
    ///
    /// # Errors
    /// No directory, or one that is read-only; what is wrong with the archive; the kernel's.
    pub fn copy_in(
        &self,
        path: &str,
        container: &str,
        archive: impl Read,
        options: CopyIn,
    ) -> Result<(), EngineError> {
        let at = absolute(path);
        let failed = |e| last_error("lstat", &at, container, e);
        let dir = self.open_path(&at, OFlags::empty()).map_err(|e| match e {
            rustix::io::Errno::NOENT => not_found(path, container),
            e => failed(e),
        })?;
        let mode = rustix::fs::fstat(&dir).map_err(failed)?.st_mode;
        if FileType::from_raw_mode(mode) != FileType::Directory {
            let text = "extraction point is not a directory";
            return Err(EngineError::InvalidParameter(text.to_owned()));
        }
        self.check_writable(&dir)?;
        let user = match options.to_user {
            true => self.user()?,
            false => None,
        };
        let owner = |uid, gid| {
            let (uid, gid) = user.unwrap_or((uid, gid));
            self.owner_outside(uid, gid)
        };
        let how = Unpack {
            no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
            owner: &owner,
            root: self.owner_outside(0, 0).unwrap_or((0, 0)),
            shown: &at,
        };
        unpack(dir.as_fd(), archive, &how).map_err(|e| match e {
            // A hard link to what is not there: dockerd blames the directory.
            ImageError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                not_found(path, container)
            }
            e => e.into(),
        })
    }
}
