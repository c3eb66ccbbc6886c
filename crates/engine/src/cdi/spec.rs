//! One specification: its shape and what makes it valid, as the CDI library of dockerd 28 has it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::Value;

use super::yaml;

/// Versions that are known, oldest first.
const VERSIONS: [&str; 7] = [
    "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0",
];
const HOOK_NAMES: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];
/// Longest name of a class of the kernel's resctrl.
const MAX_CLASS_BYTES: usize = 4096;

/// A specification as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Spec {
    #[serde(deserialize_with = "text")]
    pub(super) cdi_version: String,
    #[serde(deserialize_with = "text")]
    pub(super) kind: String,
    annotations: Option<BTreeMap<String, Value>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) devices: Vec<Device>,
    #[serde(deserialize_with = "or_default")]
    pub(super) container_edits: ContainerEdits,
}

/// One device of a specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Device {
    #[serde(deserialize_with = "text")]
    pub(super) name: String,
    annotations: Option<BTreeMap<String, Value>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) container_edits: ContainerEdits,
}

/// What is done to a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ContainerEdits {
    #[serde(deserialize_with = "texts")]
    pub(super) env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) device_nodes: Vec<DeviceNode>,
    #[serde(deserialize_with = "or_default")]
    pub(super) hooks: Vec<Hook>,
    #[serde(deserialize_with = "or_default")]
    pub(super) mounts: Vec<Mount>,
    pub(super) intel_rdt: Option<IntelRdt>,
    #[serde(deserialize_with = "or_default")]
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct DeviceNode {
    #[serde(deserialize_with = "text")]
    pub(super) path: String,
    #[serde(deserialize_with = "text")]
    pub(super) host_path: String,
    #[serde(rename = "type", deserialize_with = "text")]
    pub(super) kind: String,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) file_mode: Option<u32>,
    #[serde(deserialize_with = "text")]
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Mount {
    #[serde(deserialize_with = "text")]
    pub(super) host_path: String,
    #[serde(deserialize_with = "text")]
    pub(super) container_path: String,
    #[serde(deserialize_with = "texts")]
    pub(super) options: Vec<String>,
    #[serde(rename = "type", deserialize_with = "text")]
    pub(super) kind: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Hook {
    #[serde(deserialize_with = "text")]
    pub(super) hook_name: String,
    #[serde(deserialize_with = "text")]
    pub(super) path: String,
    #[serde(deserialize_with = "texts")]
    pub(super) args: Vec<String>,
    #[serde(deserialize_with = "texts")]
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct IntelRdt {
    #[serde(rename = "closID", deserialize_with = "text")]
    class: String,
    #[serde(rename = "l3CacheSchema", deserialize_with = "text")]
    l3_cache_schema: String,
    #[serde(rename = "memBwSchema", deserialize_with = "text")]
    memory_bandwidth_schema: String,
    #[serde(rename = "enableCMT")]
    cache_monitoring: bool,
    #[serde(rename = "enableMBM")]
    bandwidth_monitoring: bool,
}

fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// A text; a number or truth value counts as its digits or word, for YAML does not quote.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    as_text(Value::deserialize(from)?).map_err(D::Error::custom)
}

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let items = Option::<Vec<Value>>::deserialize(from)?.unwrap_or_default();
    let items = items.into_iter().map(as_text);
    items.collect::<Result<_, _>>().map_err(D::Error::custom)
}

fn as_text(value: Value) -> Result<String, &'static str> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Array(_) | Value::Object(_) => Err("a text is needed"),
    }
}

impl Spec {
    /// Reads and checks a file's content.
    pub(super) fn parse(content: &str, is_yaml: bool) -> Result<Spec, String> {
        let value = match is_yaml {
            true => yaml::parse(content)?,
            false => serde_json::from_str(content).map_err(|e| e.to_string())?,
        };
        if value.is_null() {
            return Err("no Spec data".to_owned());
        }
        let spec: Spec = serde_json::from_value(value)
            .map_err(|e| format!("failed to unmarshal CDI Spec: {e}"))?;
        let valid = spec.check().map_err(|e| format!("invalid CDI Spec: {e}"));
        valid.map(|()| spec)
    }

    fn check(&self) -> Result<(), String> {
        self.check_version()?;
        let (vendor, class) = self.kind.split_once('/').unwrap_or(("", ""));
        check_kind("vendor", vendor, "_-.")?;
        check_kind("class", class, "_-.")?;
        self.container_edits.check()?;
        if self.devices.is_empty() {
            return Err("invalid spec, no devices".to_owned());
        }
        let mut names = BTreeSet::new();
        for device in &self.devices {
            device
                .check()
                .map_err(|e| format!("failed add device {:?}: {e}", device.name))?;
            if !names.insert(&device.name) {
                return Err(format!("invalid spec, multiple device {:?}", device.name));
            }
        }
        Ok(())
    }

