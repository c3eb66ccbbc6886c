//! The settings of a run: defaults, daemon.json, command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::flags::Flags;

/// daemon.json that is read without `--config-file`, if it exists.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/gantry/daemon.json";
/// Socket without `--host`.
pub const DEFAULT_HOST: &str = "unix:///run/gantry/gantry.sock";
/// Group of the socket without `--group`, if there is such a group.
pub const DEFAULT_GROUP: &str = "docker";

/// The settings of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Config {
    pub hosts: Vec<String>,
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    pub pidfile: PathBuf,
    pub log_level: String,
    pub debug: bool,
    pub group: Option<String>,
    pub labels: Vec<String>,
    pub shards: Option<usize>,
}

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// the file can't be read
    #[error("unable to configure the Docker daemon with file {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// the file is not what it should be
    #[error("unable to configure the Docker daemon with file {path}: {reason}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// a setting has an impossible value
    #[error("{0}")]
    Value(String),
}

/// Puts defaults, file and flags together.
pub fn resolve(flags: &Flags) -> Result<Config, ConfigError> {
    let explicit = flags.config_file.is_some();
    let path = flags
        .config_file
        .clone()
        .unwrap_or_else(|| DEFAULT_CONFIG_FILE.into());
    let file = match std::fs::read_to_string(&path) {
        Ok(text) => parse_file(&path, &text, flags)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !explicit => BTreeMap::new(),
        Err(source) => return Err(ConfigError::Read { path, source }),
    };
    let config = merge(flags, &file).map_err(|reason| ConfigError::File { path, reason })?;
    check(&config)?;
    Ok(config)
}

fn parse_file(
    path: &Path,
    text: &str,
    flags: &Flags,
) -> Result<BTreeMap<String, Value>, ConfigError> {
    let fail = |reason: String| ConfigError::File {
        path: path.to_owned(),
        reason,
    };
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let map: BTreeMap<String, Value> =
        serde_json::from_str(text).map_err(|e| fail(e.to_string()))?;
    let given: &[(&str, bool, String)] = &[
        (
            "hosts",
            !flags.hosts.is_empty(),
            format!("{:?}", flags.hosts),
        ),
        (
            "labels",
            !flags.labels.is_empty(),
            format!("{:?}", flags.labels),
        ),
        (
            "data-root",
            flags.data_root.is_some(),
            show(&flags.data_root),
        ),
        (
            "exec-root",
            flags.exec_root.is_some(),
            show(&flags.exec_root),
        ),
        ("pidfile", flags.pidfile.is_some(), show(&flags.pidfile)),
        (
            "log-level",
            flags.log_level.is_some(),
            flags.log_level.clone().unwrap_or_default(),
        ),
        (
            "debug",
            flags.debug.is_some(),
            flags.debug.unwrap_or(false).to_string(),
        ),
        (
            "group",
            flags.group.is_some(),
            flags.group.clone().unwrap_or_default(),
        ),
        (
            "shards",
            flags.shards.is_some(),
            flags.shards.unwrap_or(0).to_string(),
        ),
    ];
    let unknown: Vec<_> = map
        .keys()
        .filter(|k| !given.iter().any(|g| g.0 == k.as_str()))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Err(fail(format!(
            "the following directives don't match any configuration option: {}",
            unknown.join(", ")
        )));
    }
    let conflicts: Vec<_> = given
        .iter()
        .filter(|(key, set, _)| *set && map.contains_key(*key))
        .map(|(key, _, flag)| format!("{key}: (from flag: {flag}, from file: {})", map[*key]))
        .collect();
    if !conflicts.is_empty() {
        return Err(fail(format!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            conflicts.join(", ")
        )));
    }
    Ok(map)
}

fn show(path: &Option<PathBuf>) -> String {
    path.as_ref()
        .map(|p| p.display().to_string())
        .unwrap_or_default()
}

