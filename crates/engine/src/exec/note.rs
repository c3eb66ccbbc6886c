//! What a running exec is, for a daemon that finds it in a keeper after this one. Against a kill, not against a power
//! loss: after that there is no process either. Blocking: on a worker.

use std::io;
use std::path::{Path, PathBuf};

use super::ExecConfig;
use crate::EngineError;
use crate::config::EngineConfig;

/// Longest note that is believed.
const MAX_NOTE_BYTES: u64 = 8 << 20;

/// Where they are; made at boot.
pub(crate) fn dir(config: &EngineConfig) -> PathBuf {
    config.exec_root.join("execs")
}

fn failed(path: &Path) -> impl Fn(io::Error) -> EngineError + '_ {
    move |e| EngineError::io(format!("{}", path.display()), e)
}

pub(super) fn write(
    config: &EngineConfig,
    key: &str,
    exec: &ExecConfig,
) -> Result<(), EngineError> {
    let bytes = serde_json::to_vec(exec)
        .map_err(|e| EngineError::System(format!("encode an exec: {e}")))?;
    let path = dir(config).join(key);
    std::fs::write(&path, &bytes).map_err(failed(&path))
}

pub(super) fn read(config: &EngineConfig, key: &str) -> Result<ExecConfig, EngineError> {
    use std::io::Read;
    let path = dir(config).join(key);
    let mut bytes = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(MAX_NOTE_BYTES).read_to_end(&mut bytes))
        .map_err(failed(&path))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| EngineError::System(format!("{}: {e}", path.display())))
}

/// Removes it. Having none is no error: the start may have failed before.
pub(crate) fn remove(config: &EngineConfig, key: &str) -> Result<(), EngineError> {
    let path = dir(config).join(key);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(&path)(e)),
        _ => Ok(()),
    }
}

/// The keys of all notes there are.
pub(super) fn keys(config: &EngineConfig) -> Result<Vec<String>, EngineError> {
    let path = dir(config);
    let listed = std::fs::read_dir(&path).map_err(failed(&path))?;
    Ok(listed
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}
