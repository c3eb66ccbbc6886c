//! `SecurityOpt`.

use gantry_engine::model::{SeccompChoice, SecurityOptions};

use crate::error::ApiError;

/// Parses every option; one that is unknown or not built is refused.
pub(super) fn parse(options: &[String]) -> Result<SecurityOptions, ApiError> {
    let mut parsed = SecurityOptions::default();
    for option in options {
        let split = option.split_once('=').or_else(|| option.split_once(':'));
        match split.map_or((option.as_str(), ""), |(k, v)| (k, v)) {
            ("no-new-privileges", "" | "true") => parsed.no_new_privileges = true,
            ("no-new-privileges", "false") => parsed.no_new_privileges = false,
            ("seccomp", "unconfined") => parsed.seccomp = SeccompChoice::Unconfined,
            ("seccomp", "builtin") => parsed.seccomp = SeccompChoice::Default,
            ("seccomp", profile) if profile.trim_start().starts_with('{') => {
                parsed.seccomp = SeccompChoice::Profile(profile.to_owned());
            }
            // There is no such module to switch off.
            ("apparmor", "unconfined" | "") | ("label", "disable") => {}
            ("apparmor" | "label" | "writable-cgroups", _) => {
                return Err(ApiError::not_implemented(format!(
                    "security option {option}: this is not implemented yet"
                )));
            }
            _ => {
                // Docker tells apart what has no value.
                let kind = if split.is_some() { 2 } else { 1 };
                return Err(ApiError::invalid(format!(
                    "invalid --security-opt {kind}: {}",
                    crate::query::quoted(option)
                )));
            }
        }
    }
    Ok(parsed)
}
