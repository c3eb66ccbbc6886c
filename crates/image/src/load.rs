//! `docker load`: docker save archives and OCI layouts.

use std::io::Read;
use std::sync::Arc;

use gantry_store::{Batch, Table};
use serde::Deserialize;

use crate::archive::{Archive, blob_path, decompress};
use crate::layer::Ingested;
use crate::model::ConfigFile;
use crate::oci::{Descriptor, Index, Manifest};
use crate::store::{ImageRecord, LayerRecord, to_json};
use crate::{ImageError, ImageId, ImageStore, Reference};

/// Indexes inside indexes.
const MAX_INDEX_DEPTH: usize = 4;
/// Images in one archive.
const MAX_IMAGES: usize = 1024;

/// Progress of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadEvent {
    /// A line for the client, in Docker's words, with its newline.
    Stream(String),
    /// A layer is in place.
    Layer {
        /// Digest of its uncompressed tar.
        diff_id: String,
        /// Size of its files.
        size_bytes: u64,
        /// It was there before.
        existed: bool,
    },
}

/// An image that was loaded, once per tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: ImageId,
    /// Its familiar name, if the archive has one.
    pub tag: Option<String>,
}

/// Where an image of the archive lies.
struct Source {
    config: Vec<u8>,
    /// Paths in the archive, lowest first.
    layers: Vec<String>,
    tags: Vec<Reference>,
    /// Blobs to keep besides the config (OCI layouts).
    blobs: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Layers a load works on; no removal takes them meanwhile.
pub(crate) struct Pins<'a> {
    store: &'a ImageStore,
    diff_ids: Vec<String>,
}

impl<'a> Pins<'a> {
    pub(crate) fn new(store: &'a ImageStore, diff_ids: &[String]) -> Self {
        let mut state = store.lock();
        for diff_id in diff_ids {
            *state.pinned.entry(diff_id.clone()).or_default() += 1;
        }
        Self {
            store,
            diff_ids: diff_ids.to_vec(),
        }
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        for diff_id in &self.diff_ids {
            if let Some(count) = state.pinned.get_mut(diff_id) {
                *count -= 1;
                if *count == 0 {
                    state.pinned.remove(diff_id);
                }
            }
        }
    }
}

