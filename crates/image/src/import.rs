//! `docker import`: an image of one layer from a root file system.

use std::fs::File;
use std::io::{self, Read, Write};

use crate::archive::{decompress, plain_or_not, spool_failed};
use crate::digest::HashingReader;
use crate::load::NewImage;
use crate::model::{ConfigFile, History, RootFs};
use crate::oci::{HOST_OS, Platform};
use crate::pins::Pins;
use crate::space::SpaceGuard;
use crate::store::{LayerRecord, now_unix_ns};
use crate::{ImageError, ImageId, ImageStore, Reference, changes};

/// What an import is given besides the archive.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Reference for the new image, with a tag.
    pub reference: Option<Reference>,
    /// Dockerfile instructions, one per string.
    pub changes: Vec<String>,
    /// Comment.
    pub message: String,
    /// This machine's by default.
    pub platform: Option<Platform>,
}

/// How the archive of a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packed {
    /// As its first bytes say.
    AsFound,
    /// Not at all, whatever they look like.
    Plain,
}

/// Writes what is read through it to a file.
struct Tee<R> {
    inner: R,
    file: File,
    space: SpaceGuard,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.space.take(&self.file, n as u64)?;
        self.file.write_all(&buf[..n])?;
        Ok(n)
    }
}

impl ImageStore {
    /// Makes an image of one layer (plain, gzip or zstd tar).
    pub fn import(
        &self,
        reader: impl Read,
        options: &ImportOptions,
    ) -> Result<ImageId, ImageError> {
        let mut file = config_file(options)?;
        let mut pins = Pins::new(self);
        let (diff_id, record) = self.import_layer(reader, Packed::AsFound, &mut pins)?;
        file.history = vec![History {
            created: file.created.clone(),
            comment: options.message.clone(),
            ..History::default()
        }];
        file.rootfs = Some(RootFs {
            kind: "layers".into(),
            diff_ids: vec![diff_id.clone()],
        });
        let raw = crate::store::to_json(&file)?;
        let new = NewImage {
            config: &raw,
            layers: vec![(diff_id, record)],
            blobs: Vec::new(),
            tags: options.reference.as_slice(),
            tagged_unix_ns: Some(now_unix_ns()),
        };
        self.commit_image(&mut pins, new).map(|(id, _)| id)
    }

    /// Takes a layer in, as it comes.
    pub(crate) fn import_layer(
        &self,
        reader: impl Read,
        packed: Packed,
        pins: &mut Pins<'_>,
    ) -> Result<(String, LayerRecord), ImageError> {
        let (plain, reader) = plain_or_not(reader)?;
        let (scratch, file) = self.blobs.scratch()?;
        let mut raw = HashingReader::new(Tee {
            inner: reader,
            file,
            space: SpaceGuard::new(),
        });
        let staged = match packed {
            Packed::AsFound if !plain => self.layers.stage(&mut decompress(&mut raw)?, None)?,
            // What is kept of a plain one is the layer already.
            Packed::AsFound | Packed::Plain => {
                self.layers.stage_kept(&mut raw, &scratch.path, None)?
            }
        };
        io::copy(&mut raw, &mut io::sink()).map_err(|e| spool_failed(e, "keep the layer"))?;
        let (blob, _) = raw.finish();
        // Before it is in its place: from then on a removal may look for it.
        pins.add(&staged.ingested.diff_id);
        pins.add(&blob);
        self.blobs.keep(&scratch, &blob)?;
        let layer = self.layers.publish(staged)?;
        let record = LayerRecord {
            size_bytes: layer.size_bytes,
            tar_bytes: layer.tar_bytes,
            blob,
        };
        Ok((layer.diff_id, record))
    }
}

fn config_file(options: &ImportOptions) -> Result<ConfigFile, ImageError> {
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    if platform.os != HOST_OS {
        return Err(ImageError::InvalidReference(
            "operating system is not supported".into(),
        ));
    }
    let mut file = ConfigFile {
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        comment: options.message.clone(),
        created: Some(jiff::Timestamp::now().to_string()),
        ..ConfigFile::default()
    };
    changes::apply(&mut file.config, &options.changes)?;
    Ok(file)
}
