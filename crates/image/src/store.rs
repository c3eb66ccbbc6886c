//! The image store: records, snapshot, and the lock under which they change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;
use gantry_store::{Batch, Store, Table};
use serde::{Deserialize, Serialize};

use crate::blobs::{self, Blobs};
use crate::holds::Holds;
use crate::layer::{Form, LayerStore, Layers, Lower, ScratchTree};
use crate::model::ConfigFile;
use crate::registry::Partials;
use crate::{Image, ImageError, ImageId, ImageSnapshot, Reference};

/// Record of an image; its config is a blob.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ImageRecord {
    pub(crate) last_tagged_unix_ns: i64,
    /// Blobs it keeps besides its config.
    pub(crate) blobs: Vec<String>,
    /// It was removed while containers use it: only they still see it.
    pub(crate) hidden: bool,
}

/// Record of a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LayerRecord {
    pub(crate) size_bytes: u64,
    /// Length of its uncompressed tar.
    pub(crate) tar_bytes: u64,
    /// Blob with its tar as it came (plain, gzip or zstd); empty in records of before it was kept.
    pub(crate) blob: String,
}

/// What changes; guarded by the lock.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) images: BTreeMap<ImageId, ImageRecord>,
    pub(crate) layers: BTreeMap<String, LayerRecord>,
    /// Layers and blobs of loads under way, which no removal may take.
    pub(crate) pinned: BTreeMap<String, usize>,
}

impl State {
    fn has_blob(&self, digest: &String) -> bool {
        self.pinned.contains_key(digest)
            || self.images.contains_key(digest)
            || self.images.values().any(|r| r.blobs.contains(digest))
            || self.layers.values().any(|l| l.blob == *digest)
    }
}

/// All images of a data root.
pub struct ImageStore {
    pub(crate) store: Store,
    pub(crate) blobs: Blobs,
    pub(crate) partials: Partials,
    pub(crate) layers: Box<dyn LayerStore>,
    pub(crate) snapshot: ArcSwap<ImageSnapshot>,
    pub(crate) holds: Holds,
    state: Mutex<State>,
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|e| ImageError::Io {
        what: "encode record".into(),
        source: e.into(),
    })
}

fn read_records<T: for<'de> Deserialize<'de>>(
    store: &Store,
    table: Table,
) -> Result<BTreeMap<String, T>, ImageError> {
    store
        .read_all(table)?
        .into_iter()
        .map(|(key, value)| match serde_json::from_slice(&value) {
            Ok(record) => Ok((key, record)),
            Err(e) => Err(ImageError::Io {
                what: format!("record of {key}"),
                source: e.into(),
            }),
        })
        .collect()
}

impl ImageStore {
    /// Opens the images of `data_root`, with layers as directories; what no record names is removed.
    pub fn open(data_root: impl AsRef<Path>, store: Store) -> Result<Arc<Self>, ImageError> {
        Self::open_as(data_root, store, Form::Directories)
    }

    /// The same with another form of new layers, which must work there ([`crate::layer::probe_erofs`]).
    pub fn open_as(
        data_root: impl AsRef<Path>,
        store: Store,
        form: Form,
    ) -> Result<Arc<Self>, ImageError> {
        let root = data_root.as_ref();
        blobs::clean_tmp(root)?;
        let this = Self {
            blobs: Blobs::open(root)?,
            partials: Partials::open(root)?,
            layers: Box::new(Layers::open(root, form)?),
            snapshot: ArcSwap::default(),
            holds: Holds::default(),
            state: Mutex::new(State::default()),
            store,
        };
        let images: BTreeMap<ImageId, ImageRecord> = read_records(&this.store, Table::Images)?;
        let layers = read_records(&this.store, Table::Layers)?;
        let mut snapshot = ImageSnapshot::default();
        let mut state = State {
            images,
            layers,
            pinned: BTreeMap::new(),
        };
        for (reference, id) in this.store.read_all(Table::Tags)? {
            snapshot
                .tags
                .insert(reference, String::from_utf8_lossy(&id).into_owned());
        }
        let mut damaged = false;
        for (id, record) in &state.images {
            match this.build(&state.layers, id, record) {
                Ok(image) => snapshot.put(image, record.hidden),
                Err(e) => {
                    damaged = true;
                    tracing::error!(image = %id, error = %e, "image is damaged and not shown; load it again");
                }
            }
        }
        if damaged {
            tracing::warn!("unreferenced layers and blobs are kept while an image is damaged");
        } else {
            this.sweep(&mut state, &snapshot)?;
        }
        this.partials.remove_kept(&this.blobs)?;
        refresh_names(&mut snapshot);
        this.snapshot.store(Arc::new(snapshot));
        *this.lock() = state;
        Ok(Arc::new(this))
    }

    /// The images now. Does not block.
    pub fn snapshot(&self) -> Arc<ImageSnapshot> {
        self.snapshot.load_full()
    }

    /// The layers of an image for an overlay, top first. Blocks: the first time a layer is mounted.
    pub fn rootfs(&self, image: &Image) -> Result<Vec<Lower>, ImageError> {
        let lower = |diff_id: &String| self.layers.lower(diff_id);
        image.diff_ids.iter().rev().map(lower).collect()
    }

