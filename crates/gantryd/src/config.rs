//! The settings of a run: defaults, daemon.json, command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_engine::Runtimes;
use gantry_engine::model::LogConfig;
use serde_json::{Map, Value};

use crate::features::{self, Features};
use crate::flags::Flags;
use crate::known;

/// daemon.json that is read without `--config-file`, if it exists.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/gantry/daemon.json";
/// Socket without `--host`.
pub const DEFAULT_HOST: &str = "unix:///run/gantry/gantry.sock";
/// Group of the socket without `--group`, if there is such a group.
pub const DEFAULT_GROUP: &str = "docker";
/// Time that requests in flight get at the end without `--shutdown-timeout`.
const DEFAULT_SHUTDOWN_TIMEOUT_S: i64 = 15;

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
    /// Log driver and options of containers that name none.
    pub log: LogConfig,
    pub runtimes: Runtimes,
    pub shards: Option<usize>,
    /// Directories of CDI specifications; none switches them off.
    pub cdi_spec_dirs: Vec<PathBuf>,
    pub registries: gantry_registry::Settings,
    /// Whose subordinate ids containers get; empty for nobody's.
    pub userns_remap: String,
    /// Longest wait for requests in flight at the end.
    pub shutdown_timeout: Duration,
}

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// the file can't be read
    #[error("unable to configure the Docker daemon with file {path}: open {path}: {reason}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
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
    let fail = |reason: String| ConfigError::File {
        path: path.clone(),
        reason,
    };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !explicit => Vec::new(),
        Err(e) => {
            let reason = match e.kind() {
                std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                _ => e.to_string(),
            };
            return Err(ConfigError::Read { path, reason });
        }
    };
    let file = parse_file(&text, flags).map_err(fail)?;
    let config = merge(flags, &file).map_err(fail)?;
    check(&config).map_err(|reason| {
        if file.is_empty() {
            return ConfigError::Value(reason);
        }
        fail(format!(
            "merged configuration validation from file and command line flags failed: {reason}"
        ))
    })?;
    Ok(config)
}

/// Keys of daemon.json, each with its flag's value as it is shown in a conflict (`None`: not given).
fn keys(flags: &Flags) -> Vec<(&'static str, Option<String>)> {
    let list = |all: &[String]| (!all.is_empty()).then(|| format!("[{}]", all.join(" ")));
    let path = |p: &Option<PathBuf>| p.as_ref().map(|p| p.display().to_string());
    let features = (!flags.features.is_empty()).then(|| features::shown(&flags.features));
    let pairs = flags.log_opts.iter().map(|(k, v)| format!("{k}:{v}"));
    let log_opts = (!flags.log_opts.is_empty())
        .then(|| format!("map[{}]", pairs.collect::<Vec<_>>().join(" ")));
    let others = [
        ("cdi-spec-dirs", list(&flags.cdi_spec_dirs)),
        ("features", features),
        ("data-root", path(&flags.data_root)),
        ("debug", flags.debug.map(|d| d.to_string())),
        ("default-runtime", flags.default_runtime.clone()),
        ("exec-root", path(&flags.exec_root)),
        ("group", flags.group.clone()),
        ("hosts", list(&flags.hosts)),
        ("labels", list(&flags.labels)),
        ("log-driver", flags.log_driver.clone()),
        ("log-opts", log_opts),
        ("log-format", flags.log_format.clone()),
        ("log-level", flags.log_level.clone()),
        ("pidfile", path(&flags.pidfile)),
        // dockerd puts the two together.
        ("runtimes", None),
        ("shards", flags.shards.map(|n| n.to_string())),
        (
            "shutdown-timeout",
            flags.shutdown_timeout_s.map(|n| n.to_string()),
        ),
        ("userns-remap", flags.userns_remap.clone()),
    ];
    others.into_iter().chain(flags.registries.keys()).collect()
}

