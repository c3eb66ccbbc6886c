//! Files of the daemon itself: pid file, lock of the data root, ids that outlive restarts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use gantry_api::PredefinedNetwork;
use serde::{Deserialize, Serialize};

use crate::boot::BootError;

/// Makes a directory of the daemon, for root alone.
pub fn private_dir(path: &Path, mode: u32) -> Result<(), BootError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|e| BootError::io("make", path, e))
}

/// Takes the lock of the data root; it is held as long as the file is open.
pub fn lock(data_root: &Path) -> Result<File, BootError> {
    let path = data_root.join("gantryd.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| BootError::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(BootError::InUse(data_root.to_owned())),
        Err(std::fs::TryLockError::Error(e)) => Err(BootError::io("lock", &path, e)),
    }
}

/// Writes the pid file, unless a living process of another daemon has it.
pub fn write_pidfile(path: &Path) -> Result<(), BootError> {
    if let Some(pid) = read_pid(path) {
        let own = std::process::id();
        let alive = Path::new(&format!("/proc/{pid}")).exists() && pid != own;
        let is_daemon = std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|c| c.trim() == "gantryd");
        if alive && is_daemon {
            return Err(BootError::Pidfile {
                path: path.to_owned(),
                pid,
            });
        }
    }
    if let Some(parent) = path.parent() {
        private_dir(parent, 0o755)?;
    }
    std::fs::write(path, std::process::id().to_string())
        .map_err(|e| BootError::io("write", path, e))
}

fn read_pid(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Removes the pid file if it is still ours.
pub fn remove_pidfile(path: &Path) {
    if read_pid(path) == Some(std::process::id())
        && let Err(e) = std::fs::remove_file(path)
    {
        tracing::warn!(path = %path.display(), error = %e, "the pid file could not be removed");
    }
}

/// What the daemon invents once and keeps.
#[derive(Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Id of the daemon, a UUID.
    pub id: String,
    networks: Vec<NetworkIdentity>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NetworkIdentity {
    name: String,
    id: String,
    created_unix_ns: i64,
}

/// The networks that are always there, with their drivers, in Docker's order.
const PREDEFINED: &[(&str, &str)] = &[("bridge", "bridge"), ("host", "host"), ("none", "null")];

impl Identity {
    /// Reads it, or invents it at the first boot.
    pub fn load(data_root: &Path, now_unix_ns: i64) -> Result<Identity, BootError> {
        let path = data_root.join("identity.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| BootError::Damaged {
                path,
                reason: e.to_string(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let identity = Self::invent(now_unix_ns)?;
                write_durably(
                    &path,
                    &serde_json::to_vec(&identity)
                        .map_err(io::Error::from)
                        .map_err(|e| BootError::io("write", &path, e))?,
                )
                .map_err(|e| BootError::io("write", &path, e))?;
                Ok(identity)
            }
            Err(e) => Err(BootError::io("read", &path, e)),
        }
    }

    fn invent(now_unix_ns: i64) -> Result<Identity, BootError> {
        let mut raw = [0u8; 16];
        random(&mut raw)?;
        raw[6] = (raw[6] & 0x0f) | 0x40;
        raw[8] = (raw[8] & 0x3f) | 0x80;
        let hex = hex(&raw);
        let id = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ]
        .join("-");
        let mut networks = Vec::new();
        for (name, _) in PREDEFINED {
            let mut raw = [0u8; 32];
            random(&mut raw)?;
            networks.push(NetworkIdentity {
                name: (*name).to_owned(),
                id: self::hex(&raw),
                created_unix_ns: now_unix_ns,
            });
        }
        Ok(Identity { id, networks })
    }

    /// The predefined networks.
    pub fn networks(&self) -> Vec<PredefinedNetwork> {
        let kept = |name: &str| self.networks.iter().find(|n| n.name == name);
        PREDEFINED
            .iter()
            .filter_map(|&(name, driver)| {
                let kept = kept(name)?;
                Some(PredefinedNetwork {
                    name,
                    driver,
                    id: kept.id.clone(),
                    created_unix_ns: kept.created_unix_ns,
                })
            })
            .collect()
    }
}

fn random(buffer: &mut [u8]) -> Result<(), BootError> {
    let path = Path::new("/dev/urandom");
    File::open(path)
        .and_then(|mut f| f.read_exact(buffer))
        .map_err(|e| BootError::io("read", path, e))
}

fn hex(raw: &[u8]) -> String {
    raw.iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes beside, syncs, renames, syncs the directory.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load(dir.path(), 7).unwrap();
        let second = Identity::load(dir.path(), 8).unwrap();
        assert_eq!(first.id, second.id);
        assert_eq!(first.id.len(), 36);
        assert_eq!(second.networks().len(), 3);
        assert_eq!(second.networks()[2].id.len(), 64);
        assert_eq!(second.networks()[0].created_unix_ns, 7);
    }

    #[test]
    fn one_daemon_per_data_root() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(BootError::InUse(_))));
        drop(held);
        assert!(lock(dir.path()).is_ok());
    }
}