fn merge(flags: &Flags, file: &BTreeMap<String, Value>) -> Result<Config, String> {
    let text = |key: &str| match file.get(key) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone())),
        Some(_) => Err(format!("{key} must be a string")),
    };
    let list = |key: &str, given: &[String]| match file.get(key) {
        None => Ok(given.to_vec()),
        Some(Value::Array(items)) => items
            .iter()
            .map(|i| {
                i.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| format!("{key} must be a list of strings"))
            })
            .collect(),
        Some(_) => Err(format!("{key} must be a list of strings")),
    };
    let path = |key: &str, given: &Option<PathBuf>, default: &str| -> Result<PathBuf, String> {
        Ok(given
            .clone()
            .or(text(key)?.map(PathBuf::from))
            .unwrap_or_else(|| default.into()))
    };
    let debug = match file.get("debug") {
        None => flags.debug.unwrap_or(false),
        Some(Value::Bool(b)) => *b,
        Some(_) => return Err("debug must be true or false".to_owned()),
    };
    let shards = match file.get("shards") {
        None => flags.shards,
        Some(n) => Some(
            n.as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or("shards must be a whole number")?,
        ),
    };
    let mut hosts = list("hosts", &flags.hosts)?;
    if hosts.is_empty() {
        hosts.push(DEFAULT_HOST.to_owned());
    }
    Ok(Config {
        hosts,
        data_root: path("data-root", &flags.data_root, "/var/lib/gantry")?,
        exec_root: path("exec-root", &flags.exec_root, "/run/gantry")?,
        pidfile: path("pidfile", &flags.pidfile, "/run/gantry.pid")?,
        log_level: flags
            .log_level
            .clone()
            .or(text("log-level")?)
            .unwrap_or_else(|| "info".to_owned()),
        debug,
        group: flags.group.clone().or(text("group")?),
        labels: list("labels", &flags.labels)?,
        shards,
    })
}

fn check(config: &Config) -> Result<(), ConfigError> {
    let fail = |text: String| Err(ConfigError::Value(text));
    if !matches!(
        config.log_level.as_str(),
        "debug" | "info" | "warn" | "error" | "fatal"
    ) {
        return fail(format!("invalid logging level: {}", config.log_level));
    }
    for root in [&config.data_root, &config.exec_root] {
        if !root.is_absolute() {
            return fail(format!("{} must be an absolute path", root.display()));
        }
    }
    if config.shards.is_some_and(|n| n == 0 || n > 256) {
        return fail("the number of shards must be between 1 and 256".to_owned());
    }
    for label in &config.labels {
        if label.split_once('=').is_none_or(|(key, _)| key.is_empty()) {
            return fail(format!("bad attribute format: {label}"));
        }
    }
    for host in &config.hosts {
        if !["unix://", "tcp://", "fd://"]
            .iter()
            .any(|p| host.starts_with(p))
        {
            return fail(format!("invalid bind address ({host}): unsupported proto"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_and_flags() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.json");
        std::fs::write(
            &path,
            r#"{"debug":true,"hosts":["unix:///x"],"data-root":"/d","labels":["a=b"]}"#,
        )
        .unwrap();
        let mut flags = Flags {
            config_file: Some(path.clone()),
            ..Flags::default()
        };
        let config = resolve(&flags).unwrap();
        assert!(config.debug);
        assert_eq!(
            (config.hosts[0].as_str(), config.data_root),
            ("unix:///x", "/d".into())
        );
        flags.data_root = Some("/e".into());
        let text = resolve(&flags).unwrap_err().to_string();
        assert!(text.contains("specified both as a flag and in the configuration file: data-root: (from flag: /e, from file: \"/d\")"), "{text}");
        std::fs::write(&path, r#"{"nonsense":1}"#).unwrap();
        assert!(
            resolve(&flags)
                .unwrap_err()
                .to_string()
                .contains("don't match any configuration option: nonsense")
        );
    }

    #[test]
    fn values() {
        let bad = |f: Flags| resolve(&f).is_err();
        assert!(bad(Flags {
            log_level: Some("loud".into()),
            ..Flags::default()
        }));
        assert!(bad(Flags {
            hosts: vec!["http://x".into()],
            ..Flags::default()
        }));
        assert!(bad(Flags {
            shards: Some(0),
            ..Flags::default()
        }));
        assert!(bad(Flags {
            labels: vec!["x".into()],
            ..Flags::default()
        }));
    }
}
