//! Devices of vendors that dockerd knows by name: NVIDIA's by their hook, AMD's by a variable. Without NVIDIA's hook its
//! devices come from the CDI specifications that its toolkit writes.

use std::path::{Path, PathBuf};

use gantry_launch::{Hook, HookKind};

use crate::EngineError;
use crate::cdi::{self, Edits};
use crate::model::DeviceRequest;

/// Looked up by PATH: which of them is there says which driver there is.
const NVIDIA_HOOK: &str = "nvidia-container-runtime-hook";
const AMD_RUNTIME: &str = "amd-container-runtime";
/// What NVIDIA's toolkit calls its devices in CDI specifications.
const NVIDIA_CDI_KIND: &str = "nvidia.com/gpu";
/// Capabilities that NVIDIA's hook knows; they are told to it.
const NVIDIA_CAPABILITIES: [&str; 6] = [
    "compute", "compat32", "graphics", "utility", "video", "display",
];
/// Most devices that can be asked for by their number.
pub const MAX_GPUS: i64 = 4096;

/// Adds what a request asks for; false if none of these drivers is there or has what is wanted. Blocking.
///
/// # Errors
/// dockerd's.
pub(crate) fn inject(
    request: &DeviceRequest,
    cdi_dirs: &[PathBuf],
    edits: &mut Edits,
) -> Result<bool, EngineError> {
    let wants = |name: &str| request.driver.is_empty() || request.driver == name;
    let hook = in_path(NVIDIA_HOOK);
    let amd = hook.is_none() && in_path(AMD_RUNTIME).is_some();
    if amd {
        let known = |capability: &str| matches!(capability, "gpu" | "amd");
        let fits = wants("amd") && selected(request, known).is_some();
        if fits {
            let devices = visible(request)?;
            edits.env.push(format!("AMD_VISIBLE_DEVICES={devices}"));
        }
        return Ok(fits);
    }
    let known = |capability: &str| {
        matches!(capability, "gpu" | "nvidia") || NVIDIA_CAPABILITIES.contains(&capability)
    };
    let Some(capabilities) = selected(request, known).filter(|_| wants("nvidia")) else {
        return Ok(false);
    };
    match hook {
        Some(program) => by_hook(request, capabilities, &program, edits).map(|()| true),
        None => by_cdi(request, cdi_dirs, edits),
    }
}

/// The first set of capabilities that a driver has all of.
fn selected(request: &DeviceRequest, known: impl Fn(&str) -> bool) -> Option<&[String]> {
    let mut sets = request.capabilities.iter();
    let fits = |set: &&Vec<String>| set.iter().all(|capability| known(capability));
    sets.find(fits).map(Vec::as_slice)
}

/// The devices as the vendors' variables name them.
fn visible(request: &DeviceRequest) -> Result<String, EngineError> {
    if request.count != 0 && !request.ids.is_empty() {
        return Err(EngineError::System(
            "cannot set both Count and DeviceIDs on device request".to_owned(),
        ));
    }
    if request.count > MAX_GPUS {
        return Err(EngineError::InvalidParameter(format!(
            "more than {MAX_GPUS} devices"
        )));
    }
    Ok(match request.count {
        _ if !request.ids.is_empty() => request.ids.join(","),
        0 => "void".to_owned(),
        count if count < 0 => "all".to_owned(),
        count => {
            let numbers: Vec<String> = (0..count).map(|n| n.to_string()).collect();
            numbers.join(",")
        }
    })
}