impl ImageStore {
    /// Loads every image of an archive (plain, gzip or zstd). What was loaded before an error stays.
    pub fn load(
        &self,
        reader: impl Read,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Vec<Loaded>, ImageError> {
        let mut archive = Archive::spool(reader, &self.blobs)?;
        let sources = if archive.has("manifest.json") {
            docker_sources(&archive)?
        } else if archive.has("index.json") {
            oci_sources(&archive)?
        } else {
            return Err(ImageError::archive(
                "neither manifest.json nor index.json is in it",
            ));
        };
        let mut loaded = Vec::new();
        for source in sources {
            self.load_one(&mut archive, &source, progress, &mut loaded)?;
        }
        Ok(loaded)
    }

    fn load_one(
        &self,
        archive: &mut Archive,
        source: &Source,
        progress: &mut dyn FnMut(LoadEvent),
        loaded: &mut Vec<Loaded>,
    ) -> Result<(), ImageError> {
        let diff_ids = ConfigFile::parse(&source.config)?.rootfs.diff_ids;
        if diff_ids.len() != source.layers.len() {
            let (has, says) = (source.layers.len(), diff_ids.len());
            let text =
                format!("invalid manifest, layers length mismatch: expected {says}, got {has}");
            return Err(ImageError::archive(text));
        }
        let _pins = Pins::new(self, &diff_ids);
        let mut layers = Vec::with_capacity(diff_ids.len());
        for (diff_id, path) in diff_ids.iter().zip(&source.layers) {
            layers.push(self.load_layer(archive, diff_id, path, progress)?);
        }
        for digest in &source.blobs {
            archive.verify_blob_if_there(digest)?;
            if let Some(scratch) = archive.take_blob(digest)? {
                self.blobs.keep(scratch, digest)?;
            }
        }
        let id = self.commit_image(&source.config, &layers, source.blobs.clone())?;
        for tag in &source.tags {
            let old = self.set_tag(&mut self.lock(), &id, tag)?;
            let tag = tag.familiar();
            if let Some(old) = old {
                progress(LoadEvent::Stream(format!(
                    "The image {tag} already exists, renaming the old one with ID {old} to empty string\n"
                )));
            }
            progress(LoadEvent::Stream(format!("Loaded image: {tag}\n")));
            loaded.push(Loaded {
                id: id.clone(),
                tag: Some(tag),
            });
        }
        if source.tags.is_empty() {
            progress(LoadEvent::Stream(format!("Loaded image ID: {id}\n")));
            loaded.push(Loaded { id, tag: None });
        }
        Ok(())
    }

    fn load_layer(
        &self,
        archive: &Archive,
        diff_id: &str,
        path: &str,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Ingested, ImageError> {
        // Also where the layer is known: a manifest that names what is not there is not to be trusted.
        let file = archive.open(path)?;
        let known = self
            .lock()
            .layers
            .get(diff_id)
            .map(|layer| layer.size_bytes);
        let existed = known.is_some() && self.layers.contains(diff_id);
        let layer = match known {
            Some(size_bytes) if existed => Ingested {
                diff_id: diff_id.to_owned(),
                size_bytes,
            },
            _ => self.layers.ingest(&mut decompress(file)?, Some(diff_id))?,
        };
        progress(LoadEvent::Layer {
            diff_id: layer.diff_id.clone(),
            size_bytes: layer.size_bytes,
            existed,
        });
        Ok(layer)
    }

    /// Makes an image whose layers are in place: config synced, then the record.
    pub(crate) fn commit_image(
        &self,
        config: &[u8],
        layers: &[Ingested],
        blobs: Vec<String>,
    ) -> Result<ImageId, ImageError> {
        let mut state = self.lock();
        let id = self.blobs.put(config)?;
        let mut record = state.images.get(&id).cloned().unwrap_or_default();
        record.blobs.extend(blobs);
        record.blobs.sort();
        record.blobs.dedup();
        let mut batch = Batch::new();
        batch.put(Table::Images, &id, to_json::<ImageRecord>(&record)?);
        for layer in layers {
            let layer_record = LayerRecord {
                size_bytes: layer.size_bytes,
            };
            batch.put(Table::Layers, &layer.diff_id, to_json(&layer_record)?);
            state.layers.insert(layer.diff_id.clone(), layer_record);
        }
        let image = self.build(&state, &id, &record)?;
        self.store.commit_blocking(batch)?;
        state.images.insert(id.clone(), record);
        let mut snapshot = (*self.snapshot()).clone();
        snapshot.images.insert(id.clone(), Arc::new(image));
        self.publish(snapshot);
        Ok(id)
    }
}

fn json<T: for<'de> Deserialize<'de>>(bytes: &[u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::archive(format_args!("{what}: {e}")))
}

fn docker_sources(archive: &Archive) -> Result<Vec<Source>, ImageError> {
    let manifests: Vec<DockerManifest> =
        json(&archive.read_json("manifest.json")?, "manifest.json")?;
    if manifests.len() > MAX_IMAGES {
        return Err(ImageError::archive(format_args!(
            "more than {MAX_IMAGES} images"
        )));
    }
    let source = |manifest: DockerManifest| {
        let tags = manifest.repo_tags.unwrap_or_default();
        Ok(Source {
            config: archive.read_json(&manifest.config)?,
            layers: manifest.layers.unwrap_or_default(),
            tags: tags
                .iter()
                .map(|t| Reference::parse(t).map(Reference::or_latest))
                .collect::<Result<_, _>>()?,
            blobs: Vec::new(),
        })
    };
    manifests.into_iter().map(source).collect()
}

fn oci_sources(archive: &Archive) -> Result<Vec<Source>, ImageError> {
    let index: Index = json(&archive.read_json("index.json")?, "index.json")?;
    if index.manifests.len() > MAX_IMAGES {
        return Err(ImageError::archive(format_args!(
            "more than {MAX_IMAGES} images"
        )));
    }
    index
        .manifests
        .iter()
        .map(|descriptor| oci_source(archive, descriptor))
        .collect()
}

fn oci_source(archive: &Archive, top: &Descriptor) -> Result<Source, ImageError> {
    let tags = match top.image_name() {
        Some(name) => vec![Reference::parse(name)?.or_latest()],
        None => Vec::new(),
    };
    let mut blobs = Vec::new();
    let mut descriptor = top.clone();
    for _ in 0..MAX_INDEX_DEPTH {
        let bytes = archive.read_blob(&descriptor.digest)?;
        blobs.push(descriptor.digest.clone());
        if descriptor.is_index() {
            let index: Index = json(&bytes, "image index")?;
            let fitting = index.manifests.into_iter().find(Descriptor::fits_host);
            descriptor = fitting
                .ok_or_else(|| ImageError::archive("no image for this machine's platform"))?;
            continue;
        }
        let manifest: Manifest = json(&bytes, "image manifest")?;
        let config = archive.read_blob(&manifest.config.digest)?;
        let layers = manifest
            .layers
            .iter()
            .map(|l| blob_path(&l.digest))
            .collect::<Result<_, _>>()?;
        blobs.extend(manifest.layers.into_iter().map(|l| l.digest));
        return Ok(Source {
            config,
            layers,
            tags,
            blobs,
        });
    }
    Err(ImageError::archive(format_args!(
        "more than {MAX_INDEX_DEPTH} nested indexes"
    )))
}
