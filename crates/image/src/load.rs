//! `docker load`: docker save archives and OCI layouts.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use gantry_store::{Batch, Table};
use serde::Deserialize;

use crate::archive::{Archive, blob_digest, blob_path, decompress, is_plain};
use crate::digest::{self, HashingReader};
use crate::error::IoContext;
use crate::model::ConfigFile;
use crate::oci::{Descriptor, HOST_OS, Index, Manifest, Platform};
use crate::pins::Pins;
use crate::progress::ProgressReader;
use crate::store::{ImageRecord, LayerRecord, to_json};
use crate::{ImageError, ImageId, ImageStore, Reference};

/// Bytes read of a layer's file at once.
const READ_BYTES: usize = 256 * 1024;
/// Indexes inside indexes.
const MAX_INDEX_DEPTH: usize = 4;
/// Images in one archive.
const MAX_IMAGES: usize = 1024;

/// Progress of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadEvent {
    /// A line for the client, in Docker's words, with its newline.
    Stream(String),
    /// A part of a layer's file was read.
    Layer {
        /// Digest of its uncompressed tar.
        diff_id: String,
        /// Bytes of the file so far.
        current_bytes: u64,
        /// Bytes of the file.
        total_bytes: u64,
    },
}

/// An image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: ImageId,
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

/// An image whose layers are in place.
pub(crate) struct NewImage<'a> {
    pub(crate) config: &'a [u8],
    /// Diff ids and records, lowest first.
    pub(crate) layers: Vec<(String, LayerRecord)>,
    /// Blobs to keep besides the config.
    pub(crate) blobs: Vec<String>,
    pub(crate) tags: &'a [Reference],
    /// The tagging counts as one.
    pub(crate) tagged_unix_ns: Option<i64>,
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

impl ImageStore {
    /// Loads every image of an archive (plain, gzip or zstd) that is for `platform`, or for any if there is none
    /// wished. What was loaded before an error stays.
    pub fn load(
        &self,
        reader: impl Read,
        platform: Option<&Platform>,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Vec<Loaded>, ImageError> {
        let archive = Archive::spool(reader, &self.blobs)?;
        let sources = if archive.has("manifest.json") {
            docker_sources(&archive)?
        } else if archive.has("index.json") {
            oci_sources(&archive, platform)?
        } else {
            return Err(ImageError::archive(
                "neither manifest.json nor index.json is in it",
            ));
        };
        let mut loaded = Vec::new();
        let mut passed_over = false;
        for source in sources {
            let config = ConfigFile::parse(&source.config)?;
            if !config.os.is_empty() && config.os != HOST_OS {
                let os = &config.os;
                let text = format!("cannot load {os} image on {HOST_OS}");
                return Err(ImageError::InvalidReference(text));
            }
            if platform.is_some_and(|wanted| !wanted.fits(&config.platform())) {
                passed_over = true;
                continue;
            }
            self.load_one(&archive, &source, &config, progress, &mut loaded)?;
        }
        if let (true, true, Some(platform)) = (passed_over, loaded.is_empty(), platform) {
            return Err(ImageError::archive(format_args!(
                "no image in it is for the platform {platform}"
            )));
        }
        Ok(loaded)
    }

    fn load_one(
        &self,
        archive: &Archive,
        source: &Source,
        config: &ConfigFile,
        progress: &mut dyn FnMut(LoadEvent),
        loaded: &mut Vec<Loaded>,
    ) -> Result<(), ImageError> {
        let diff_ids = config.diff_ids();
        if diff_ids.len() != source.layers.len() {
            let (has, says) = (source.layers.len(), diff_ids.len());
            return Err(ImageError::InvalidReference(format!(
                "invalid manifest, layers length mismatch: expected {has}, got {says}"
            )));
        }
        let mut pins = Pins::new(self);
        let mut layers = Vec::with_capacity(diff_ids.len());
        for (diff_id, path) in diff_ids.iter().zip(&source.layers) {
            pins.add(diff_id);
            layers.push(self.load_layer(archive, diff_id, path, &mut pins, progress)?);
        }
        for digest in &source.blobs {
            pins.add(digest);
            self.blobs
                .keep(archive.scratch(&blob_path(digest)?)?, digest)?;
        }
        let new = NewImage {
            config: &source.config,
            layers,
            blobs: source.blobs.clone(),
            tags: &source.tags,
            tagged_unix_ns: None,
        };
        let (id, replaced) = self.commit_image(&mut pins, new)?;
        for (tag, old) in source.tags.iter().zip(replaced) {
            let tag = tag.familiar();
            if let Some(old) = old {
                progress(LoadEvent::Stream(format!(
                    "The image {tag} already exists, renaming the old one with ID {old} to empty string\n"
                )));
            }
            progress(LoadEvent::Stream(format!("Loaded image: {tag}\n")));
        }
        if source.tags.is_empty() {
            progress(LoadEvent::Stream(format!("Loaded image ID: {id}\n")));
        }
        loaded.push(Loaded { id });
        Ok(())
    }

    fn load_layer(
        &self,
        archive: &Archive,
        diff_id: &str,
        path: &str,
        pins: &mut Pins<'_>,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<(String, LayerRecord), ImageError> {
        // Also where the layer is known: a manifest that names what is not there is not to be trusted.
        let mut file = archive.open(path)?;
        let known = self.lock().layers.get(diff_id).cloned();
        if let Some(record) = known
            && self.layers.contains(diff_id)
            && (record.blob.is_empty() || self.blobs.path(&record.blob)?.is_file())
        {
            return Ok((diff_id.to_owned(), record));
        }
        let what = || format!("read {path:?}");
        let plain = is_plain(&mut file).context(what)?;
        let total_bytes = file.metadata().context(what)?.len();
        let reader = ProgressReader::new(file, diff_id, total_bytes, progress);
        let mut reader = BufReader::with_capacity(READ_BYTES, reader);
        let (staged, blob) = if plain {
            let file = &archive.scratch(path)?.path;
            let staged = self.layers.stage_kept(&mut reader, file, Some(diff_id))?;
            (staged, diff_id.to_owned())
        } else {
            let mut raw = HashingReader::new(&mut reader);
            let staged = self
                .layers
                .stage(&mut decompress(&mut raw)?, Some(diff_id))?;
            std::io::copy(&mut raw, &mut std::io::sink()).map_err(ImageError::reading)?;
            (staged, raw.finish().0)
        };
        if let Ok(named) = blob_digest(path)
            && named != blob
        {
            return Err(ImageError::archive(format_args!(
                "blob {named} does not have its digest"
            )));
        }
        pins.add(&blob);
        self.blobs.keep(archive.scratch(path)?, &blob)?;
        let layer = self.layers.publish(staged)?;
        let record = LayerRecord {
            size_bytes: layer.size_bytes,
            tar_bytes: layer.tar_bytes,
            blob,
        };
        Ok((layer.diff_id, record))
    }

    /// Makes an image whose layers are in place, with its names: config synced, then the record. Also the images
    /// that had the names before.
    pub(crate) fn commit_image(
        &self,
        pins: &mut Pins<'_>,
        new: NewImage<'_>,
    ) -> Result<(ImageId, Vec<Option<ImageId>>), ImageError> {
        let NewImage {
            config,
            layers,
            blobs,
            tags,
            tagged_unix_ns,
        } = new;
        pins.add(&digest::of_bytes(config));
        let mut state = self.lock();
        let id = self.blobs.put(config)?;
        let mut record = state.images.get(&id).cloned().unwrap_or_default();
        record.hidden = false;
        record.blobs.extend(blobs);
        record.blobs.sort();
        record.blobs.dedup();
        if !tags.is_empty() {
            record.last_tagged_unix_ns = tagged_unix_ns.unwrap_or(record.last_tagged_unix_ns);
        }
        // With its names at once: nobody, and no end of the daemon, sees it without them.
        let mut batch = Batch::new();
        batch.put(Table::Images, &id, to_json::<ImageRecord>(&record)?);
        for tag in tags {
            batch.put(Table::Tags, tag.full(), id.as_str());
        }
        let mut known = BTreeMap::new();
        for (diff_id, mut layer) in layers {
            if let Some(first) = state.layers.get(&diff_id) {
                // Another load was first; what it kept is what counts.
                layer.clone_from(first);
            }
            batch.put(Table::Layers, &diff_id, to_json(&layer)?);
            known.insert(diff_id, layer);
        }
        let image = self.build(&known, &id, &record)?;
        self.store.commit_blocking(batch)?;
        state.layers.extend(known);
        state.images.insert(id.clone(), record);
        let mut snapshot = (*self.snapshot()).clone();
        snapshot.put(image, false);
        let name = |tag: &Reference| snapshot.tags.insert(tag.full(), id.clone());
        let had = tags.iter().map(name);
        let replaced = had.map(|old| old.filter(|old| *old != id)).collect();
        self.publish(snapshot);
        Ok((id, replaced))
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
                .map(|t| archive_tag(t))
                .collect::<Result<_, _>>()?,
            blobs: Vec::new(),
        })
    };
    manifests.into_iter().map(source).collect()
}

