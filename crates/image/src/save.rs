//! `docker save`: an OCI layout that is also a docker archive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::archive::{blob_path, decompress};
use crate::digest;
use crate::error::IoContext;
use crate::oci::Platform;
use crate::pins::Pins;
use crate::tar::Writer;
use crate::{Image, ImageError, ImageStore, Reference};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Bytes copied at once.
const COPY_BYTES: usize = 128 * 1024;

/// A layer as it goes out.
struct Layer {
    diff_id: String,
    blob: String,
    tar_bytes: u64,
}

struct Item {
    image: Arc<Image>,
    tags: Vec<Reference>,
    layers: Vec<Layer>,
}

/// What a save will write; its content is kept until it is dropped.
pub struct SavePlan<'a> {
    store: &'a ImageStore,
    items: Vec<Item>,
    /// Until the last byte is written.
    _pins: Pins<'a>,
}

impl ImageStore {
    /// Looks up the images of a save; nothing is written yet. A name without a tag takes every tag of its
    /// repository, an id none.
    pub fn plan_save(
        &self,
        names: &[String],
        platform: Option<&Platform>,
    ) -> Result<SavePlan<'_>, ImageError> {
        let snapshot = self.snapshot();
        let mut items: Vec<Item> = Vec::new();
        for name in names {
            for (image, tag) in meant(&snapshot, name)? {
                check_platform(&image, name, platform)?;
                let at = items.iter().position(|i| i.image.id == image.id);
                let item = match at {
                    Some(at) => &mut items[at],
                    None => {
                        let layers = Vec::new();
                        items.push(Item {
                            image,
                            tags: Vec::new(),
                            layers,
                        });
                        let last = items.len() - 1;
                        &mut items[last]
                    }
                };
                item.tags.extend(tag.filter(|tag| !item.tags.contains(tag)));
            }
        }
        let mut pins = Pins::new(self);
        for item in &mut items {
            self.find_layers(item, &mut pins)?;
        }
        Ok(SavePlan {
            store: self,
            items,
            _pins: pins,
        })
    }

    fn find_layers(&self, item: &mut Item, pins: &mut Pins<'_>) -> Result<(), ImageError> {
        for diff_id in &item.image.diff_ids {
            pins.add(diff_id);
            let record = self.lock().layers.get(diff_id).cloned();
            // Removed between the look-up and the pin.
            let record = record.ok_or_else(|| ImageError::NotFound(item.image.id.clone()))?;
            if record.blob.is_empty() {
                return Err(ImageError::Conflict(format!(
                    "the archive of layer {diff_id} was not kept: load the image again to save it"
                )));
            }
            pins.add(&record.blob);
            self.blobs.open_blob(&record.blob)?;
            item.layers.push(Layer {
                diff_id: diff_id.clone(),
                blob: record.blob,
                tar_bytes: record.tar_bytes,
            });
        }
        Ok(())
    }
}

/// An image, and the tag it goes by.
type Named = (Arc<Image>, Option<Reference>);

/// The images a name of a save means, each with the tag it goes by.
fn meant(snapshot: &crate::ImageSnapshot, name: &str) -> Result<Vec<Named>, ImageError> {
    use crate::reference::{AnyReference, parse_any};
    if let AnyReference::Named(reference) = parse_any(name)? {
        if reference.tag().is_none() && reference.digest().is_none() {
            let repository: Vec<_> = snapshot
                .tags
                .iter()
                .filter_map(|(full, id)| Some((Reference::parse(full).ok()?, snapshot.get(id)?)))
                .filter(|(r, _)| r.name() == reference.name() && r.digest().is_none())
                .map(|(r, image)| (image.clone(), Some(r)))
                .collect();
            if !repository.is_empty() {
                return Ok(repository);
            }
        }
        let is_tag = snapshot.tags.contains_key(&reference.full()) && reference.digest().is_none();
        if let Some(image) = snapshot.resolve(name).ok().filter(|_| is_tag) {
            return Ok(vec![(image, Some(reference))]);
        }
    }
    match snapshot.resolve(name) {
        Ok(image) => Ok(vec![(image, None)]),
        Err(ImageError::NotFound(_)) => Err(ImageError::NotFound(name.to_owned())),
        Err(e) => Err(e),
    }
}

fn check_platform(
    image: &Image,
    name: &str,
    platform: Option<&Platform>,
) -> Result<(), ImageError> {
    let Some(wanted) = platform.filter(|p| !p.fits(&image.platform())) else {
        return Ok(());
    };
    Err(ImageError::WrongPlatform {
        name: name.to_owned(),
        has: image.platform().to_string(),
        wanted: wanted.to_string(),
    })
}