/// The file's settings, all of which are known, built, and not given as flags too.
fn parse_file(text: &[u8], flags: &Flags) -> Result<Map<String, Value>, String> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    let file = match gantry_api::json::parse(text).map_err(|e| e.message)? {
        Value::Object(map) => map,
        Value::Null => Map::new(),
        other => {
            let kind = kind_of(&other);
            return Err(format!(
                "invalid JSON: json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
            ));
        }
    };
    let keys = keys(flags);
    let built = |key: &str| keys.iter().any(|(k, _)| *k == key);
    let unknown: Vec<_> = file
        .keys()
        .filter(|k| !built(k) && known::by_key(k).is_none())
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        return Err(format!(
            "the following directives don't match any configuration option: {}",
            unknown.join(", ")
        ));
    }
    let unbuilt: Vec<_> = file
        .iter()
        .filter(|(key, value)| !built(key) && !says_what_is_done_anyway(key, value))
        .map(|(key, _)| key.as_str())
        .collect();
    if !unbuilt.is_empty() {
        return Err(format!(
            "the following directives of dockerd are not supported by this version of gantryd: {}",
            unbuilt.join(", ")
        ));
    }
    let conflicts: Vec<_> = keys
        .iter()
        .filter_map(|(key, flag)| {
            let (flag, value) = (flag.as_ref()?, file.get(*key)?);
            Some(format!(
                "{key}: (from flag: {flag}, from file: {})",
                shown(value)
            ))
        })
        .collect();
    if !conflicts.is_empty() {
        return Err(format!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            conflicts.join(", ")
        ));
    }
    Ok(file)
}

fn says_what_is_done_anyway(key: &str, value: &Value) -> bool {
    known::by_key(key)
        .and_then(|unbuilt| unbuilt.same_as)
        .is_some_and(|same_as| shown(value) == same_as)
}

/// A value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(shown).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let items: Vec<_> = map
                .iter()
                .map(|(k, v)| format!("{k}:{}", shown(v)))
                .collect();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

/// What Go calls the kind of a value.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The file's settings, read with their types. `null` is the same as absent.
pub(crate) struct File<'f>(&'f Map<String, Value>);

impl<'f> File<'f> {
    #[cfg(test)]
    pub(crate) fn new(map: &'f Map<String, Value>) -> Self {
        Self(map)
    }

    pub(crate) fn read<'v, T>(
        &'v self,
        key: &str,
        go_type: &str,
        read: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| {
                let kind = kind_of(value);
                format!(
                    "invalid JSON: json: cannot unmarshal {kind} into Go struct field Config.{key} of type {go_type}"
                )
            }),
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>, String> {
        self.read(key, "string", |v| v.as_str().map(str::to_owned))
    }

    pub(crate) fn list(&self, key: &str) -> Result<Option<Vec<String>>, String> {
        self.read(key, "[]string", |v| {
            let items = v.as_array()?.iter();
            items.map(|i| i.as_str().map(str::to_owned)).collect()
        })
    }

    fn features(&self) -> Result<Option<Features>, String> {
        let Some(map) = self.read("features", "map[string]bool", |v| v.as_object())? else {
            return Ok(None);
        };
        let mut features = Features::new();
        for (name, value) in map {
            let on = value.as_bool().ok_or_else(|| {
                let kind = kind_of(value);
                format!(
                    "invalid JSON: json: cannot unmarshal {kind} into Go struct field Config.features.{name} of type bool"
                )
            })?;
            features.insert(name.clone(), on);
        }
        Ok(Some(features))
    }

    fn log(&self, flags: &Flags) -> Result<LogConfig, String> {
        let driver = flags.log_driver.clone().or(self.text("log-driver")?);
        let mut options = flags.log_opts.clone();
        let file = self.read("log-opts", "map[string]string", |v| v.as_object())?;
        for (name, value) in file.into_iter().flatten() {
            let text = value.as_str().ok_or_else(|| {
                let kind = kind_of(value);
                format!(
                    "invalid JSON: json: cannot unmarshal {kind} into Go struct field Config.log-opts of type string"
                )
            })?;
            options.insert(name.clone(), text.to_owned());
        }
        Ok(LogConfig {
            driver: driver
                .filter(|d| !d.is_empty())
                .unwrap_or_else(|| "json-file".to_owned()),
            options,
        })
    }

    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, String> {
        self.read(key, "int", Value::as_i64)
    }

    /// A path: the flag's, the file's or the default; a relative one is below the working directory.
    fn path(&self, key: &str, flag: &Option<PathBuf>, default: &str) -> Result<PathBuf, String> {
        let path = match flag {
            Some(path) => path.clone(),
            None => self
                .text(key)?
                .map_or_else(|| PathBuf::from(default), PathBuf::from),
        };
        std::path::absolute(&path).map_err(|e| format!("{key} {}: {e}", path.display()))
    }
}

