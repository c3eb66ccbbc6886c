//! Options as the drivers look at them.

use std::collections::BTreeMap;

use gantry_logs::Remote;

use crate::error::Refused;
use crate::{awslogs, fluentd, gcplogs, gelf, go, journald, splunk, syslog};

/// Options of all drivers, which the daemon itself looks at.
const COMMON: &[&str] = &["mode", "max-buffer-size"];
/// Options of the copy that the daemon keeps; it is where the senders read.
const CACHE: &[(&str, &str)] = &[
    ("cache-max-size", "max-size"),
    ("cache-max-file", "max-file"),
    ("cache-compress", "compress"),
];
const CACHE_DISABLED: &str = "cache-disabled";

/// The options that choose attributes of the container.
pub(crate) const ATTRIBUTES: &[&str] = &["labels", "labels-regex", "env", "env-regex"];

/// A driver's options.
#[derive(Clone, Copy)]
pub(crate) struct Options<'a>(pub(crate) &'a BTreeMap<String, String>);

impl<'a> Options<'a> {
    /// Empty if it is not given.
    pub(crate) fn get(self, name: &str) -> &'a str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn find(self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str)
    }

    /// False if it is not given or empty.
    pub(crate) fn truth(self, name: &str) -> Result<bool, String> {
        match self.get(name) {
            "" => Ok(false),
            text => go::parse_bool(text),
        }
    }

    /// The first option that is in none of the lists.
    pub(crate) fn unknown(self, lists: &[&[&str]]) -> Option<&'a str> {
        let cache = |name: &str| name == CACHE_DISABLED || CACHE.iter().any(|(n, _)| *n == name);
        self.0.keys().map(String::as_str).find(|name| {
            !COMMON.contains(name) && !cache(name) && !lists.iter().any(|list| list.contains(name))
        })
    }
}

/// Checks the options of a driver as dockerd does when a container is created. What it checks only when a container
/// starts is checked by [`crate::open`].
pub fn check(remote: Remote, options: &BTreeMap<String, String>) -> Result<(), Refused> {
    let options = Options(options);
    cache_disabled(options)?;
    match remote {
        Remote::Journald => journald::check(options),
        Remote::Syslog => syslog::check(options),
        Remote::Fluentd => fluentd::check(options),
        Remote::Gelf => gelf::check(options),
        Remote::Splunk => splunk::check(options),
        Remote::AwsLogs => awslogs::check(options),
        Remote::GcpLogs => gcplogs::check(options),
    }
}

fn cache_disabled(options: Options<'_>) -> Result<bool, Refused> {
    let text = options.get(CACHE_DISABLED);
    if text.is_empty() {
        return Ok(false);
    }
    go::parse_bool(text)
        .map_err(|_| Refused(format!("invalid value for option {CACHE_DISABLED}: {text}")))
}

/// Whether a client asked that the log cannot be read back.
pub fn reading_disabled(options: &BTreeMap<String, String>) -> bool {
    cache_disabled(Options(options)).unwrap_or(false)
}

/// The options of driver `local` for the copy that the senders read from.
pub fn cache_options(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let given = CACHE.iter().filter_map(|(cache, local)| {
        let value = options.get(*cache)?;
        Some(((*local).to_owned(), value.clone()))
    });
    given.collect()
}
