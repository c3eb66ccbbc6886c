//! `docker commit`: an image of another one's layers and one more.

use std::io::{self, PipeWriter, Write};

use crate::error::IoContext;
use crate::import::Packed;
use crate::load::NewImage;
use crate::model::{ConfigFile, History, MAX_LAYERS, RootFs};
use crate::pins::Pins;
use crate::store::now_unix_ns;
use crate::{Image, ImageConfig, ImageError, ImageId, ImageStore, Reference, changes};

/// The digest of an archive without entries; Docker makes no layer of it.
const EMPTY_TAR: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// What an image gets besides its layers.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// Its name.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// Comment, of the image and in its history.
    pub comment: String,
    /// The command that made the layer.
    pub created_by: String,
    /// How its containers run.
    pub config: ImageConfig,
}

impl ImageConfig {
    /// Applies instructions of a Dockerfile.
    ///
    /// # Errors
    /// With Docker's words about an instruction that is not allowed or wrong.
    pub fn change(&mut self, changes: &[String]) -> Result<(), ImageError> {
        changes::apply(self, changes)
    }

    /// Fills in what `below` says and this one does not, by Docker's rules.
    pub fn merge(&mut self, below: &ImageConfig) {
        let filled = |text: &mut String, below: &String| {
            if text.is_empty() {
                text.clone_from(below);
            }
        };
        filled(&mut self.user, &below.user);
        filled(&mut self.working_dir, &below.working_dir);
        for (own, below) in [
            (&mut self.exposed_ports, &below.exposed_ports),
            (&mut self.volumes, &below.volumes),
        ] {
            if let Some(below) = below {
                let mut all = below.clone();
                all.extend(own.take().unwrap_or_default());
                *own = Some(all);
            }
        }
        let name = |item: &String| item.split('=').next().unwrap_or_default().to_owned();
        for item in below.env.iter().flatten() {
            let own = self.env.get_or_insert_default();
            if !own.iter().any(|o| name(o) == name(item)) {
                own.push(item.clone());
            }
        }
        if let Some(below) = &below.labels {
            let mut all = below.clone();
            all.extend(self.labels.take().unwrap_or_default());
            self.labels = Some(all);
        }
        if self.entrypoint.as_ref().is_none_or(Vec::is_empty) {
            if self.cmd.as_ref().is_none_or(Vec::is_empty) {
                self.cmd.clone_from(&below.cmd);
            }
            if self.entrypoint.is_none() {
                self.entrypoint.clone_from(&below.entrypoint);
            }
        }
        if self.stop_signal.as_ref().is_none_or(String::is_empty) {
            self.stop_signal.clone_from(&below.stop_signal);
        }
        self.merge_health(below);
    }

    fn merge_health(&mut self, below: &ImageConfig) {
        let Some(below) = &below.healthcheck else {
            return;
        };
        let own = self.healthcheck.get_or_insert_default();
        if own.test.is_empty() {
            own.test.clone_from(&below.test);
        }
        for (own, below) in [
            (&mut own.interval_ns, below.interval_ns),
            (&mut own.timeout_ns, below.timeout_ns),
            (&mut own.start_period_ns, below.start_period_ns),
            (&mut own.start_interval_ns, below.start_interval_ns),
            (&mut own.retries, below.retries),
        ] {
            if *own == 0 {
                *own = below;
            }
        }
    }
}