    /// Where the layers of an image are on disk, top first: for people, whatever their form.
    pub fn layer_paths(&self, image: &Image) -> Result<Vec<PathBuf>, ImageError> {
        let path = |diff_id: &String| self.layers.path(diff_id);
        image.diff_ids.iter().rev().map(path).collect()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves state that is only updated after its commit.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// An image from its record, its config and its layers' records.
    pub(crate) fn build(
        &self,
        layers: &BTreeMap<String, LayerRecord>,
        id: &str,
        record: &ImageRecord,
    ) -> Result<Image, ImageError> {
        let raw = self.blobs.read(id)?;
        let file = ConfigFile::parse(&raw)?;
        let mut sizes = Vec::with_capacity(file.diff_ids().len());
        for diff_id in file.diff_ids() {
            match layers.get(diff_id) {
                Some(layer) if self.layers.contains(diff_id) => sizes.push(layer.size_bytes),
                _ => {
                    return Err(ImageError::archive(format_args!(
                        "layer {diff_id} is missing"
                    )));
                }
            }
        }
        let created: Option<jiff::Timestamp> = file.created.as_deref().and_then(|c| c.parse().ok());
        Ok(Image {
            id: id.to_owned(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            created_unix_s: created.map_or(0, |c| c.as_second()),
            created: file.created,
            size_bytes: sizes.iter().sum(),
            config: file.config,
            history: file.history,
            diff_ids: file.rootfs.unwrap_or_default().diff_ids,
            layer_sizes_bytes: sizes,
            architecture: file.architecture,
            variant: file.variant,
            os: file.os,
            author: file.author,
            comment: file.comment,
            docker_version: file.docker_version,
            last_tagged_unix_ns: record.last_tagged_unix_ns,
            raw_config: raw.into(),
        })
    }

    /// Removes layers and blobs that no image has: left by a crash between the disk and the record.
    fn sweep(&self, state: &mut State, snapshot: &ImageSnapshot) -> Result<(), ImageError> {
        let mut candidates: BTreeSet<String> = self.layers.list()?.into_iter().collect();
        candidates.extend(state.layers.keys().cloned());
        candidates.extend(self.blobs.list()?);
        self.collect(state, snapshot, Batch::new(), &candidates)
            .map(drop)
    }

    /// Commits `batch` together with the removal of those of the `candidates` (diff ids and digests of blobs) that
    /// nothing in `snapshot` and no load uses, and publishes `snapshot`. Removes the record of an image from `state`
    /// before the call. The trees go when what is given back is dropped: not under the lock.
    pub(crate) fn collect(
        &self,
        state: &mut State,
        snapshot: &ImageSnapshot,
        mut batch: Batch,
        candidates: &BTreeSet<String>,
    ) -> Result<Collected, ImageError> {
        let used: BTreeSet<&String> = snapshot.everything().flat_map(|i| &i.diff_ids).collect();
        let free: Vec<String> = candidates
            .iter()
            .filter(|d| !used.contains(d) && !state.pinned.contains_key(*d))
            .cloned()
            .collect();
        for diff_id in free.iter().filter(|d| state.layers.contains_key(*d)) {
            batch.delete(Table::Layers, diff_id);
        }
        if !batch.is_empty() {
            self.store.commit_blocking(batch)?;
        }
        self.publish(snapshot.clone());
        let mut collected = Collected::default();
        let mut blobs: Vec<String> = candidates.iter().cloned().collect();
        for diff_id in free {
            if let Some(record) = state.layers.remove(&diff_id) {
                blobs.push(record.blob);
            }
            if let Some(tree) = self.layers.set_aside(&diff_id)? {
                collected.trees.push(tree);
                collected.layers.insert(diff_id);
            }
        }
        for blob in blobs.iter().filter(|b| crate::digest::is_digest(b)) {
            if !state.has_blob(blob) {
                self.blobs.remove(blob)?;
            }
        }
        Ok(collected)
    }

    /// Publishes a changed snapshot; called under the lock, after the commit.
    pub(crate) fn publish(&self, mut snapshot: ImageSnapshot) {
        refresh_names(&mut snapshot);
        self.snapshot.store(Arc::new(snapshot));
    }
}

/// What a removal took.
#[derive(Default)]
pub(crate) struct Collected {
    /// Diff ids of the layers that went.
    pub(crate) layers: BTreeSet<String>,
    trees: Vec<ScratchTree>,
}

pub(crate) fn now_unix_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Puts the names of the tag table into the images.
fn refresh_names(snapshot: &mut ImageSnapshot) {
    let mut names: BTreeMap<&str, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for (full, id) in &snapshot.tags {
        let Ok(reference) = Reference::parse(full) else {
            continue;
        };
        let (tags, digests) = names.entry(id).or_default();
        if reference.digest().is_some() {
            digests
        } else {
            tags
        }
        .push(reference.familiar());
    }
    for (id, image) in &mut snapshot.images {
        let (mut tags, mut digests) = names.remove(id.as_str()).unwrap_or_default();
        tags.sort();
        digests.sort();
        if image.repo_tags != tags || image.repo_digests != digests {
            let image = Arc::make_mut(image);
            image.repo_tags = tags;
            image.repo_digests = digests;
        }
    }
}