/// A name of a docker archive: it must have a tag and no digest.
fn archive_tag(text: &str) -> Result<Reference, ImageError> {
    let reference = Reference::parse(text)?;
    if reference.tag().is_none() || reference.digest().is_some() {
        return Err(ImageError::InvalidReference(format!(
            "invalid tag {text:?}"
        )));
    }
    Ok(reference)
}

fn oci_sources(archive: &Archive, wanted: Option<&Platform>) -> Result<Vec<Source>, ImageError> {
    let index: Index = json(&archive.read_json("index.json")?, "index.json")?;
    if index.manifests.len() > MAX_IMAGES {
        return Err(ImageError::archive(format_args!(
            "more than {MAX_IMAGES} images"
        )));
    }
    let host = Platform::host();
    let wanted = wanted.unwrap_or(&host);
    let any = index.manifests.is_empty();
    let sources: Vec<Source> = index
        .manifests
        .iter()
        // Other platforms, and what is no image at all (attestations have the platform unknown/unknown).
        .filter(|d| d.fits(wanted))
        .map(|descriptor| oci_source(archive, descriptor, wanted))
        .collect::<Result<_, _>>()?;
    if sources.is_empty() && !any {
        return Err(no_platform(wanted));
    }
    Ok(sources)
}

fn no_platform(wanted: &Platform) -> ImageError {
    ImageError::archive(format_args!("no image in it is for the platform {wanted}"))
}

fn oci_source(
    archive: &Archive,
    top: &Descriptor,
    wanted: &Platform,
) -> Result<Source, ImageError> {
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
            descriptor = index
                .manifests
                .into_iter()
                .find(|d| d.fits(wanted))
                .ok_or_else(|| no_platform(wanted))?;
            continue;
        }
        let manifest: Manifest = json(&bytes, "image manifest")?;
        return Ok(Source {
            config: archive.read_blob(&manifest.config.digest)?,
            layers: manifest
                .layers
                .iter()
                .map(|l| blob_path(&l.digest))
                .collect::<Result<_, _>>()?,
            tags: tags.into_iter().filter(|t| t.digest().is_none()).collect(),
            blobs,
        });
    }
    Err(ImageError::archive(format_args!(
        "more than {MAX_INDEX_DEPTH} nested indexes"
    )))
}
