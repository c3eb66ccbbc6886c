//! Both forms of layers in one data root: new ones have the better one that works here, old ones stay as they are.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::erofs::{Made, TAR};
use super::{DirLayers, ErofsLayers, Form, Ingested, LayerStore, Lower, ScratchTree, StagedLayer};
use crate::ImageError;
use crate::durable;
use crate::error::IoContext;

/// Bytes read of a tar at once.
const READ_BYTES: usize = 256 * 1024;

/// Layers of either form.
pub struct Layers {
    dirs: DirLayers,
    erofs: ErofsLayers,
    form: Form,
}

impl Layers {
    /// Opens (makes) the directories below `root`. New layers get the form; with [`Form::Directories`] the others, which
    /// cannot be mounted here, are unpacked: that takes its time.
    pub fn open(root: &Path, form: Form) -> Result<Self, ImageError> {
        let this = Self {
            dirs: DirLayers::open(root)?,
            erofs: ErofsLayers::open(root)?,
            form,
        };
        for diff_id in this.erofs.list()? {
            if this.dirs.contains(&diff_id) {
                // The daemon ended before one of them went.
                drop(this.erofs.set_aside(&diff_id)?);
            } else if form == Form::Directories
                && let Err(error) = this.unpack(&diff_id)
            {
                tracing::error!(layer = diff_id, %error, "a layer cannot be unpacked");
            }
        }
        Ok(this)
    }

    fn unpack(&self, diff_id: &str) -> Result<(), ImageError> {
        tracing::info!(
            layer = diff_id,
            "unpacking a layer: it can't be mounted here"
        );
        let staged = self.stage_in_dirs(&self.erofs.dir(diff_id)?, Some(diff_id))?;
        self.dirs.publish(staged)?;
        self.erofs.set_aside(diff_id).map(drop)
    }

    /// Unpacks the tar that lies in `dir`.
    fn stage_in_dirs(&self, dir: &Path, expected: Option<&str>) -> Result<StagedLayer, ImageError> {
        let path = dir.join(TAR);
        let file = File::open(&path).context(|| format!("open {}", path.display()))?;
        let mut tar = BufReader::with_capacity(READ_BYTES, file);
        self.dirs.stage(&mut tar, expected)
    }

    /// A layer of which there can be no index is unpacked.
    fn staged(&self, made: Made, expected: Option<&str>) -> Result<StagedLayer, ImageError> {
        match made {
            Made::Staged(staged) => Ok(staged),
            Made::NoIndex(tree) => self.stage_in_dirs(tree.path(), expected),
        }
    }

    fn of(&self, form: Form) -> &dyn LayerStore {
        match form {
            Form::Erofs => &self.erofs,
            Form::Directories => &self.dirs,
        }
    }

    /// The store that has a layer, or would get it.
    fn having(&self, diff_id: &str) -> &dyn LayerStore {
        match (self.dirs.contains(diff_id), self.erofs.contains(diff_id)) {
            (true, _) => &self.dirs,
            (_, true) => &self.erofs,
            _ => self.of(self.form),
        }
    }
}

impl LayerStore for Layers {
    fn stage(&self, tar: &mut dyn Read, expected: Option<&str>) -> Result<StagedLayer, ImageError> {
        match self.form {
            Form::Erofs => self.staged(self.erofs.make(tar, None, expected)?, expected),
            Form::Directories => self.dirs.stage(tar, expected),
        }
    }

    fn stage_kept(
        &self,
        tar: &mut dyn Read,
        file: &Path,
        expected: Option<&str>,
    ) -> Result<StagedLayer, ImageError> {
        match self.form {
            Form::Erofs => self.staged(self.erofs.make(tar, Some(file), expected)?, expected),
            Form::Directories => self.dirs.stage(tar, expected),
        }
    }

    fn publish(&self, staged: StagedLayer) -> Result<Ingested, ImageError> {
        if self.contains(&staged.ingested.diff_id) {
            // Of either form: never both. Whoever put it there may not have come to the sync yet.
            let path = self.path(&staged.ingested.diff_id)?;
            if let Some(layers) = path.parent() {
                durable::sync_dir(layers)?;
            }
            return Ok(staged.ingested.clone());
        }
        self.of(staged.form).publish(staged)
    }

    fn lower(&self, diff_id: &str) -> Result<Lower, ImageError> {
        self.having(diff_id).lower(diff_id)
    }

    fn path(&self, diff_id: &str) -> Result<PathBuf, ImageError> {
        self.having(diff_id).path(diff_id)
    }

    fn contains(&self, diff_id: &str) -> bool {
        self.dirs.contains(diff_id) || self.erofs.contains(diff_id)
    }

    fn set_aside(&self, diff_id: &str) -> Result<Option<ScratchTree>, ImageError> {
        match self.erofs.set_aside(diff_id)? {
            Some(tree) => Ok(Some(tree)),
            None => self.dirs.set_aside(diff_id),
        }
    }

    fn list(&self) -> Result<Vec<String>, ImageError> {
        let mut found = self.dirs.list()?;
        found.extend(self.erofs.list()?);
        Ok(found)
    }
}