fn merge(flags: &Flags, file: &Map<String, Value>) -> Result<Config, String> {
    let file = File(file);
    let or_file = |given: &[String], key: &str| -> Result<Vec<String>, String> {
        Ok(file.list(key)?.unwrap_or_else(|| given.to_vec()))
    };
    let mut hosts = or_file(&flags.hosts, "hosts")?;
    if hosts.is_empty() {
        hosts.push(DEFAULT_HOST.to_owned());
    }
    let mut seen = std::collections::HashSet::new();
    hosts.retain(|host| seen.insert(host.clone()));
    let format = flags.log_format.clone().or(file.text("log-format")?);
    match format.as_deref() {
        None | Some("text") => {}
        Some("json") => {
            return Err("log format json is not supported by this version of gantryd".to_owned());
        }
        Some(other) => return Err(format!("invalid log format: {other}")),
    }
    let given = file.features()?.unwrap_or_else(|| flags.features.clone());
    features::check(&given)?;
    let cdi_spec_dirs =
        features::cdi_spec_dirs(&or_file(&flags.cdi_spec_dirs, "cdi-spec-dirs")?, &given);
    let shards = match file.integer("shards")? {
        // Out of range is refused below.
        Some(n) => Some(usize::try_from(n).unwrap_or(0)),
        None => flags.shards,
    };
    let shutdown_timeout_s = flags
        .shutdown_timeout_s
        .or(file.integer("shutdown-timeout")?)
        .unwrap_or(DEFAULT_SHUTDOWN_TIMEOUT_S);
    Ok(Config {
        hosts,
        data_root: file.path("data-root", &flags.data_root, "/var/lib/gantry")?,
        exec_root: file.path("exec-root", &flags.exec_root, "/run/gantry")?,
        pidfile: file.path("pidfile", &flags.pidfile, "/run/gantry.pid")?,
        log_level: flags
            .log_level
            .clone()
            .or(file.text("log-level")?)
            .filter(|level| !level.is_empty())
            .unwrap_or_else(|| "info".to_owned()),
        debug: flags
            .debug
            .or(file.read("debug", "bool", Value::as_bool)?)
            .unwrap_or(false),
        group: flags.group.clone().or(file.text("group")?),
        labels: or_file(&flags.labels, "labels")?,
        log: file.log(flags)?,
        runtimes: crate::runtimes::resolve(
            &flags.runtimes,
            file.0.get("runtimes"),
            flags
                .default_runtime
                .clone()
                .or(file.text("default-runtime")?),
        )?,
        shards,
        registries: crate::registries::resolve(&flags.registries, &file, |name| {
            std::env::var(name).ok()
        })?,
        cdi_spec_dirs,
        userns_remap: flags
            .userns_remap
            .clone()
            .or(file.text("userns-remap")?)
            .unwrap_or_default(),
        // A negative one means to wait without a limit; a day is one.
        shutdown_timeout: Duration::from_secs(
            u64::try_from(shutdown_timeout_s).unwrap_or(24 * 3600),
        ),
    })
}

/// Whether a host can be listened on, as far as its text says.
pub fn check_host(host: &str) -> Result<(), String> {
    match host.split_once("://") {
        Some(("unix" | "tcp" | "fd", _)) => Ok(()),
        Some((proto, _)) => Err(format!(
            "invalid bind address ({host}): unsupported proto '{proto}'"
        )),
        None => Err(format!(
            "invalid bind address ({host}): it needs unix://, tcp:// or fd:// in front"
        )),
    }
}

/// Whether a label of the daemon is `key=value`.
pub fn check_label(label: &str) -> Result<(), String> {
    match label.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(()),
        _ => Err(format!("bad attribute format: {label}")),
    }
}

fn check(config: &Config) -> Result<(), String> {
    if !matches!(
        config.log_level.as_str(),
        "debug" | "info" | "warn" | "error" | "fatal" | "panic"
    ) {
        return Err(format!("invalid logging level: {}", config.log_level));
    }
    if config.shards.is_some_and(|n| n == 0 || n > 256) {
        return Err("the number of shards must be between 1 and 256".to_owned());
    }
    config.hosts.iter().try_for_each(|h| check_host(h))?;
    gantry_engine::check_default_log(&config.log)
        .map_err(|e| format!("failed to set log opts: {e}"))?;
    for (index, label) in config.labels.iter().enumerate() {
        check_label(label)?;
        let key = |l: &str| l.split('=').next().unwrap_or_default().to_owned();
        let earlier = config.labels[..index].iter().find(|l| key(l) == key(label));
        if let Some(earlier) = earlier.filter(|earlier| *earlier != label) {
            return Err(format!("conflict labels for {label} and {earlier}"));
        }
    }
    Ok(())
}

