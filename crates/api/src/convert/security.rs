//! `SecurityOpt`.

use gantry_engine::model::{SeccompChoice, SecurityOptions};

use crate::error::ApiError;

/// Parses every option, with dockerd's rules: the last of a kind counts. Labels are of SELinux, which is off, and so
/// mean nothing, whatever they say.
pub(super) fn parse(options: &[String]) -> Result<SecurityOptions, ApiError> {
    let mut parsed = SecurityOptions::default();
    for option in options {
        one(option, &mut parsed)?;
    }
    Ok(parsed)
}

fn one(option: &str, parsed: &mut SecurityOptions) -> Result<(), ApiError> {
    // Docker tells apart what has no value.
    let invalid = |kind: u8| {
        Err(ApiError::invalid(format!(
            "invalid --security-opt {kind}: {}",
            crate::query::quoted(option)
        )))
    };
    let Some((key, value)) = option.split_once('=').or_else(|| option.split_once(':')) else {
        match option {
            "no-new-privileges" => parsed.no_new_privileges = true,
            "writable-cgroups" => parsed.writable_cgroups = Some(true),
            _ => return invalid(1),
        }
        return Ok(());
    };
    match key {
        "label" => {}
        "apparmor" => value.clone_into(&mut parsed.apparmor_profile),
        "seccomp" => {
            parsed.seccomp = match value {
                "" | "builtin" => SeccompChoice::Default,
                "unconfined" => SeccompChoice::Unconfined,
                profile => SeccompChoice::Profile(profile.to_owned()),
            }
        }
        "no-new-privileges" | "writable-cgroups" => match (key, crate::query::go_bool(value)) {
            (_, None) => return invalid(2),
            ("no-new-privileges", Some(on)) => parsed.no_new_privileges = on,
            (_, on) => parsed.writable_cgroups = on,
        },
        _ => return invalid(2),
    }
    Ok(())
}
