//! Whether layers can be mounted from their files here: tried with a layer of one file, on the file system they would be on.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use super::mounts::explain;
use super::{ErofsLayers, LayerStore, Lower};
use crate::ImageError;
use crate::tar::Writer;

const CONTENT: &[u8] = b"content";

/// Why layers are unpacked into directories.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct NoErofs {
    /// What was tried.
    pub step: &'static str,
    /// Why it can't be done.
    pub source: io::Error,
}

fn at(step: &'static str) -> impl Fn(io::Error) -> NoErofs {
    move |source| NoErofs { step, source }
}

/// Makes a layer in `dir`, an empty directory on the data root's file system, and mounts it below an overlay with its
/// changes in that directory, as a container's root is. The caller removes what is left there. Blocks.
///
/// # Errors
/// The step that this kernel or file system refuses.
pub fn probe_erofs(dir: &Path) -> Result<(), NoErofs> {
    let refused = |e: ImageError| io::Error::other(e.to_string());
    let layers = ErofsLayers::open(dir).map_err(|e| at("make a layer")(refused(e)))?;
    let mut tar = Vec::new();
    let mut writer = Writer::new(&mut tar);
    writer.file("file", CONTENT).map_err(at("make a layer"))?;
    writer.finish().map_err(at("make a layer"))?;
    let made = layers
        .stage(&mut &tar[..], None)
        .and_then(|staged| layers.publish(staged))
        .map_err(|e| at("make a layer")(refused(e)))?;
    let lower = match layers.lower(&made.diff_id) {
        Ok(Lower::Mount(mount)) => mount,
        Ok(Lower::Dir(_)) => return Err(at("mount a layer")(io::ErrorKind::Unsupported.into())),
        Err(ImageError::Io { source, .. }) => return Err(at("mount a layer")(source)),
        Err(e) => return Err(at("mount a layer")(refused(e))),
    };
    read(&lower).map_err(at("read a file of a mounted layer"))?;
    let root = overlay(dir, &lower).map_err(at("use a mounted layer in an overlay"))?;
    read(&root).map_err(at("read a file of an overlay on a mounted layer"))?;
    // What image mounts and idmapped layers do.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(&lower, "", flags | OpenTreeFlags::AT_EMPTY_PATH)
        .map_err(|e| at("copy a mount that is attached nowhere")(e.into()))?;
    Ok(())
}

fn read(dir: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::openat(dir, "file", flags, Mode::empty())?);
    let mut found = Vec::new();
    file.read_to_end(&mut found)?;
    match found == CONTENT {
        true => Ok(()),
        false => Err(io::Error::other("the content is wrong")),
    }
}

fn overlay(dir: &Path, lower: &Arc<OwnedFd>) -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_fd(&fs, "lowerdir+", lower.as_fd())?;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for (key, name) in [("upperdir", "upper"), ("workdir", "work")] {
        let path = dir.join(name);
        std::fs::create_dir(&path)?;
        let fd = rustix::fs::open(&path, directory, Mode::empty())?;
        rustix::mount::fsconfig_set_fd(&fs, key, &fd)?;
    }
    rustix::mount::fsconfig_create(&fs).map_err(|e| explain(&fs, e))?;
    let attributes = MountAttrFlags::empty();
    Ok(rustix::mount::fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}