    fn check_version(&self) -> Result<(), String> {
        let given = self.cdi_version.trim_start_matches('v');
        let known = |version: &str| VERSIONS.iter().position(|v| *v == version);
        let needed = self.needed_version();
        match known(given) {
            None if given.starts_with("0.1.") || given.starts_with("0.2.") => Err(format!(
                "the spec version must be at least v{}",
                VERSIONS[0]
            )),
            None => Err(format!("invalid version {:?}", self.cdi_version)),
            Some(version) if version < needed => Err(format!(
                "the spec version must be at least v{}",
                VERSIONS[needed]
            )),
            Some(_) => Ok(()),
        }
    }

    /// Place in [`VERSIONS`] of the first that has everything that is used.
    fn needed_version(&self) -> usize {
        let edits = || {
            let own = self.devices.iter().map(|device| &device.container_edits);
            own.chain([&self.container_edits])
        };
        let annotated = |a: &Option<BTreeMap<_, _>>| a.as_ref().is_some_and(|a| !a.is_empty());
        if edits().any(|e| e.intel_rdt.is_some() || !e.additional_gids.is_empty()) {
            return 4;
        }
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        if class.contains('.')
            || annotated(&self.annotations)
            || self.devices.iter().any(|d| annotated(&d.annotations))
        {
            return 3;
        }
        let digit = |d: &Device| !d.name.starts_with(|c: char| c.is_ascii_alphabetic());
        let elsewhere = |n: &DeviceNode| !n.host_path.is_empty();
        if self.devices.iter().any(digit) || edits().any(|e| e.device_nodes.iter().any(elsewhere)) {
            return 2;
        }
        usize::from(edits().any(|e| e.mounts.iter().any(|m| !m.kind.is_empty())))
    }
}

impl Device {
    fn check(&self) -> Result<(), String> {
        let name = self.name.as_str();
        if name.is_empty() {
            return Err("invalid (empty) device name".to_owned());
        }
        if !starts_and_ends(name, char::is_alphanumeric) {
            return Err(format!(
                "invalid name {name:?}, should start and end with a letter or digit"
            ));
        }
        if let Some(c) = name.chars().find(|c| !is_name_char(*c, "_-.:")) {
            return Err(format!("invalid character '{c}' in device name {name:?}"));
        }
        if self.container_edits == ContainerEdits::default() {
            return Err("invalid device, empty device edits".to_owned());
        }
        self.container_edits
            .check()
            .map_err(|e| format!("invalid device {name:?}: {e}"))
    }
}

impl ContainerEdits {
    fn check(&self) -> Result<(), String> {
        check_env(&self.env).map_err(|e| format!("invalid container edits: {e}"))?;
        for node in &self.device_nodes {
            let path = &node.path;
            if path.is_empty() {
                return Err("invalid (empty) device path".to_owned());
            }
            if !matches!(node.kind.as_str(), "" | "b" | "c" | "u" | "p") {
                return Err(format!("device {path:?}: invalid type {:?}", node.kind));
            }
            if !node.permissions.chars().all(|c| "rwm".contains(c)) {
                return Err(format!(
                    "device {path:?}: invalid permissions {:?}",
                    node.permissions
                ));
            }
        }
        for hook in &self.hooks {
            let name = &hook.hook_name;
            if !HOOK_NAMES.contains(&name.as_str()) {
                return Err(format!("invalid hook name {name:?}"));
            }
            if hook.path.is_empty() {
                return Err(format!("invalid hook {name:?} with empty path"));
            }
            check_env(&hook.env).map_err(|e| format!("invalid hook {name:?}: {e}"))?;
        }
        for mount in &self.mounts {
            if mount.host_path.is_empty() {
                return Err("invalid mount, empty host path".to_owned());
            }
            if mount.container_path.is_empty() {
                return Err("invalid mount, empty container path".to_owned());
            }
        }
        match &self.intel_rdt {
            Some(rdt) if !rdt.is_valid() => Err("invalid ClosID".to_owned()),
            _ => Ok(()),
        }
    }
}

impl IntelRdt {
    fn is_valid(&self) -> bool {
        let class = self.class.as_str();
        class.len() < MAX_CLASS_BYTES
            && class != "."
            && class != ".."
            && !class.contains(['/', '\n'])
    }
}

fn check_env(env: &[String]) -> Result<(), String> {
    let wrong = env
        .iter()
        .find(|one| one.find('=').is_none_or(|at| at == 0));
    wrong.map_or(Ok(()), |one| {
        Err(format!("invalid environment variable {one:?}"))
    })
}

fn is_name_char(c: char, others: &str) -> bool {
    c.is_ascii_alphanumeric() || others.contains(c)
}

