//! Images: list, inspect, history, delete.

use std::collections::BTreeMap;

use gantry_image::Image;
use serde::Serialize;
use serde_json::Value;

use crate::version::ApiVersion;

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
    pub repo_digests: Option<Vec<String>>,
    pub repo_tags: Vec<String>,
    pub shared_size: i64,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<u64>,
}

/// Progress of a layer that is being loaded.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct LayerProgress {
    pub status: &'static str,
    pub progress_detail: ProgressDetail,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub progress: String,
    pub id: String,
}

/// `progressDetail`
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct ProgressDetail {
    pub current: u64,
    pub total: u64,
}

impl LayerProgress {
    /// `current` bytes of `total` of the layer with this digest.
    pub fn new(digest: &str, current: u64, total: u64) -> Self {
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        Self {
            status: "Loading layer",
            progress_detail: ProgressDetail { current, total },
            progress: progress_bar(current, total),
            id: hex.get(..12).unwrap_or(hex).to_owned(),
        }
    }
}

/// Width of the bar between its brackets.
const BAR_WIDTH: usize = 50;

/// Docker's bar: `[====>     ]  10.24kB/20.48kB`.
pub(super) fn progress_bar(current: u64, total: u64) -> String {
    if total == 0 && current == 0 {
        return String::new();
    }
    if total == 0 {
        return format!("{:>8}", human_size(current));
    }
    let share = (current as f64 / total.max(1) as f64 * 100.0) as usize / 2;
    let filled = share.min(BAR_WIDTH);
    // More than was announced: the announcement is of no use.
    let of = if current > total {
        String::new()
    } else {
        format!("/{}", human_size(total))
    };
    format!(
        "[{}>{}] {:>8}{of}",
        "=".repeat(filled),
        " ".repeat(BAR_WIDTH - filled),
        human_size(current)
    )
}

/// Bytes with four digits and a decimal unit, as Docker shows them.
fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        v if v >= 100.0 => 1,
        v if v >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{}", UNITS[unit])
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_config: Option<ContainerConfig>,
    pub docker_version: String,
    pub author: String,
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    pub os: String,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<u64>,
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

/// `ContainerConfig`, which says nothing any more.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct ContainerConfig {
    pub hostname: &'static str,
    pub domainname: &'static str,
    pub user: &'static str,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub env: Option<()>,
    pub cmd: Option<()>,
    pub image: &'static str,
    pub volumes: Option<()>,
    pub working_dir: &'static str,
    pub entrypoint: Option<()>,
    pub on_build: Option<()>,
    pub labels: Option<()>,
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

/// Clients below this version see `<none>:<none>` where there is no tag, and null where there is no digest.
const EMPTY_LISTS_SINCE_MINOR: u32 = 43;
/// Clients below this version see `VirtualSize`, and the year one where an image does not say when it was made.
const NO_VIRTUAL_SIZE_SINCE_MINOR: u32 = 44;
/// Clients below this version see `ContainerConfig`.
const NO_CONTAINER_CONFIG_SINCE_MINOR: u32 = 45;

fn virtual_size(image: &Image, version: ApiVersion) -> Option<u64> {
    (!version.at_least(NO_VIRTUAL_SIZE_SINCE_MINOR)).then_some(image.size_bytes)
}

/// The row of an image.
pub fn summary(
    image: &Image,
    mut repo_tags: Vec<String>,
    shared_bytes: Option<u64>,
    version: ApiVersion,
) -> Summary {
    let mut repo_digests = Some(image.repo_digests.clone());
    if !version.at_least(EMPTY_LISTS_SINCE_MINOR) && image.repo_digests.is_empty() {
        repo_digests = None;
        if repo_tags.is_empty() {
            repo_tags.push("<none>:<none>".to_owned());
            repo_digests = Some(vec!["<none>@<none>".to_owned()]);
        }
    }
    Summary {
        containers: -1,
        created: image.created_unix_s,
        id: image.id.to_string(),
        labels: image.config.labels.clone(),
        parent_id: "",
        repo_digests,
        repo_tags,
        shared_size: shared_bytes.map_or(-1, |b| i64::try_from(b).unwrap_or(i64::MAX)),
        size: image.size_bytes,
        virtual_size: virtual_size(image, version),
    }
}

/// The document of an image.
pub fn inspect(image: &Image, lowers: &[std::path::PathBuf], version: ApiVersion) -> Inspect {
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
        created: image.created.clone().or_else(|| {
            let old = !version.at_least(NO_VIRTUAL_SIZE_SINCE_MINOR);
            old.then(|| "0001-01-01T00:00:00Z".to_owned())
        }),
        container_config: (!version.at_least(NO_CONTAINER_CONFIG_SINCE_MINOR))
            .then(ContainerConfig::default),
        docker_version: image.docker_version.clone(),
        author: image.author.clone(),
        architecture: image.architecture.clone(),
        variant: image.variant.clone(),
        os: image.os.clone(),
        size: image.size_bytes,
        virtual_size: virtual_size(image, version),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_as_dockers() {
        let p = LayerProgress::new(&format!("sha256:{}", "ab".repeat(32)), 10240, 10240);
        assert_eq!(
            serde_json::to_string(&p).unwrap(),
            format!(
                r#"{{"status":"Loading layer","progressDetail":{{"current":10240,"total":10240}},"progress":"[{}>]  10.24kB/10.24kB","id":"abababababab"}}"#,
                "=".repeat(50)
            )
        );
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (32768, "32.77kB"),
            (557056, "557.1kB"),
            (2129920, "2.13MB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
        assert!(progress_bar(5, 10).starts_with(&format!(
            "[{}>{}]",
            "=".repeat(25),
            " ".repeat(25)
        )));
        assert_eq!(progress_bar(0, 0), "");
        assert_eq!(progress_bar(999, 0), "    999B");
    }
}
