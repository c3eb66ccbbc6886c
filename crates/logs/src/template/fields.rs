//! What a container and a time have to tell: fields, and methods that take nothing.

use crate::info::LogInfo;

use super::BadTemplate;
use super::functions::{Takes, Want};
use super::value::{Value, text, time_method};

/// A method's parameters and what it gives; that of `ExtraAttributes` is for the caller to find.
pub(super) fn method(
    info: &LogInfo,
    value: &Value,
    name: &str,
) -> Result<Option<(Takes, Option<Value>)>, BadTemplate> {
    let takes = |first| Takes { first, more: false };
    let found = match (value, name) {
        (Value::Info, "ExtraAttributes") => return Ok(Some((takes(&[Want::Function]), None))),
        (Value::Info, "ID") => Some(text(info.short_id())),
        (Value::Info, "FullID") => Some(text(&info.id)),
        (Value::Info, "Name") => Some(text(&info.name)),
        (Value::Info, "ImageID") => Some(text(info.short_image_id())),
        (Value::Info, "ImageFullID") => Some(text(&info.image_id)),
        (Value::Info, "ImageName") => Some(text(&info.image_name)),
        (Value::Info, "Command") => Some(Value::Text(info.command())),
        (Value::Info, "Hostname") => {
            let name = rustix::system::uname();
            Some(text(name.nodename().to_string_lossy()))
        }
        (Value::Time(_), "Format") => {
            let what = "the method Format of .ContainerCreated".to_owned();
            return Err(BadTemplate::NotBuilt(what));
        }
        (Value::Time(ns), name) => time_method(*ns, name),
        _ => None,
    };
    Ok(found.map(|value| (takes(&[]), Some(value))))
}

/// A field of a container.
pub(super) fn of_info(info: &LogInfo, name: &str) -> Option<Value> {
    Some(match name {
        "ContainerID" => text(&info.id),
        "ContainerName" => Value::Text(format!("/{}", info.name)),
        "ContainerImageID" => text(&info.image_id),
        "ContainerImageName" => text(&info.image_name),
        "ContainerEntrypoint" => text(&info.entrypoint),
        "ContainerArgs" => Value::List(info.arguments.clone()),
        "ContainerEnv" => Value::List(info.env.clone()),
        "ContainerLabels" => Value::Map(info.labels.clone()),
        "ContainerCreated" => Value::Time(info.created_unix_ns),
        "Config" => Value::Map(info.options.clone()),
        "LogPath" => text(&info.log_path),
        "DaemonName" => text("docker"),
        _ => return None,
    })
}
