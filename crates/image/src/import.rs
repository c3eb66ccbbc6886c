//! `docker import`: an image of one layer from a root file system.

use std::io::Read;

use crate::archive::decompress;
use crate::model::{ConfigFile, History, RootFs};
use crate::oci::host_architecture;
use crate::{ImageError, ImageId, ImageStore, Reference, changes};

/// What an import is given besides the archive.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Reference for the new image.
    pub repo_tag: Option<String>,
    /// Dockerfile instructions, one per string.
    pub changes: Vec<String>,
    /// Comment.
    pub message: String,
    /// `os/architecture[/variant]`; this machine's by default.
    pub platform: Option<String>,
}

impl ImageStore {
    /// Makes an image of one layer (plain, gzip or zstd tar).
    pub fn import(
        &self,
        reader: impl Read,
        options: &ImportOptions,
    ) -> Result<ImageId, ImageError> {
        let tag = options
            .repo_tag
            .as_deref()
            .map(|t| Reference::parse(t).map(Reference::or_latest))
            .transpose()?;
        let mut file = ConfigFile {
            architecture: host_architecture().into(),
            os: "linux".into(),
            comment: options.message.clone(),
            created: Some(jiff::Timestamp::now().to_string()),
            ..ConfigFile::default()
        };
        if let Some(platform) = &options.platform {
            let mut parts = platform.splitn(3, '/');
            file.os = parts.next().unwrap_or_default().to_owned();
            file.architecture = parts.next().unwrap_or(host_architecture()).to_owned();
            file.variant = parts.next().unwrap_or_default().to_owned();
            if file.os != "linux" {
                return Err(ImageError::InvalidReference(format!(
                    "operating system is not supported: {}",
                    file.os
                )));
            }
        }
        changes::apply(&mut file.config, &options.changes)?;
        let layer = self.layers.ingest(&mut decompress(reader)?, None)?;
        file.history = vec![History {
            created: file.created.clone(),
            comment: options.message.clone(),
            ..History::default()
        }];
        file.rootfs = RootFs {
            kind: "layers".into(),
            diff_ids: vec![layer.diff_id.clone()],
        };
        let raw = crate::store::to_json(&file)?;
        let id = self.commit_image(&raw, &[layer], Vec::new())?;
        if let Some(tag) = tag {
            self.set_tag(&mut self.lock(), &id, &tag)?;
        }
        Ok(id)
    }
}
