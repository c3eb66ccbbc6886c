//! Settings of registries: flags, daemon.json, and proxies from the environment.

use gantry_registry::{Proxies, Settings};
use serde_json::Value;

use crate::config::File;

/// Most downloads or uploads at once; 0 means that many.
const MAX_AT_ONCE: usize = 32;

/// What the command line says; `None` and empty mean not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    insecure: Vec<String>,
    mirrors: Vec<String>,
    downloads: Option<i64>,
    uploads: Option<i64>,
    attempts: Option<i64>,
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: Option<String>,
}

/// Keys of the object `proxies`, which are flags too.
const PROXY_KEYS: [&str; 3] = ["http-proxy", "https-proxy", "no-proxy"];

impl Flags {
    /// Takes a flag of this group; `None` if it is none.
    pub fn set(&mut self, name: &str, value: &str) -> Option<Result<(), String>> {
        let text = || Some(value.to_owned());
        let number = || {
            let bad = || format!("strconv.ParseInt: parsing \"{value}\": invalid syntax");
            value.parse().map(Some).map_err(|_| bad())
        };
        let read = match name {
            "insecure-registry" => {
                self.insecure.push(value.to_owned());
                Ok(())
            }
            "registry-mirror" => {
                self.mirrors.push(value.to_owned());
                Ok(())
            }
            "max-concurrent-downloads" => number().map(|n| self.downloads = n),
            "max-concurrent-uploads" => number().map(|n| self.uploads = n),
            "max-download-attempts" => number().map(|n| self.attempts = n),
            "http-proxy" => {
                self.http_proxy = text();
                Ok(())
            }
            "https-proxy" => {
                self.https_proxy = text();
                Ok(())
            }
            "no-proxy" => {
                self.no_proxy = text();
                Ok(())
            }
            _ => return None,
        };
        Some(read)
    }

    /// Keys of daemon.json, each with its flag's value as it is shown in a conflict.
    pub fn keys(&self) -> [(&'static str, Option<String>); 6] {
        let list = |all: &[String]| (!all.is_empty()).then(|| format!("[{}]", all.join(" ")));
        let number = |n: Option<i64>| n.map(|n| n.to_string());
        [
            ("insecure-registries", list(&self.insecure)),
            ("registry-mirrors", list(&self.mirrors)),
            ("max-concurrent-downloads", number(self.downloads)),
            ("max-concurrent-uploads", number(self.uploads)),
            ("max-download-attempts", number(self.attempts)),
            ("proxies", None),
        ]
    }

    fn proxy(&self, key: &str) -> &Option<String> {
        match key {
            "http-proxy" => &self.http_proxy,
            "https-proxy" => &self.https_proxy,
            _ => &self.no_proxy,
        }
    }
}

/// Puts flags, file and environment together.
pub fn resolve(
    flags: &Flags,
    file: &File<'_>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Settings, String> {
    let list = |given: &[String], key: &str| -> Result<Vec<String>, String> {
        Ok(file.list(key)?.unwrap_or_else(|| given.to_vec()))
    };
    let number = |given: Option<i64>, key: &str, default: usize| {
        let value = given.or(file.integer(key)?);
        let shown = key.replace('-', " ");
        match value {
            None => Ok(default),
            Some(n) => usize::try_from(n).map_err(|_| format!("invalid {shown}: {n}")),
        }
    };
    let at_once = |given, key, default| {
        number(given, key, default).map(|n| match n {
            0 => MAX_AT_ONCE,
            n => n.min(MAX_AT_ONCE),
        })
    };
    let defaults = Settings::default();
    let attempts = number(
        flags.attempts,
        "max-download-attempts",
        defaults.max_download_attempts as usize,
    )?;
    let insecure = list(&flags.insecure, "insecure-registries")?;
    let mirrors = list(&flags.mirrors, "registry-mirrors")?;
    Ok(Settings {
        insecure: insecure.iter().map(|entry| host_of(entry)).collect(),
        mirrors: mirrors
            .iter()
            .map(|m| mirror(m))
            .collect::<Result<_, _>>()?,
        proxies: proxies(flags, file, environment)?,
        max_concurrent_downloads: at_once(
            flags.downloads,
            "max-concurrent-downloads",
            defaults.max_concurrent_downloads,
        )?,
        max_concurrent_uploads: at_once(
            flags.uploads,
            "max-concurrent-uploads",
            defaults.max_concurrent_uploads,
        )?,
        max_download_attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        ..defaults
    })
}

/// As dockerd, which lets a scheme pass.
fn host_of(entry: &str) -> String {
    let bare = entry
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    bare.to_owned()
}

fn mirror(text: &str) -> Result<String, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!(
            "invalid mirror: no scheme specified for \"{text}\": must use either 'https://' or 'http://'"
        ));
    };
    if !matches!(scheme, "http" | "https") {
        return Err(format!(
            "invalid mirror: unsupported scheme \"{scheme}\" in \"{text}\": must use either 'https://' or 'http://'"
        ));
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if let Some((user, host)) = authority.rsplit_once('@') {
        let name = user.split(':').next().unwrap_or_default();
        return Err(format!(
            "invalid mirror: username/password not allowed in URI \"{scheme}://{name}:xxxxx@{host}\""
        ));
    }
    if authority.is_empty() {
        return Err(format!("invalid mirror: no host in \"{text}\""));
    }
    Ok(text.to_owned())
}

