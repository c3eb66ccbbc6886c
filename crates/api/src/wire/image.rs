//! Images: list, inspect, history, delete.

use std::collections::BTreeMap;

use gantry_image::Image;
use serde::Serialize;
use serde_json::Value;

/// One row of the list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Summary {
    pub containers: i64,
    pub created: i64,
    pub id: String,
    pub labels: Option<BTreeMap<String, String>>,
    pub parent_id: &'static str,
    pub repo_digests: Vec<String>,
    pub repo_tags: Vec<String>,
    pub shared_size: i64,
    pub size: u64,
}

/// Answer of inspect.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Inspect {
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub parent: &'static str,
    pub comment: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    pub docker_version: String,
    pub author: String,
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    pub os: String,
    pub size: u64,
    pub graph_driver: super::container::GraphDriver,
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    pub metadata: Metadata,
    pub config: Config,
}

/// `RootFS`
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct RootFs {
    #[serde(rename = "Type")]
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
}

/// `Metadata`
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Metadata {
    pub last_tag_time: String,
}

/// `Config` of an image. The first fields mean nothing for images; old clients want them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Config {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
    pub attach_stderr: bool,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub cmd: Option<Vec<String>>,
    pub domainname: &'static str,
    pub entrypoint: Option<Vec<String>>,
    pub env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Value>,
    pub hostname: &'static str,
    pub image: &'static str,
    pub labels: Option<BTreeMap<String, String>>,
    pub on_build: Option<Vec<String>>,
    pub open_stdin: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    pub stdin_once: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    pub tty: bool,
    pub user: String,
    pub volumes: Option<BTreeMap<String, Value>>,
    pub working_dir: String,
}

/// One step of the history.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct HistoryItem {
    pub comment: String,
    pub created: i64,
    pub created_by: String,
    pub id: String,
    pub size: u64,
    pub tags: Option<Vec<String>>,
}

/// The row of an image.
pub fn summary(image: &Image, repo_tags: Vec<String>, repo_digests: Vec<String>) -> Summary {
    Summary {
        containers: -1,
        created: image.created_unix_s,
        id: image.id.to_string(),
        labels: image.config.labels.clone(),
        parent_id: "",
        repo_digests,
        repo_tags,
        shared_size: -1,
        size: image.size_bytes,
    }
}

/// The document of an image.
pub fn inspect(image: &Image, lowers: &[std::path::PathBuf]) -> Inspect {
    let mut data = BTreeMap::new();
    let mut paths = lowers.iter().map(|l| l.to_string_lossy().into_owned());
    if let Some(top) = paths.next() {
        data.insert("UpperDir", top);
    }
    let rest: Vec<_> = paths.collect();
    if !rest.is_empty() {
        data.insert("LowerDir", rest.join(":"));
    }
    Inspect {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        parent: "",
        comment: image.comment.clone(),
        created: image.created.clone(),
        docker_version: image.docker_version.clone(),
        author: image.author.clone(),
        architecture: image.architecture.clone(),
        variant: image.variant.clone(),
        os: image.os.clone(),
        size: image.size_bytes,
        graph_driver: super::container::GraphDriver {
            data,
            name: crate::render::STORAGE_DRIVER,
        },
        root_fs: RootFs {
            kind: "layers",
            layers: image.diff_ids.clone(),
        },
        metadata: Metadata {
            last_tag_time: crate::text::rfc3339(image.last_tagged_unix_ns),
        },
        config: config(image),
    }
}

fn config(image: &Image) -> Config {
    let c = &image.config;
    Config {
        args_escaped: c.args_escaped,
        attach_stderr: false,
        attach_stdin: false,
        attach_stdout: false,
        cmd: c.cmd.clone(),
        domainname: "",
        entrypoint: c.entrypoint.clone(),
        env: c.env.clone(),
        exposed_ports: c.exposed_ports.clone(),
        healthcheck: c
            .healthcheck
            .as_ref()
            .and_then(|h| serde_json::to_value(h).ok()),
        hostname: "",
        image: "",
        labels: c.labels.clone(),
        on_build: c.on_build.clone(),
        open_stdin: false,
        shell: c.shell.clone(),
        stdin_once: false,
        stop_signal: c.stop_signal.clone(),
        tty: false,
        user: c.user.clone(),
        volumes: c.volumes.clone(),
        working_dir: c.working_dir.clone(),
    }
}

/// The steps of an image, newest first.
pub fn history(image: &Image) -> Vec<HistoryItem> {
    let mut sizes = image.layer_sizes_bytes.iter().copied();
    let mut items: Vec<HistoryItem> = image
        .history
        .iter()
        .map(|step| HistoryItem {
            comment: step.comment.clone(),
            created: step.created.as_deref().map_or(0, unix_seconds),
            created_by: step.created_by.clone(),
            id: "<missing>".to_owned(),
            size: if step.empty_layer {
                0
            } else {
                sizes.next().unwrap_or(0)
            },
            tags: None,
        })
        .collect();
    items.reverse();
    if let Some(newest) = items.first_mut() {
        newest.id = image.id.to_string();
        newest.tags = (!image.repo_tags.is_empty()).then(|| image.repo_tags.clone());
    }
    items
}

fn unix_seconds(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().map_or(0, |t| t.as_second())
}
