//! Layers as two files: the tar as it came, and an index of it that the kernel mounts.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_erofs::{Geometry, Tree};

use super::dirs::Scratch;
use super::mounts::{self, Mounts};
use super::{Form, Ingested, LayerStore, Lower, ScratchTree, StagedLayer, index, stream};
use crate::ImageError;
use crate::digest;
use crate::durable;
use crate::error::IoContext;
use crate::tar;

/// The uncompressed tar, byte for byte.
pub(super) const TAR: &str = "layer.tar";
/// The image that refers to it.
pub(super) const INDEX: &str = "layer.erofs";

/// Layers as `<root>/layers/erofs/<hex>/{layer.tar,layer.erofs}`; what is in flight lies in `<root>/tmp`.
pub struct ErofsLayers {
    layers: PathBuf,
    scratch: Scratch,
    mounts: Mounts,
}

/// What became of a tar.
pub(super) enum Made {
    Staged(StagedLayer),
    /// There can be no index of it; it lies in this directory.
    NoIndex(ScratchTree),
}

impl Made {
    fn staged(self) -> Result<StagedLayer, ImageError> {
        match self {
            Made::Staged(staged) => Ok(staged),
            Made::NoIndex(_) => Err(ImageError::archive(
                "a sparse file has stretches that are not on blocks",
            )),
        }
    }
}

impl ErofsLayers {
    /// Opens (makes) the directories below `root`, which is the data root.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let layers = root.join("layers/erofs");
        durable::create_dir_all(&layers)?;
        Ok(Self {
            layers,
            scratch: Scratch::open(root, "erofs")?,
            mounts: Mounts::default(),
        })
    }

    pub(super) fn dir(&self, diff_id: &str) -> Result<PathBuf, ImageError> {
        Ok(self.layers.join(digest::hex_of(diff_id)?))
    }

    /// `kept` is a file of the data root that holds what is read of `tar`: it is linked, not written again.
    pub(super) fn make(
        &self,
        tar: &mut dyn Read,
        kept: Option<&Path>,
        expected: Option<&str>,
    ) -> Result<Made, ImageError> {
        let tree = self.scratch.tree("layer");
        let dir = &tree.path;
        std::fs::create_dir(dir).context(|| format!("make {}", dir.display()))?;
        let tar_path = dir.join(TAR);
        let keep = || format!("keep {}", tar_path.display());
        let file = match kept {
            Some(kept) => {
                std::fs::hard_link(kept, &tar_path).context(keep)?;
                None
            }
            None => Some(File::create_new(&tar_path).context(keep)?),
        };
        let (passed, read) = stream::tap(tar, file.as_ref(), |tar| read_tree(tar)).context(keep)?;
        let (diff_id, tar_bytes) = passed.context(keep)?;
        let entries = read?;
        let Some(entries) = entries else {
            return Ok(Made::NoIndex(tree));
        };
        if let Some(expected) = expected
            && expected != diff_id
        {
            return Err(ImageError::archive(format_args!(
                "layer has diff id {diff_id}, its image says {expected}"
            )));
        }
        let ingested = Ingested {
            diff_id,
            size_bytes: entries.size_bytes(),
            tar_bytes,
        };
        write_index(&entries, tar_bytes, &dir.join(INDEX))?;
        File::open(&tar_path)
            .and_then(|file| file.sync_all())
            .context(keep)?;
        durable::sync_dir(dir)?;
        Ok(Made::Staged(StagedLayer {
            ingested,
            tree,
            form: Form::Erofs,
        }))
    }

    fn mount(&self, diff_id: &str) -> Result<Arc<OwnedFd>, ImageError> {
        let dir = self.dir(diff_id)?;
        let make = || mounts::mount(&dir.join(INDEX), &dir.join(TAR));
        self.mounts
            .get(digest::hex_of(diff_id)?, make)
            .context(|| format!("mount layer {diff_id}"))
    }
}

/// The tree that a layer's tar makes; all of it is read. `None` if an index cannot refer to its content: sparse files whose
/// stretches are not on blocks.
pub fn read_tree(source: impl Read) -> Result<Option<Tree>, ImageError> {
    let mut reader = tar::Reader::new(source);
    let mut tree = Tree::new();
    let mut fits = true;
    while let Some(entry) = reader.next_entry()? {
        fits = fits && index::add(&mut tree, &entry, &reader)?;
    }
    // What follows the end mark belongs to the digest.
    io::copy(&mut reader.into_inner(), &mut io::sink()).context(|| "read layer".into())?;
    Ok(fits.then_some(tree))
}

fn write_index(tree: &Tree, tar_bytes: u64, path: &Path) -> Result<(), ImageError> {
    let what = || format!("write {}", path.display());
    let mut file = File::create_new(path).context(what)?;
    let geometry = Geometry::Index {
        tar_bytes,
        data_bytes: 0,
    };
    let summary = tree
        .write(geometry, &mut file)
        .map_err(|e| index::failed(e, what()))?;
    file.set_len(summary.image_bytes).context(what)?;
    file.sync_all().context(what)
}

impl LayerStore for ErofsLayers {
    fn stage(&self, tar: &mut dyn Read, expected: Option<&str>) -> Result<StagedLayer, ImageError> {
        self.make(tar, None, expected)?.staged()
    }

    fn stage_kept(
        &self,
        tar: &mut dyn Read,
        file: &Path,
        expected: Option<&str>,
    ) -> Result<StagedLayer, ImageError> {
        self.make(tar, Some(file), expected)?.staged()
    }

    fn publish(&self, staged: StagedLayer) -> Result<Ingested, ImageError> {
        let diff_id = &staged.ingested.diff_id;
        let dir = self.dir(diff_id)?;
        if !self.contains(diff_id) {
            // Somebody took one of its files.
            drop(self.set_aside(diff_id)?);
        }
        super::dirs::put_in_place(staged, &self.layers, &dir)
    }

    fn lower(&self, diff_id: &str) -> Result<Lower, ImageError> {
        self.mount(diff_id).map(Lower::Mount)
    }

    fn path(&self, diff_id: &str) -> Result<PathBuf, ImageError> {
        self.dir(diff_id)
    }

    fn contains(&self, diff_id: &str) -> bool {
        self.dir(diff_id)
            .is_ok_and(|dir| dir.join(INDEX).is_file() && dir.join(TAR).is_file())
    }

    fn set_aside(&self, diff_id: &str) -> Result<Option<ScratchTree>, ImageError> {
        let tree = self.scratch.set_aside(&self.dir(diff_id)?);
        // After it is out of its place: nobody can mount it again in between.
        self.mounts.forget(digest::hex_of(diff_id)?);
        tree
    }

    fn list(&self) -> Result<Vec<String>, ImageError> {
        super::dirs::list(&self.layers)
    }
}
