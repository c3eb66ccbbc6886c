//! Devices by the Container Device Interface: files of the machine's administrator or vendors say what a device adds
//! to a container.

mod edits;
mod registry;
mod spec;
mod yaml;

use std::path::PathBuf;
use std::sync::Arc;

pub(crate) use edits::{Edits, Node};

use crate::EngineError;
use crate::model::DeviceRequest;

/// Name of the driver in requests.
pub const DRIVER: &str = "cdi";
/// Where specifications are unless the daemon is told otherwise; later directories count more.
pub const DEFAULT_SPEC_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Finds the devices of a request and adds what they say. Blocking.
pub(crate) fn inject(
    request: &DeviceRequest,
    dirs: &[PathBuf],
    edits: &mut Edits,
) -> Result<(), EngineError> {
    let refused = |text: &str| Err(EngineError::InvalidParameter(text.to_owned()));
    if request.count != 0 {
        return refused("unexpected count in CDI device request");
    }
    if request.has_options {
        return refused("unexpected options in CDI device request");
    }
    inject_named(&request.ids, dirs, edits)
}

/// As [`inject`], of devices by their names. Blocking.
pub(crate) fn inject_named(
    names: &[String],
    dirs: &[PathBuf],
    edits: &mut Edits,
) -> Result<(), EngineError> {
    if names.is_empty() {
        return Ok(());
    }
    add_devices(names, dirs, edits)
        .map_err(|why| EngineError::System(format!("CDI device injection failed: {why}")))
}

/// Whether any device is of this vendor and class. Blocking.
pub(crate) fn has_kind(dirs: &[PathBuf], kind: &str) -> bool {
    let devices = registry::scan(dirs);
    devices.values().any(|found| found.spec.kind == kind)
}

fn add_devices(names: &[String], dirs: &[PathBuf], edits: &mut Edits) -> Result<(), String> {
    let devices = registry::scan(dirs);
    let unknown = names.iter().filter(|name| !devices.contains_key(*name));
    let unknown: Vec<&str> = unknown.map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(format!("unresolvable CDI devices {}", unknown.join(", ")));
    }
    let failed = |why: String| format!("failed to inject devices: {why}");
    let mut specs: Vec<Arc<spec::Spec>> = Vec::new();
    for found in names.iter().filter_map(|name| devices.get(name)) {
        // What is common to the devices of a file comes once, before the first of them.
        if !specs.iter().any(|known| Arc::ptr_eq(known, &found.spec)) {
            specs.push(Arc::clone(&found.spec));
            edits.add(&found.spec.container_edits).map_err(failed)?;
        }
        edits.add(&found.device().container_edits).map_err(failed)?;
    }
    Ok(())
}