impl ImageStore {
    /// Makes an image of the layers of `parent` and of one that `write_layer` writes as an archive, in a thread of its own.
    /// Nothing is left of one that fails.
    pub fn commit(
        &self,
        parent: &Image,
        options: CommitOptions,
        write_layer: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send,
    ) -> Result<ImageId, ImageError> {
        let mut pins = Pins::new(self);
        for diff_id in &parent.diff_ids {
            pins.add(diff_id);
        }
        let (reader, writer) = io::pipe().context(|| "make a pipe".into())?;
        let (layer, written) = std::thread::scope(|scope| {
            let written = scope.spawn(|| write(writer, write_layer));
            let layer = self.import_layer(reader, Packed::Plain, &mut pins);
            let gone = || Err(io::Error::other("the writer of a layer panicked"));
            (layer, written.join().unwrap_or_else(|_| gone()))
        });
        // One that was not written whole may look whole.
        match (&layer, written) {
            // It could not be written because it was not read.
            (Err(_), Err(e)) if e.kind() == io::ErrorKind::BrokenPipe => {}
            (_, written) => written.context(|| "read the container's changes".into())?,
        }
        let (diff_id, record) = layer?;
        let mut file = ConfigFile::parse(&parent.raw_config)?;
        let is_empty = diff_id == EMPTY_TAR;
        let rootfs = file.rootfs.get_or_insert_with(RootFs::default);
        let mut layers = self.records_of(&rootfs.diff_ids)?;
        if !is_empty {
            rootfs.diff_ids.push(diff_id.clone());
            layers.push((diff_id, record));
        }
        if rootfs.diff_ids.len() > MAX_LAYERS {
            return Err(ImageError::Conflict("max depth exceeded".into()));
        }
        let created = Some(jiff::Timestamp::now().to_string());
        file.history.push(History {
            created: created.clone(),
            created_by: options.created_by,
            author: options.author.clone(),
            comment: options.comment.clone(),
            empty_layer: is_empty,
        });
        file.created = created;
        file.author = options.author;
        file.comment = options.comment;
        file.config = options.config;
        file.docker_version = String::new();
        let raw = crate::store::to_json(&file)?;
        let new = NewImage {
            config: &raw,
            layers,
            blobs: Vec::new(),
            tags: options.reference.as_slice(),
            tagged_unix_ns: Some(now_unix_ns()),
        };
        self.commit_image(&mut pins, new).map(|(id, _)| id)
    }

    /// The records of layers that are there and pinned.
    fn records_of(
        &self,
        diff_ids: &[String],
    ) -> Result<Vec<(String, crate::store::LayerRecord)>, ImageError> {
        let state = self.lock();
        let record = |diff_id: &String| {
            let record = state.layers.get(diff_id).cloned();
            let missing = || ImageError::archive(format_args!("layer {diff_id} is missing"));
            Ok((diff_id.clone(), record.ok_or_else(missing)?))
        };
        diff_ids.iter().map(record).collect()
    }
}

fn write(
    mut writer: PipeWriter,
    layer: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffered = io::BufWriter::with_capacity(BUFFER_BYTES, &mut writer);
    layer(&mut buffered)?;
    buffered.flush()
}

/// Bytes written to the pipe at once.
const BUFFER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_taken_over() {
        let config = |text: &str| serde_json::from_str::<ImageConfig>(text).unwrap();
        let below = config(
            r#"{"Env":["X=y","PATH=p"],"Cmd":["a"],"Entrypoint":["e"],"Labels":{"l":"1","m":"1"},"WorkingDir":"/d",
                "ExposedPorts":{"80/tcp":{}},"User":"u","Healthcheck":{"Test":["CMD","t"],"Retries":3}}"#,
        );
        let mut own = config(
            r#"{"Env":["E=1","X=z"],"Cmd":["over"],"Labels":{"l":"2"},"ExposedPorts":{"81/tcp":{}},"Volumes":{"/x":{}},
                "Healthcheck":{"Interval":5}}"#,
        );
        own.merge(&below);
        let all = config(
            r#"{"Env":["E=1","X=z","PATH=p"],"Cmd":["over"],"Entrypoint":["e"],"Labels":{"l":"2","m":"1"},
                "WorkingDir":"/d","ExposedPorts":{"80/tcp":{},"81/tcp":{}},"User":"u","Volumes":{"/x":{}},
                "Healthcheck":{"Test":["CMD","t"],"Retries":3,"Interval":5}}"#,
        );
        assert_eq!(own, all);
        let mut none = ImageConfig::default();
        none.merge(&below);
        assert_eq!(none, below);
        let mut entry = config(r#"{"Entrypoint":["own"]}"#);
        entry.merge(&below);
        assert_eq!(
            (entry.cmd, entry.entrypoint),
            (None, Some(vec!["own".to_owned()]))
        );
    }
}
