//! What a push sends: blobs as they came, manifests as they came, or new ones for images that never had one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use gantry_store::{Batch, Table};
use serde::Serialize;

use super::{ContentLease, Manifest};
use crate::archive::{decompress, spool_failed};
use crate::blobs::Scratch;
use crate::digest::HashingReader;
use crate::error::IoContext;
use crate::pins::Pins;
use crate::space::SpaceGuard;
use crate::store::to_json;
use crate::{Image, ImageError, ImageStore, Reference, digest};

const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Bytes compressed at once.
const COPY_BYTES: usize = 128 * 1024;
/// How hard layers are compressed that have no compressed form yet. At 6, the usual one, finding matches was a third of the
/// engine's CPU over a load, a push and two pulls of one image; zlib's 3 took half of its time for 5 % more bytes of a program.
const GZIP_LEVEL: u32 = 3;

/// A blob that a registry is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushLayer {
    /// Digest of the uncompressed tar.
    pub diff_id: String,
    /// What the image's manifest calls it. `None`: it has none yet, and the layer is compressed for it.
    pub blob: Option<(String, u64)>,
}

/// An image that a registry is to have.
pub struct PushImage {
    /// The image.
    pub image: Arc<Image>,
    /// Its manifest's bytes, and their media type, if it has one whose layers are here.
    pub manifest: Option<(Vec<u8>, String)>,
    /// Lowest first.
    pub layers: Vec<PushLayer>,
}

/// A blob of ours, open.
pub struct PushBlob {
    /// `sha256:<64 hex>`.
    pub digest: String,
    /// Its length.
    pub size_bytes: u64,
    file: File,
    /// It was made for this push only.
    _scratch: Option<Scratch>,
}

impl Read for PushBlob {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

/// As dockerd writes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewManifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: NewDescriptor<'a>,
    layers: Vec<NewDescriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewDescriptor<'a> {
    media_type: &'a str,
    size: u64,
    digest: &'a str,
}

/// The manifest of an image whose layers are these gzip blobs, byte for byte as dockerd writes it.
pub fn new_manifest(image: &Image, blobs: &[(String, u64)]) -> (Vec<u8>, String) {
    let layers = blobs.iter().map(|(digest, size)| NewDescriptor {
        media_type: LAYER_TYPE,
        size: *size,
        digest,
    });
    let manifest = NewManifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE,
        config: NewDescriptor {
            media_type: CONFIG_TYPE,
            size: image.raw_config.len() as u64,
            digest: &image.id,
        },
        layers: layers.collect(),
    };
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    let mut out = serde_json::Serializer::with_formatter(&mut bytes, format);
    // Strings and numbers into memory: it can be written.
    let _ = manifest.serialize(&mut out);
    (bytes, MANIFEST_TYPE.to_owned())
}

impl ImageStore {
    /// The references that a push means: the one of its tag, or all tags of its repository.
    pub fn push_references(&self, reference: &Reference) -> Result<Vec<Reference>, ImageError> {
        let snapshot = self.snapshot();
        let tags: Vec<Reference> = snapshot
            .tags
            .keys()
            .filter_map(|full| Reference::parse(full).ok())
            .filter(|r| r.name() == reference.name() && r.digest().is_none())
            .collect();
        if tags.is_empty() {
            return Err(ImageError::NotPushable(format!(
                "An image does not exist locally with the tag: {}",
                reference.familiar_name()
            )));
        }
        if reference.tag().is_none() {
            return Ok(tags);
        }
        if !tags.contains(reference) {
            let text = format!("tag does not exist: {}", reference.familiar());
            return Err(ImageError::NotPushable(text));
        }
        Ok(vec![reference.clone()])
    }

    /// What a push of this name sends. `lease` holds it. With `fresh` a manifest that is here is not used.
    pub fn plan_push(
        &self,
        reference: &Reference,
        lease: &ContentLease,
        fresh: bool,
    ) -> Result<PushImage, ImageError> {
        let image = self.snapshot().resolve(&reference.full())?;
        for diff_id in &image.diff_ids {
            lease.add(diff_id);
        }
        let own = match fresh {
            true => None,
            false => self.own_manifest(&image)?,
        };
        let blobs: Vec<Option<(String, u64)>> = match &own {
            Some((_, _, manifest)) => {
                let layers = manifest.layers.iter();
                layers
                    .map(|l| Some((l.digest.clone(), l.size_bytes)))
                    .collect()
            }
            None => self.kept_gzip(&image)?,
        };
        for (digest, _) in blobs.iter().flatten() {
            lease.add(digest);
        }
        let layers = image.diff_ids.iter().zip(blobs);
        Ok(PushImage {
            layers: layers
                .map(|(diff_id, blob)| PushLayer {
                    diff_id: diff_id.clone(),
                    blob,
                })
                .collect(),
            manifest: own.map(|(bytes, media_type, _)| (bytes, media_type)),
            image,
        })
    }