/// Where the settings of a run come from, for messages.
pub fn file_of(flags: &Flags) -> &Path {
    flags
        .config_file
        .as_deref()
        .unwrap_or_else(|| Path::new(DEFAULT_CONFIG_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file with this text and flags beside it give.
    fn with_file(text: &str, flags: Flags) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.json");
        std::fs::write(&path, text).unwrap();
        let flags = Flags {
            config_file: Some(path.clone()),
            ..flags
        };
        resolve(&flags).map_err(|e| {
            let prefix = format!(
                "unable to configure the Docker daemon with file {}: ",
                path.display()
            );
            e.to_string().replace(&prefix, "")
        })
    }

    #[test]
    fn file_and_defaults() {
        let config = with_file(
            r#"{"debug":true,"hosts":["unix:///x","unix:///x"],"data-root":"/d","labels":["a=b"],"group":null,
                "live-restore":true,"storage-driver":"overlay2","shutdown-timeout":3}"#,
            Flags::default(),
        )
        .unwrap();
        assert!(config.debug && config.group.is_none());
        assert_eq!(config.hosts, ["unix:///x"]);
        assert_eq!(
            (config.data_root, config.labels),
            ("/d".into(), vec!["a=b".to_owned()])
        );
        assert_eq!(config.shutdown_timeout, Duration::from_secs(3));
        for empty in ["", " \n", "{}", "null", "\u{feff}{}"] {
            assert_eq!(
                with_file(empty, Flags::default()).unwrap().hosts,
                [DEFAULT_HOST]
            );
        }
        let flags = Flags {
            data_root: Some("relative".into()),
            ..Flags::default()
        };
        assert!(with_file("", flags).unwrap().data_root.is_absolute());
    }

    #[test]
    fn errors_of_dockerd() {
        let flags = || Flags {
            debug: Some(false),
            hosts: vec!["unix:///b".into()],
            ..Flags::default()
        };
        for (text, want) in [
            ("{", "invalid JSON: unexpected EOF"),
            (
                "[]",
                "invalid JSON: json: cannot unmarshal array into Go value of type map[string]interface {}",
            ),
            (
                r#"{"other":2,"nosuch":1}"#,
                "the following directives don't match any configuration option: nosuch, other",
            ),
            (
                r#"{"Debug":true}"#,
                "the following directives don't match any configuration option: Debug",
            ),
            (
                r#"{"bip":"10.0.0.1/8","live-restore":false}"#,
                "the following directives of dockerd are not supported by this version of gantryd: bip, live-restore",
            ),
            (
                r#"{"debug":true}"#,
                "the following directives are specified both as a flag and in the configuration file: debug: (from flag: false, from file: true)",
            ),
            (
                r#"{"hosts":["tcp://c","unix:///a"]}"#,
                "the following directives are specified both as a flag and in the configuration file: hosts: (from flag: [unix:///b], from file: [tcp://c unix:///a])",
            ),
            (
                r#"{"group":5}"#,
                "invalid JSON: json: cannot unmarshal number into Go struct field Config.group of type string",
            ),
            (
                r#"{"labels":"x"}"#,
                "invalid JSON: json: cannot unmarshal string into Go struct field Config.labels of type []string",
            ),
            (
                r#"{"labels":["x"]}"#,
                "merged configuration validation from file and command line flags failed: bad attribute format: x",
            ),
            (
                r#"{"labels":["a=b","a=c"]}"#,
                "merged configuration validation from file and command line flags failed: conflict labels for a=c and a=b",
            ),
            (
                r#"{"log-level":"loud"}"#,
                "merged configuration validation from file and command line flags failed: invalid logging level: loud",
            ),
            (r#"{"log-format":"x"}"#, "invalid log format: x"),
            (
                r#"{"shards":0}"#,
                "merged configuration validation from file and command line flags failed: the number of shards must be between 1 and 256",
            ),
        ] {
            assert_eq!(with_file(text, flags()).unwrap_err(), want, "{text}");
        }
        let missing = Flags {
            config_file: Some("/nosuch.json".into()),
            ..Flags::default()
        };
        assert_eq!(
            resolve(&missing).unwrap_err().to_string(),
            "unable to configure the Docker daemon with file /nosuch.json: open /nosuch.json: no such file or directory"
        );
    }

    #[test]
    fn flags_alone() {
        let text = |flags: Flags| with_file("", flags).unwrap_err();
        let loud = Flags {
            log_level: Some("loud".into()),
            ..Flags::default()
        };
        assert_eq!(text(loud), "invalid logging level: loud");
        let many = Flags {
            shards: Some(1000),
            ..Flags::default()
        };
        assert!(text(many).contains("between 1 and 256"));
        assert!(check_host("http://x").is_err() && check_host("/x").is_err());
    }
}