fn by_hook(
    request: &DeviceRequest,
    capabilities: &[String],
    program: &Path,
    edits: &mut Edits,
) -> Result<(), EngineError> {
    let devices = visible(request)?;
    edits.env.push(format!("NVIDIA_VISIBLE_DEVICES={devices}"));
    let told: Vec<&str> = capabilities
        .iter()
        .map(String::as_str)
        .filter(|capability| NVIDIA_CAPABILITIES.contains(capability))
        .collect();
    if !told.is_empty() {
        let told = told.join(",");
        edits.env.push(format!("NVIDIA_DRIVER_CAPABILITIES={told}"));
    }
    let own = std::env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        Some(format!("{name}={value}"))
    });
    let hook = Hook {
        path: program.display().to_string(),
        args: vec![NVIDIA_HOOK.to_owned(), "prestart".to_owned()],
        env: own.collect(),
        timeout: None,
    };
    edits
        .hooks
        .entry(HookKind::Prestart)
        .or_default()
        .push(hook);
    Ok(())
}

/// False if no specification describes NVIDIA's devices.
fn by_cdi(
    request: &DeviceRequest,
    dirs: &[PathBuf],
    edits: &mut Edits,
) -> Result<bool, EngineError> {
    if dirs.is_empty() || !cdi::has_kind(dirs, NVIDIA_CDI_KIND) {
        return Ok(false);
    }
    let devices = visible(request)?;
    let qualified = |id: &str| match id.contains('=') {
        true => id.to_owned(),
        false => format!("{NVIDIA_CDI_KIND}={id}"),
    };
    let ids = match devices.as_str() {
        "void" if request.ids.is_empty() => Vec::new(),
        devices => devices.split(',').map(qualified).collect(),
    };
    cdi::inject_named(&ids, dirs, edits)?;
    Ok(true)
}

/// A program in a directory of PATH.
fn in_path(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::var_os("PATH")?;
    let executable = |file: &PathBuf| {
        let meta = std::fs::metadata(file);
        meta.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    let mut dirs = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    dirs.find_map(|dir| Some(dir.join(name)).filter(executable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(count: i64, ids: &[&str], sets: &[&[&str]]) -> DeviceRequest {
        let owned = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        DeviceRequest {
            count,
            ids: owned(ids),
            capabilities: sets.iter().map(|set| owned(set)).collect(),
            ..DeviceRequest::default()
        }
    }

    #[test]
    fn devices_are_named_as_dockerd_does() {
        for (count, ids, devices) in [
            (-1, &[][..], "all"),
            (0, &[], "void"),
            (3, &[], "0,1,2"),
            (0, &["a", "GPU-1"], "a,GPU-1"),
        ] {
            let request = request(count, ids, &[]);
            assert_eq!(visible(&request).unwrap(), devices);
        }
        let both = visible(&request(1, &["a"], &[])).unwrap_err().to_string();
        assert!(both.starts_with("cannot set both"), "{both}");
        assert!(visible(&request(i64::MAX, &[], &[])).is_err());
    }

    #[test]
    fn the_first_set_that_fits_counts() {
        let known = |c: &str| c == "gpu" || c == "video";
        let wanted = request(1, &[], &[&["gpu", "x"], &["gpu", "video"], &["gpu"]]);
        assert_eq!(selected(&wanted, known).unwrap(), ["gpu", "video"]);
        assert!(selected(&request(1, &[], &[]), known).is_none());
        assert_eq!(selected(&request(1, &[], &[&[]]), known).unwrap().len(), 0);
    }

    #[test]
    fn the_hook_gets_the_daemons_environment() {
        let mut edits = Edits::default();
        let wanted = request(-1, &[], &[&["gpu", "utility", "video"]]);
        let program = Path::new("/opt/nvidia-container-runtime-hook");
        by_hook(&wanted, &wanted.capabilities[0], program, &mut edits).unwrap();
        assert_eq!(
            edits.env,
            [
                "NVIDIA_VISIBLE_DEVICES=all",
                "NVIDIA_DRIVER_CAPABILITIES=utility,video"
            ]
        );
        let hook = &edits.hooks[&HookKind::Prestart][0];
        assert_eq!(hook.args, ["nvidia-container-runtime-hook", "prestart"]);
        assert!(hook.env.iter().any(|one| one.starts_with("PATH=")));
    }
}