    /// The manifest that the image came with, or was pushed with.
    fn own_manifest(
        &self,
        image: &Image,
    ) -> Result<Option<(Vec<u8>, String, Manifest)>, ImageError> {
        let kept = self.lock().images.get(&image.id).cloned();
        for blob in kept.unwrap_or_default().blobs {
            let bytes = self.blobs.read(&blob)?;
            let Ok(manifest) = Manifest::parse(&bytes) else {
                continue;
            };
            if manifest.config.digest != image.id || manifest.layers.len() != image.diff_ids.len() {
                continue;
            }
            let media_type = match manifest.media_type.as_str() {
                "" => "application/vnd.oci.image.manifest.v1+json",
                own => own,
            };
            return Ok(Some((bytes, media_type.to_owned(), manifest)));
        }
        Ok(None)
    }

    /// For a new manifest: the gzip blobs that are here.
    fn kept_gzip(&self, image: &Image) -> Result<Vec<Option<(String, u64)>>, ImageError> {
        let mut found = Vec::with_capacity(image.diff_ids.len());
        for diff_id in &image.diff_ids {
            let record = self.lock().layers.get(diff_id).cloned();
            let blob = record.map_or_else(String::new, |r| r.blob);
            let mut start = [0; 2];
            let gzip = !blob.is_empty()
                && blob != *diff_id
                && self
                    .blobs
                    .open_blob(&blob)
                    .is_ok_and(|mut f| f.read_exact(&mut start).is_ok() && start == [0x1f, 0x8b]);
            found.push(match gzip {
                true => {
                    let len = self.blobs.open_blob(&blob)?.metadata();
                    Some((blob, len.context(|| "read a layer".into())?.len()))
                }
                false => None,
            });
        }
        Ok(found)
    }

    /// Opens what is to be sent for a layer. One that is not here in that form is compressed, and may get another digest.
    pub fn open_push_blob(&self, layer: &PushLayer) -> Result<PushBlob, ImageError> {
        if let Some((digest, size_bytes)) = &layer.blob
            && let Ok(file) = self.blobs.open_blob(digest)
        {
            return Ok(PushBlob {
                digest: digest.clone(),
                size_bytes: *size_bytes,
                file,
                _scratch: None,
            });
        }
        let record = self.lock().layers.get(&layer.diff_id).cloned();
        let record = record.ok_or_else(|| ImageError::NotFound(layer.diff_id.clone()))?;
        if record.blob.is_empty() {
            return Err(ImageError::Conflict(format!(
                "the archive of layer {} was not kept: load the image again to push it",
                layer.diff_id
            )));
        }
        self.compress(
            decompress(self.blobs.open_blob(&record.blob)?)?,
            &layer.diff_id,
        )
    }

    fn compress(&self, tar: impl Read, diff_id: &str) -> Result<PushBlob, ImageError> {
        let (scratch, file) = self.blobs.scratch()?;
        let failed = |e| spool_failed(e, "compress a layer");
        let mut tar = HashingReader::new(tar);
        let mut gzip = GzEncoder::new(file, Compression::new(GZIP_LEVEL));
        let mut space = SpaceGuard::new();
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            match tar.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    space.take(gzip.get_ref(), n as u64).map_err(failed)?;
                    gzip.write_all(&buffer[..n]).map_err(failed)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
        drop(gzip.finish().map_err(failed)?);
        if tar.finish().0 != diff_id {
            return Err(ImageError::Io {
                what: format!("push layer {diff_id}"),
                source: io::Error::other("its archive on disk is damaged"),
            });
        }
        let open = || File::open(&scratch.path).map_err(failed);
        let mut hashed = HashingReader::new(open()?);
        io::copy(&mut hashed, &mut io::sink()).map_err(failed)?;
        let (digest, size_bytes) = hashed.finish();
        Ok(PushBlob {
            digest,
            size_bytes,
            file: open()?,
            _scratch: Some(scratch),
        })
    }

    /// Repositories of the same registry that were seen to have a layer, as paths, without `reference`'s own.
    pub fn mount_sources(&self, reference: &Reference, diff_id: &str) -> Vec<String> {
        let snapshot = self.snapshot();
        let mut found = BTreeSet::new();
        for (full, id) in &snapshot.tags {
            let (Ok(other), Some(image)) = (Reference::parse(full), snapshot.get(id)) else {
                continue;
            };
            // Only a name by digest says that the registry had it.
            if other.digest().is_some()
                && other.domain() == reference.domain()
                && other.path() != reference.path()
                && image.diff_ids.iter().any(|d| d == diff_id)
            {
                found.insert(other.path().to_owned());
            }
        }
        found.into_iter().collect()
    }

    /// Keeps what an image was pushed as: its manifest, and the name by digest.
    pub fn commit_pushed(
        &self,
        image: &Image,
        manifest: &[u8],
        name: &Reference,
    ) -> Result<(), ImageError> {
        let mut pins = Pins::new(self);
        pins.add(&digest::of_bytes(manifest));
        let blob = self.blobs.put(manifest)?;
        let mut state = self.lock();
        let Some(mut record) = state.images.get(&image.id).cloned() else {
            // It was removed meanwhile.
            return Ok(());
        };
        if !record.blobs.contains(&blob) {
            record.blobs.push(blob);
            let mut batch = Batch::new();
            batch.put(Table::Images, &image.id, to_json(&record)?);
            self.store.commit_blocking(batch)?;
            state.images.insert(image.id.clone(), record);
        }
        self.set_tag(&mut state, &image.id, name, None).map(drop)
    }
}