fn starts_and_ends(name: &str, start: fn(char) -> bool) -> bool {
    name.starts_with(start) && name.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn check_kind(what: &str, name: &str, others: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!("invalid {what}. empty name"));
    }
    if !starts_and_ends(name, |c| c.is_ascii_alphabetic()) {
        return Err(format!(
            "invalid {what}. {name:?}, should start with a letter and end with a letter or digit"
        ));
    }
    match name.chars().find(|c| !is_name_char(*c, others)) {
        Some(c) => Err(format!(
            "invalid {what}. invalid character '{c}' in name {name:?}"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(version: &str, kind: &str, device: &str) -> String {
        let text = format!(r#"{{"cdiVersion":"{version}","kind":"{kind}","devices":[{device}]}}"#);
        Spec::parse(&text, false).unwrap_err()
    }

    #[test]
    fn what_is_refused() {
        let fine = r#"{"name":"d","containerEdits":{"env":["A=1"]}}"#;
        for (version, kind, device, part) in [
            ("0.2.0", "v.com/c", fine, "must be at least v0.3.0"),
            ("1.1.0", "v.com/c", fine, "invalid version \"1.1.0\""),
            ("0.5", "v.com/c", fine, "invalid version"),
            ("0.5.0", "v.com", fine, "invalid vendor. empty name"),
            ("0.5.0", "v.com/", fine, "invalid class. empty name"),
            ("0.5.0", "v.com/c/d", fine, "invalid character '/'"),
            ("0.5.0", "v.com/1c", fine, "should start with a letter"),
            ("0.5.0", "v.com/c.d", fine, "must be at least v0.6.0"),
            ("0.5.0", "v.com/c", "", "no devices"),
            ("0.5.0", "v.com/c", r#"{"name":"d"}"#, "empty device edits"),
            (
                "0.5.0",
                "v.com/c",
                r#"{"name":"a b","containerEdits":{"env":["A=1"]}}"#,
                "character ' '",
            ),
            (
                "0.4.0",
                "v.com/c",
                r#"{"name":"0","containerEdits":{"env":["A=1"]}}"#,
                "at least v0.5.0",
            ),
            (
                "0.6.0",
                "v.com/c",
                r#"{"name":"d","containerEdits":{"additionalGids":[1]}}"#,
                "at least v0.7.0",
            ),
            (
                "0.6.0",
                "v.com/c",
                r#"{"name":"d","containerEdits":{"env":["=1"]}}"#,
                "invalid environment variable",
            ),
            (
                "0.6.0",
                "v.com/c",
                r#"{"name":"d","containerEdits":{"zz":1}}"#,
                "unknown field",
            ),
            (
                "0.6.0",
                "v.com/c",
                r#"{"name":"d","containerEdits":{"deviceNodes":[{"path":"/d","type":"z"}]}}"#,
                "invalid type",
            ),
            (
                "0.6.0",
                "v.com/c",
                r#"{"name":"d","containerEdits":{"deviceNodes":[{"path":"/d","permissions":"x"}]}}"#,
                "invalid permissions",
            ),
            (
                "0.6.0",
                "v.com/c",
                r#"{"name":"d","containerEdits":{"hooks":[{"hookName":"x","path":"/d"}]}}"#,
                "invalid hook name",
            ),
            (
                "0.6.0",
                "v.com/c",
                r#"{"name":"d","containerEdits":{"mounts":[{"hostPath":"/d"}]}}"#,
                "empty container path",
            ),
            (
                "1.0.0",
                "v.com/c",
                r#"{"name":"d","containerEdits":{"intelRdt":{"closID":".."}}}"#,
                "invalid ClosID",
            ),
        ] {
            let error = error(version, kind, device);
            assert!(error.contains(part), "{version} {kind} {device}: {error}");
        }
        let twice = format!("{fine},{fine}");
        assert!(error("0.5.0", "v.com/c", &twice).contains("multiple device"));
        assert_eq!(Spec::parse("", true).unwrap_err(), "no Spec data");
    }

    #[test]
    fn yaml_and_json_are_the_same() {
        let yaml = "---\ncdiVersion: 0.7.0\nkind: vendor.com/class\ncontainerEdits:\n  env: [A=1]\ndevices:\n- name: 0\n  containerEdits:\n    deviceNodes:\n    - path: /dev/x\n      fileMode: 0600\n    additionalGids: [5]\n";
        let json = r#"{"cdiVersion":"0.7.0","kind":"vendor.com/class","containerEdits":{"env":["A=1"],"hooks":null},
            "devices":[{"name":"0","containerEdits":{"deviceNodes":[{"path":"/dev/x","fileMode":384}],"additionalGids":[5]}}]}"#;
        assert_eq!(
            Spec::parse(yaml, true).unwrap(),
            Spec::parse(json, false).unwrap()
        );
        assert_eq!(
            Spec::parse(json, true).unwrap(),
            Spec::parse(json, false).unwrap()
        );
    }

    proptest! {
        #[test]
        fn names_of_any_kind_do_not_panic(kind in "\\PC{0,12}", name in "\\PC{0,8}") {
            let spec = Spec { cdi_version: "0.6.0".into(), kind, devices: vec![Device { name, ..Device::default() }], ..Spec::default() };
            let _ = spec.check();
        }
    }
}