fn proxies(
    flags: &Flags,
    file: &File<'_>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Proxies, String> {
    let given = file.read("proxies", "config.Proxies", Value::as_object)?;
    if let Some(unknown) = given
        .iter()
        .flat_map(|map| map.keys())
        .find(|key| !PROXY_KEYS.contains(&key.as_str()))
    {
        return Err(format!(
            "the following directives don't match any configuration option: {unknown}"
        ));
    }
    let one = |key: &str| -> Result<String, String> {
        let in_file = match given.and_then(|map| map.get(key)) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => {
                let kind = crate::config::kind_of(other);
                return Err(format!(
                    "invalid JSON: json: cannot unmarshal {kind} into Go struct field Config.proxies.{key} of type string"
                ));
            }
        };
        if let (Some(flag), Some(file)) = (flags.proxy(key), &in_file) {
            return Err(format!(
                "the following directives are specified both as a flag and in the configuration file: {key}: (from flag: {flag}, from file: {file})"
            ));
        }
        let name = key.replace('-', "_");
        let said = flags.proxy(key).clone().or(in_file);
        Ok(said
            .filter(|text| !text.is_empty())
            .or_else(|| environment(&name.to_ascii_uppercase()))
            .or_else(|| environment(&name))
            .unwrap_or_default())
    };
    Ok(Proxies {
        http: one(PROXY_KEYS[0])?,
        https: one(PROXY_KEYS[1])?,
        none: one(PROXY_KEYS[2])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, flags: &Flags) -> Result<Settings, String> {
        let document: Value = serde_json::from_str(text).unwrap();
        let map = document.as_object().unwrap();
        let environment = |name: &str| (name == "NO_PROXY").then(|| "here".to_owned());
        resolve(flags, &File::new(map), environment)
    }

    #[test]
    fn all_settings() {
        let settings = of(
            r#"{"insecure-registries":["http://a:1","10.0.0.0/8"],"registry-mirrors":["http://m/"],
                "max-concurrent-downloads":0,"max-concurrent-uploads":2,"max-download-attempts":9,
                "proxies":{"http-proxy":"http://p"}}"#,
            &Flags::default(),
        )
        .unwrap();
        assert_eq!(settings.insecure, ["a:1", "10.0.0.0/8"]);
        assert_eq!(settings.mirrors, ["http://m/"]);
        assert_eq!(settings.max_concurrent_downloads, MAX_AT_ONCE);
        assert_eq!(settings.max_concurrent_uploads, 2);
        assert_eq!(settings.max_download_attempts, 9);
        let proxies = &settings.proxies;
        assert_eq!(
            (proxies.http.as_str(), proxies.none.as_str()),
            ("http://p", "here")
        );
        let mut flags = Flags::default();
        assert_eq!(flags.set("insecure-registry", "x"), Some(Ok(())));
        assert_eq!(flags.set("https-proxy", "http://q"), Some(Ok(())));
        assert_eq!(flags.set("other", "x"), None);
        assert!(flags.set("max-concurrent-downloads", "x").unwrap().is_err());
        let settings = of("{}", &flags).unwrap();
        assert_eq!(
            (settings.insecure.len(), settings.proxies.https.as_str()),
            (1, "http://q")
        );
    }

    #[test]
    fn errors_of_dockerd() {
        for (text, want) in [
            (
                r#"{"registry-mirrors":["x"]}"#,
                "invalid mirror: no scheme specified for \"x\": must use either 'https://' or 'http://'",
            ),
            (
                r#"{"registry-mirrors":["ftp://x"]}"#,
                "invalid mirror: unsupported scheme \"ftp\" in \"ftp://x\": must use either 'https://' or 'http://'",
            ),
            (
                r#"{"registry-mirrors":["http://a:b@x"]}"#,
                "invalid mirror: username/password not allowed in URI \"http://a:xxxxx@x\"",
            ),
            (
                r#"{"max-concurrent-downloads":-1}"#,
                "invalid max concurrent downloads: -1",
            ),
            (
                r#"{"max-concurrent-uploads":-1}"#,
                "invalid max concurrent uploads: -1",
            ),
            (
                r#"{"proxies":{"foo":1}}"#,
                "the following directives don't match any configuration option: foo",
            ),
        ] {
            assert_eq!(of(text, &Flags::default()).unwrap_err(), want, "{text}");
        }
    }
}
