//! Tag templates. Of Go's templates only plain fields are known; others are refused.

use crate::info::LogInfo;

/// A template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// Go's words.
    #[error("template: log-tag:1: {0}")]
    Refused(String),
    /// Docker has it, this daemon has not.
    #[error("the field {0} of a log tag is not implemented yet")]
    NotBuilt(String),
}

/// The template with its fields filled in.
pub(crate) fn expand(template: &str, info: &LogInfo) -> Result<String, BadTemplate> {
    let mut tag = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (field, after) = after
            .split_once("}}")
            .ok_or_else(|| BadTemplate::Refused("unclosed action".to_owned()))?;
        tag.push_str(before);
        tag.push_str(match field.trim() {
            ".ID" => info.short_id(),
            ".FullID" => &info.id,
            ".Name" => &info.name,
            ".ImageID" => info.short_image_id(),
            ".ImageFullID" => &info.image_id,
            ".ImageName" => &info.image_name,
            ".DaemonName" => "docker",
            other => return Err(BadTemplate::NotBuilt(other.to_owned())),
        });
        rest = after;
    }
    tag.push_str(rest);
    Ok(tag)
}
