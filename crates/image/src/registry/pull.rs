//! From a blob that was downloaded to a layer, and from layers to an image with its names.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Partial;
use crate::archive::{decompress, is_plain};
use crate::digest::HashingReader;
use crate::error::IoContext;
use crate::load::NewImage;
use crate::model::ConfigFile;
use crate::pins::Pins;
use crate::platform::HOST_OS;
use crate::store::LayerRecord;
use crate::{ImageError, ImageId, ImageStore, Platform, Reference, digest};

/// Bytes read of a blob at once.
const READ_BYTES: usize = 256 * 1024;

/// A layer that is in its place.
#[derive(Clone, Debug)]
pub struct PulledLayer {
    diff_id: String,
    record: LayerRecord,
    /// The blob that its image's manifest names.
    blob: String,
}

impl PulledLayer {
    /// Digest of its uncompressed tar.
    pub fn diff_id(&self) -> &str {
        &self.diff_id
    }
}

/// What a config file says that a pull needs.
#[derive(Clone, Debug)]
pub struct PulledImage {
    /// The config's digest.
    pub id: ImageId,
    /// Lowest first.
    pub diff_ids: Vec<String>,
    /// What it runs on.
    pub platform: Platform,
    raw: Vec<u8>,
}

/// The names an image gets.
#[derive(Clone, Debug)]
pub struct PulledNames {
    /// The tag, if it was asked for by one.
    pub tag: Option<Reference>,
    /// The repository with the digest of the manifest or index.
    pub digest: Reference,
}

impl PulledImage {
    /// Reads a config whose digest was verified, of a manifest with this many layers.
    pub fn parse(raw: Vec<u8>, layers: usize) -> Result<Self, ImageError> {
        let config = ConfigFile::parse(&raw)?;
        if !config.os.is_empty() && config.os != HOST_OS {
            return Err(ImageError::InvalidReference(format!(
                "image operating system {:?} cannot be used on this platform: operating system is not supported",
                config.os
            )));
        }
        let diff_ids = config.diff_ids().to_vec();
        if diff_ids.len() != layers {
            return Err(ImageError::InvalidReference(
                "layers from manifest don't match image configuration".into(),
            ));
        }
        Ok(Self {
            id: digest::of_bytes(&raw),
            diff_ids,
            platform: config.platform(),
            raw,
        })
    }
}

/// Counts what is read through it.
struct Counting<'a, R> {
    inner: R,
    bytes: &'a AtomicU64,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Refuses a layer that is not what its image says.
fn check(tar: &mut dyn Read, diff_id: &str) -> Result<(), ImageError> {
    let mut hashed = HashingReader::new(tar);
    io::copy(&mut hashed, &mut io::sink()).map_err(ImageError::reading)?;
    match hashed.finish().0 {
        found if found == diff_id => Ok(()),
        found => Err(ImageError::archive(format_args!(
            "layer has diff id {found}, its image says {diff_id}"
        ))),
    }
}

impl ImageStore {
    /// The layer if it is in its place, and this blob of it is here too: one that came in another form is fetched, so
    /// that a push gives out what the manifest names. Does not block for long. The caller holds both by a lease.
    pub fn known_layer(&self, diff_id: &str, blob: &str) -> Option<PulledLayer> {
        let here = self.blobs.path(blob).is_ok_and(|path| path.is_file());
        let record = self.layer_in_place(diff_id).filter(|_| here)?;
        Some(PulledLayer {
            diff_id: diff_id.to_owned(),
            record,
            blob: blob.to_owned(),
        })
    }

    fn layer_in_place(&self, diff_id: &str) -> Option<LayerRecord> {
        let record = self.lock().layers.get(diff_id).cloned()?;
        let path = self.blobs.path(&record.blob);
        let kept = record.blob.is_empty() || path.is_ok_and(|path| path.is_file());
        (kept && self.layers.contains(diff_id)).then_some(record)
    }

    /// Makes a layer of a verified blob and keeps the blob too; `read_bytes` counts what was read of it. The caller
    /// holds both digests by a lease, or the layer goes again.
    pub fn ingest_layer(
        &self,
        partial: &Partial,
        diff_id: &str,
        read_bytes: &AtomicU64,
    ) -> Result<PulledLayer, ImageError> {
        let mut pins = Pins::new(self);
        pins.add(diff_id);
        pins.add(partial.digest());
        let known = self.layer_in_place(diff_id);
        let what = || format!("read {}", partial.path().display());
        let mut file = File::open(partial.path()).context(what)?;
        let plain = is_plain(&mut file).context(what)?;
        if plain && partial.digest() != diff_id {
            return Err(ImageError::archive(format_args!(
                "layer has diff id {}, its image says {diff_id}",
                partial.digest()
            )));
        }
        let reader = Counting {
            inner: file,
            bytes: read_bytes,
        };
        let mut tar = decompress(BufReader::with_capacity(READ_BYTES, reader))?;
        if let Some(record) = known {
            check(&mut tar, diff_id)?;
            self.blobs.keep_file(partial.path(), partial.digest())?;
            return Ok(PulledLayer {
                diff_id: diff_id.to_owned(),
                record,
                blob: partial.digest().to_owned(),
            });
        }
        let staged = self.layers.stage(&mut tar, Some(diff_id))?;
        self.blobs.keep_file(partial.path(), partial.digest())?;
        let layer = self.layers.publish(staged)?;
        let record = LayerRecord {
            size_bytes: layer.size_bytes,
            tar_bytes: layer.tar_bytes,
            blob: partial.digest().to_owned(),
        };
        Ok(PulledLayer {
            diff_id: layer.diff_id,
            blob: record.blob.clone(),
            record,
        })
    }

    /// Makes an image whose layers are in place, with the bytes of its manifest (and index), and gives it its names.
    /// Whether one of them is new or had another image.
    pub fn commit_pulled(
        &self,
        image: &PulledImage,
        layers: Vec<PulledLayer>,
        manifests: &[&[u8]],
        names: &PulledNames,
    ) -> Result<bool, ImageError> {
        let mut pins = Pins::new(self);
        let mut blobs = Vec::with_capacity(manifests.len());
        for bytes in manifests {
            pins.add(&digest::of_bytes(bytes));
            blobs.push(self.blobs.put(bytes)?);
        }
        let others = layers.iter().filter(|l| l.blob != l.record.blob);
        blobs.extend(others.map(|l| l.blob.clone()));
        let tags: Vec<Reference> = names.tag.iter().chain([&names.digest]).cloned().collect();
        let snapshot = self.snapshot();
        let main = names.tag.as_ref().unwrap_or(&names.digest);
        let changed = snapshot.tags.get(&main.full()) != Some(&image.id);
        let new = NewImage {
            config: &image.raw,
            layers: layers.into_iter().map(|l| (l.diff_id, l.record)).collect(),
            blobs,
            tags: &tags,
            tagged_unix_ns: None,
        };
        self.commit_image(&mut pins, new)?;
        Ok(changed)
    }
}
