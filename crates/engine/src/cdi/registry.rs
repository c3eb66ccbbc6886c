//! The specifications of a machine: which device is described where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::spec::{Device, Spec};

/// Files that are looked at in one directory.
const MAX_FILES: usize = 1024;
/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// A device, by what and where it is described.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) spec: Arc<Spec>,
    at: usize,
    /// Place of its directory; later ones count more.
    priority: usize,
}

impl Found {
    pub(super) fn device(&self) -> &Device {
        &self.spec.devices[self.at]
    }
}

/// Every device of the directories by its qualified name. What cannot be read is left out and logged, and so is a
/// device that two files of one directory describe. Blocking.
pub(super) fn scan(dirs: &[PathBuf]) -> BTreeMap<String, Found> {
    let mut devices: BTreeMap<String, Found> = BTreeMap::new();
    let mut conflicts = BTreeSet::new();
    for (priority, dir) in dirs.iter().enumerate() {
        for path in files(dir) {
            let spec = match read(&path) {
                Ok(spec) => Arc::new(spec),
                Err(reason) => {
                    tracing::warn!(path = %path.display(), reason, "a CDI specification is left out");
                    continue;
                }
            };
            for (at, device) in spec.devices.iter().enumerate() {
                let name = format!("{}={}", spec.kind, device.name);
                let same = |old: &Found| old.priority == priority;
                if devices.get(&name).is_some_and(same) {
                    tracing::warn!(name, path = %path.display(), "two CDI specifications describe one device");
                    conflicts.insert(name);
                    continue;
                }
                let spec = Arc::clone(&spec);
                devices.insert(name, Found { spec, at, priority });
            }
        }
    }
    devices.retain(|name, _| !conflicts.contains(name));
    devices
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let is_spec = |path: &PathBuf| path.extension().is_some_and(|e| e == "json" || e == "yaml");
    let paths = entries.flatten().map(|entry| entry.path()).filter(is_spec);
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| !path.is_dir())
        .take(MAX_FILES)
        .collect();
    paths.sort_unstable();
    paths
}

fn read(path: &Path) -> Result<Spec, String> {
    // Not a pipe or device that would keep the reader waiting.
    let meta = fs::metadata(path).map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("not a regular file".to_owned());
    }
    let file = fs::File::open(path).map_err(|e| e.to_string())?;
    let mut content = String::new();
    let mut limited = file.take(MAX_FILE_BYTES + 1);
    limited
        .read_to_string(&mut content)
        .map_err(|e| e.to_string())?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("larger than {MAX_FILE_BYTES} bytes"));
    }
    Spec::parse(&content, path.extension().is_some_and(|e| e == "yaml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, value: &str) {
        let text = format!(
            r#"{{"cdiVersion":"0.5.0","kind":"v.com/c","devices":[{{"name":"d","containerEdits":{{"env":["Q={value}"]}}}}]}}"#
        );
        fs::write(dir.join(name), text).unwrap();
    }

    fn value(dirs: &[PathBuf]) -> Option<String> {
        let found = scan(dirs);
        let found = found.get("v.com/c=d")?;
        Some(found.device().container_edits.env[0].clone())
    }

    #[test]
    fn later_directories_count_more_and_conflicts_for_nothing() {
        let (low, high) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let missing = PathBuf::from("/nonexistent/cdi");
        let dirs = [low.path().to_owned(), missing, high.path().to_owned()];
        assert_eq!(value(&dirs), None);
        write(low.path(), "a.json", "low");
        assert_eq!(value(&dirs).as_deref(), Some("Q=low"));
        write(high.path(), "a.json", "high");
        write(high.path(), "b.txt", "text");
        fs::write(high.path().join("c.json"), "{").unwrap();
        std::os::unix::fs::symlink("/nonexistent", high.path().join("d.json")).unwrap();
        assert_eq!(value(&dirs).as_deref(), Some("Q=high"));
        write(low.path(), "b.json", "low too");
        assert_eq!(value(&dirs), None);
    }
}
