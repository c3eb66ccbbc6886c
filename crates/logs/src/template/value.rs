//! What expressions of a template give.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::info::LogInfo;

use super::number;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// The container itself.
    Info,
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    List(Vec<String>),
    Map(BTreeMap<String, String>),
    /// Unix time in nanoseconds.
    Time(i64),
    /// `nil`, or a key that a map has not.
    Nothing,
}

pub(super) fn text(text: impl AsRef<str>) -> Value {
    Value::Text(text.as_ref().to_owned())
}

impl Value {
    /// Go's idea of what is empty.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Info | Value::Time(_) => true,
            Value::Text(text) => !text.is_empty(),
            Value::Int(n) => *n != 0,
            Value::Float(n) => *n != 0.0,
            Value::Bool(b) => *b,
            Value::List(list) => !list.is_empty(),
            Value::Map(map) => !map.is_empty(),
            Value::Nothing => false,
        }
    }

    /// Go's name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Info => "*logger.Info",
            Value::Text(_) => "string",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::Bool(_) => "bool",
            Value::List(_) => "[]string",
            Value::Map(_) => "map[string]string",
            Value::Time(_) => "time.Time",
            Value::Nothing => "<nil>",
        }
    }

    /// The type of what a pointer leads to.
    pub(super) fn plain_type(&self) -> &'static str {
        self.type_name().trim_start_matches('*')
    }

    /// As Go prints it.
    pub(super) fn shown(&self, info: &LogInfo) -> String {
        match self {
            Value::Info => format!("&{}", info_shown(info)),
            Value::Text(text) => text.clone(),
            Value::Int(n) => n.to_string(),
            Value::Float(n) => number::shortest(*n),
            Value::Bool(b) => b.to_string(),
            Value::List(list) => format!("[{}]", list.join(" ")),
            Value::Map(map) => map_shown(map),
            Value::Time(ns) => time_shown(*ns),
            Value::Nothing => "<nil>".to_owned(),
        }
    }

    /// As an action prints it: not a pointer, but where it leads to.
    pub(super) fn printed(&self, info: &LogInfo) -> String {
        match self {
            Value::Info => info_shown(info),
            Value::Nothing => "<no value>".to_owned(),
            other => other.shown(info),
        }
    }

    pub(super) fn json(&self, info: &LogInfo) -> String {
        match self {
            Value::Nothing => "null".to_owned(),
            Value::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
            Value::Float(n) => json_float(*n),
            Value::List(list) => serde_json::Value::from(list.clone()).to_string(),
            Value::Map(map) => serde_json::json!(map).to_string(),
            Value::Time(ns) => serde_json::Value::from(rfc3339(*ns)).to_string(),
            Value::Info => info_json(info),
            Value::Int(_) | Value::Bool(_) => self.shown(info),
        }
    }
}

fn map_shown(map: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = map.iter().map(|(k, v)| format!("{k}:{v}")).collect();
    format!("map[{}]", pairs.join(" "))
}

fn info_shown(info: &LogInfo) -> String {
    let created = time_shown(info.created_unix_ns);
    format!(
        "{{{} {} /{} {} [{}] {} {} {created} [{}] {} {} docker}}",
        map_shown(&info.options),
        info.id,
        info.name,
        info.entrypoint,
        info.arguments.join(" "),
        info.image_id,
        info.image_name,
        info.env.join(" "),
        map_shown(&info.labels),
        info.log_path,
    )
}

fn info_json(info: &LogInfo) -> String {
    format!(
        "{{\"Config\":{},\"ContainerID\":{},\"ContainerName\":{},\"ContainerEntrypoint\":{},\
         \"ContainerArgs\":{},\"ContainerImageID\":{},\"ContainerImageName\":{},\"ContainerCreated\":{},\
         \"ContainerEnv\":{},\"ContainerLabels\":{},\"LogPath\":{},\"DaemonName\":\"docker\"}}",
        json(&info.options),
        json(&info.id),
        json(&format!("/{}", info.name)),
        json(&info.entrypoint),
        json(&info.arguments),
        json(&info.image_id),
        json(&info.image_name),
        json(&rfc3339(info.created_unix_ns)),
        json(&info.env),
        json(&info.labels),
        json(&info.log_path),
    )
}

fn json(value: &impl serde::Serialize) -> String {
    // Texts, lists and maps of texts always have a form in JSON.
    serde_json::to_string(value).unwrap_or_default()
}

fn json_float(n: f64) -> String {
    let size = n.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        return format!("{n:e}").replace("e", if size >= 1e21 { "e+" } else { "e" });
    }
    n.to_string()
}

fn rfc3339(unix_ns: i64) -> String {
    let mut out = Vec::new();
    crate::time::format_into(&mut out, u64::try_from(unix_ns).unwrap_or(0), false);
    String::from_utf8_lossy(&out).into_owned()
}

/// A time as Go's `String` gives it.
pub(super) fn time_shown(unix_ns: i64) -> String {
    let text = rfc3339(unix_ns).replace('T', " ");
    format!("{} +0000 UTC", text.trim_end_matches('Z'))
}

/// Methods of a time that take nothing; `None`: there is no such one.
pub(super) fn time_method(unix_ns: i64, name: &str) -> Option<Value> {
    let time = Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or_default();
    let zoned = time.to_zoned(TimeZone::UTC);
    Some(match name {
        "Unix" => Value::Int(time.as_second()),
        "UnixMilli" => Value::Int(time.as_millisecond()),
        "UnixMicro" => Value::Int(time.as_microsecond()),
        "UnixNano" => Value::Int(unix_ns),
        "Year" => Value::Int(zoned.year().into()),
        "Month" => text(zoned.strftime("%B").to_string()),
        "Day" => Value::Int(zoned.day().into()),
        "Weekday" => text(zoned.strftime("%A").to_string()),
        "YearDay" => Value::Int(zoned.day_of_year().into()),
        "Hour" => Value::Int(zoned.hour().into()),
        "Minute" => Value::Int(zoned.minute().into()),
        "Second" => Value::Int(zoned.second().into()),
        "Nanosecond" => Value::Int(zoned.subsec_nanosecond().into()),
        "String" => text(time_shown(unix_ns)),
        "UTC" => Value::Time(unix_ns),
        "IsZero" => Value::Bool(false),
        _ => return None,
    })
}