impl SavePlan<'_> {
    /// The ids of what is saved.
    pub fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.items.iter().map(|i| &i.image)
    }

    /// Writes the archive.
    pub fn write(&self, to: &mut dyn Write) -> Result<(), ImageError> {
        let mut tar = Writer::new(to);
        let mut written = BTreeSet::new();
        let out = |e: io::Error| ImageError::Io {
            what: "write the archive".into(),
            source: e,
        };
        if !self.items.is_empty() {
            for dir in ["blobs/", "blobs/sha256/"] {
                tar.directory(dir).map_err(out)?;
            }
        }
        let mut manifests = Vec::new();
        let mut descriptors = Vec::new();
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for item in &self.items {
            for layer in &item.layers {
                if written.insert(layer.diff_id.clone()) {
                    self.layer(&mut tar, layer)?;
                }
            }
            let config = &item.image.raw_config;
            let manifest = manifest(item).to_string();
            let manifest_digest = digest::of_bytes(manifest.as_bytes());
            for (digest, bytes) in [
                (&item.image.id, &config[..]),
                (&manifest_digest, manifest.as_bytes()),
            ] {
                if written.insert(digest.clone()) {
                    tar.file(&blob_path(digest)?, bytes).map_err(out)?;
                }
            }
            descriptors.extend(index_entries(item, &manifest_digest, manifest.len()));
            manifests.push(docker_manifest(item)?);
            let top = item.image.diff_ids.last();
            for tag in &item.tags {
                let hex = top.map(|d| digest::hex_of(d)).transpose()?;
                repositories.entry(tag.familiar_name()).or_default().insert(
                    tag.tag().unwrap_or_default().into(),
                    hex.unwrap_or_default().into(),
                );
            }
        }
        let index =
            json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": descriptors });
        let files = [
            ("index.json", index.to_string()),
            ("manifest.json", format!("{}\n", Value::from(manifests))),
            (
                "oci-layout",
                r#"{"imageLayoutVersion": "1.0.0"}"#.to_owned(),
            ),
        ];
        for (name, text) in &files {
            tar.file(name, text.as_bytes()).map_err(out)?;
        }
        if !repositories.is_empty() {
            let text = format!("{}\n", json!(repositories));
            tar.file("repositories", text.as_bytes()).map_err(out)?;
        }
        tar.finish().map_err(out)
    }

    /// The tar of a layer, byte for byte what it was; a damaged one ends the archive.
    fn layer(&self, tar: &mut Writer<'_>, layer: &Layer) -> Result<(), ImageError> {
        let what = || format!("save layer {}", layer.diff_id);
        let file = self.store.blobs.open_blob(&layer.blob)?;
        let mut source = digest::HashingReader::new(decompress(file)?);
        tar.begin_file(&blob_path(&layer.diff_id)?, layer.tar_bytes)
            .context(what)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => tar.write_content(&buffer[..n]).context(what)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context(what),
            }
        }
        tar.end_file().context(what)?;
        let (found, _) = source.finish();
        if found == layer.diff_id {
            return Ok(());
        }
        Err(ImageError::Io {
            what: what(),
            source: io::Error::other("its archive on disk is damaged"),
        })
    }
}

fn manifest(item: &Item) -> Value {
    let layer =
        |l: &Layer| json!({ "mediaType": LAYER_TYPE, "digest": l.diff_id, "size": l.tar_bytes });
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": item.image.id,
            "size": item.image.raw_config.len(),
        },
        "layers": item.layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

/// One per tag, or one without a name.
fn index_entries(item: &Item, digest: &str, len: usize) -> Vec<Value> {
    let plain = json!({ "mediaType": MANIFEST_TYPE, "digest": digest, "size": len });
    if item.tags.is_empty() {
        return vec![plain];
    }
    let named = |tag: &Reference| {
        let mut entry = plain.clone();
        entry["annotations"] = json!({
            "io.containerd.image.name": tag.full(),
            "org.opencontainers.image.ref.name": tag.tag().unwrap_or_default(),
        });
        entry
    };
    item.tags.iter().map(named).collect()
}

fn docker_manifest(item: &Item) -> Result<Value, ImageError> {
    let mut sources = serde_json::Map::new();
    let mut paths = Vec::with_capacity(item.layers.len());
    for layer in &item.layers {
        paths.push(blob_path(&layer.diff_id)?);
        sources.insert(
            layer.diff_id.clone(),
            json!({ "mediaType": LAYER_TYPE, "size": layer.tar_bytes, "digest": layer.diff_id }),
        );
    }
    let tags: Vec<String> = item.tags.iter().map(Reference::familiar).collect();
    Ok(json!({
        "Config": blob_path(&item.image.id)?,
        "RepoTags": if tags.is_empty() { Value::Null } else { tags.into() },
        "Layers": paths,
        "LayerSources": sources,
    }))
}
