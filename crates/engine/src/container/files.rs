//! The files of a container under the data root. Everything that touches them runs on workers.

use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gantry_rt::workers;

use super::Container;
use crate::EngineError;
use crate::model::{ContainerRecord, ContainerView, FixedView, NetworkMode, Status};

/// The JSON copy of the record.
pub(crate) const RECORD_FILE: &str = "container.json";
/// Directory, beside the containers', of trees that are being deleted.
pub(crate) const TRASH_DIR: &str = "trash";

/// Runs file work on a worker.
pub(crate) async fn on_worker<R: Send + 'static>(
    f: impl FnOnce() -> Result<R, EngineError> + Send + 'static,
) -> Result<R, EngineError> {
    workers::run(f)
        .await
        .map_err(|e| EngineError::System(e.to_string()))?
}

fn make_dir(path: &Path, mode: u32) -> Result<(), EngineError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|e| EngineError::io(format!("make directory {}", path.display()), e))
}

/// Makes the directories, as far as they are missing. Blocks.
pub(crate) fn make_dirs(fixed: &FixedView) -> Result<(), EngineError> {
    make_dir(&fixed.dir, 0o710)?;
    make_dir(&fixed.dir.join("rootfs"), 0o710)?;
    make_dir(&fixed.upper_path(), 0o755)?;
    make_dir(&fixed.work_path(), 0o700)
}

/// Makes the directories of a container to be, if something is done to them before its first start, which makes those of
/// the others.
pub(crate) async fn make_dirs_early(container: &Rc<Container>) -> Result<(), EngineError> {
    let (fixed, shared) = (container.fixed.clone(), container.shard.shared.clone());
    let copies_up = fixed.host.mounts.iter().any(|point| point.copy_up);
    if fixed.host.storage_quota.is_none() && !copies_up {
        return Ok(());
    }
    on_worker(move || {
        make_dirs(&fixed)?;
        shared.quotas.apply(&fixed)
    })
    .await
}

/// Puts the init program where containers' mounts find it. Running containers keep the one they have.
pub(crate) fn install_init(path: &Path) -> Result<(), EngineError> {
    let as_wanted = fs::read(path).is_ok_and(|old| old == gantry_init::PROGRAM)
        && fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o777 == 0o755);
    if as_wanted {
        return Ok(());
    }
    write_replacing(path, gantry_init::PROGRAM)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|e| EngineError::io(format!("make {} executable", path.display()), e))
}

/// Writes a file so that readers see the old or the new content.
pub(crate) fn write_replacing(path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    let new = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        File::create(&new)?.write_all(bytes)?;
        fs::rename(&new, path)
    };
    write().map_err(|e| EngineError::io(format!("write {}", path.display()), e))
}

/// Renews the JSON copy. The container's lock is held: a removal would leave a directory behind.
pub(crate) async fn copy_record(container: &Container) -> Result<(), EngineError> {
    let bytes = container.record_bytes()?;
    let fixed = container.fixed.clone();
    on_worker(move || {
        make_dir(&fixed.dir, 0o710)?;
        write_replacing(&fixed.dir.join(RECORD_FILE), &bytes)
    })
    .await
}

/// Whether a container's directory shows no trace of a life: an empty upper layer, and a record (if there is one) of a
/// container that was created and not started. Blocks.
pub(crate) fn was_never_started(dir: &Path) -> bool {
    let unused = match fs::read_dir(dir.join("rootfs/upper")) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    };
    let created = match fs::read(dir.join(RECORD_FILE)) {
        Ok(bytes) => serde_json::from_slice::<ContainerRecord>(&bytes)
            .is_ok_and(|r| r.state.status == Status::Created && r.state.start_time_ticks == 0),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    };
    unused && created
}

/// Where a container's directory is set aside.
pub(crate) fn trash_of(dir: &Path) -> Option<PathBuf> {
    let name = dir.file_name()?;
    Some(dir.parent()?.parent()?.join(TRASH_DIR).join(name))
}

/// Moves a container's directory out of the way in one step; its tree is deleted with
/// [`delete_trash_later`]. A directory that is gone already is no error.
pub(crate) async fn move_to_trash(dir: PathBuf) -> Result<(), EngineError> {
    on_worker(move || {
        let trash = trash_of(&dir)
            .ok_or_else(|| EngineError::System("a container has no directory".to_owned()))?;
        match fs::rename(&dir, &trash) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !dir.exists() => Ok(()),
            Err(e) => Err(EngineError::io(format!("unlink {}", dir.display()), e)),
        }
    })
    .await
}

/// Deletes the tree that [`move_to_trash`] set aside; boot deletes what is left there.
pub(crate) fn delete_trash_later(dir: &Path) {
    let Some(trash) = trash_of(dir) else { return };
    gantry_rt::spawn("container.delete-tree", async move {
        let shown = trash.display().to_string();
        if let Err(e) = on_worker(move || delete_container_tree(&trash)).await {
            tracing::warn!(path = shown, error = %e, "a removed container's tree is left; it is deleted at the next boot");
        }
    });
}

/// Deletes what a failed creation left.
pub(crate) fn discard_later(dir: &Path) {
    let dir = dir.to_owned();
    gantry_rt::spawn("container.discard", async move {
        let trashed = dir.clone();
        match move_to_trash(dir).await {
            Ok(()) => delete_trash_later(&trashed),
            Err(e) => tracing::warn!(error = %e, "a failed creation left a directory"),
        }
    });
}

/// Deletes the tree of a removed container. One that has nothing but what every start makes needs no look at what
/// there is.
pub(crate) fn delete_container_tree(path: &Path) -> Result<(), EngineError> {
    let id = path.file_name().unwrap_or_default().to_string_lossy();
    if delete_usual(path, &id).is_ok() {
        return Ok(());
    }
    delete_tree(path)
}

/// Deletes what a start makes; an error if anything else is there.
fn delete_usual(path: &Path, id: &str) -> rustix::io::Result<()> {
    use rustix::fs::{AtFlags, Mode, OFlags};
    const DIRECTORIES: [&str; 4] = ["rootfs/upper", "rootfs/work/work", "rootfs/work", "rootfs"];
    const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty())?;
    for name in DIRECTORIES {
        rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?;
    }
    let log = format!("{id}-json.log");
    for name in FILES.into_iter().chain([log.as_str()]) {
        match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    rustix::fs::rmdir(path)
}

/// Deletes a tree; gone already is no error.
pub(crate) fn delete_tree(path: &Path) -> Result<(), EngineError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(EngineError::io(format!("delete {}", path.display()), e)),
    }
}

/// The host's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The three files that a container sees at /etc, as they should be at a start.
pub(crate) struct EtcFiles {
    pub(crate) hosts: String,
    pub(crate) hostname: String,
    pub(crate) resolv_conf: String,
}

impl EtcFiles {
    /// Writes them. Blocks.
    pub(crate) fn write(&self, fixed: &FixedView) -> Result<(), EngineError> {
        // In place: a running container of a shared namespace has them mounted by inode.
        for (path, text) in [
            (fixed.hosts_path(), &self.hosts),
            (fixed.hostname_path(), &self.hostname),
            (fixed.resolv_conf_path(), &self.resolv_conf),
        ] {
            fs::write(&path, text)
                .map_err(|e| EngineError::io(format!("write {}", path.display()), e))?;
        }
        Ok(())
    }
}

/// Makes the text of the three files. Blocks (it reads the host's).
///
/// # Errors
/// A host entry for the gateway: no network of this engine has one. A name server that is no address.
pub(crate) fn etc_files(fixed: &FixedView, daemon_dns: &[String]) -> Result<EtcFiles, EngineError> {
    let host_mode = fixed.host.network_mode == NetworkMode::Host;
    // With entries of the client's the host's own are not taken over.
    let host_hosts = if host_mode && fixed.host.extra_hosts.is_empty() {
        fs::read_to_string("/etc/hosts").ok()
    } else {
        None
    };
    let mut hosts = host_hosts.unwrap_or_else(|| DEFAULT_HOSTS.to_owned());
    for extra in &fixed.host.extra_hosts {
        if let Some((name, address)) = extra.split_once([':', '=']) {
            if address == HOST_GATEWAY {
                return Err(EngineError::System(
                    "unable to derive the IP value for host-gateway".to_owned(),
                ));
            }
            hosts.push_str(&format!("{address}\t{name}\n"));
        }
    }
    for server in &fixed.host.dns {
        // An address of IPv6 may have a zone.
        let address = server.split_once('%').map_or(server.as_str(), |(a, _)| a);
        if address.parse::<std::net::IpAddr>().is_err() {
            return Err(EngineError::System(format!(
                "bad nameserver address {server}: ParseAddr({server:?}): unable to parse IP"
            )));
        }
    }
    let host_resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    Ok(EtcFiles {
        hosts,
        hostname: format!("{}\n", fixed.config.hostname),
        resolv_conf: resolv_conf(&host_resolv, fixed, daemon_dns),
    })
}

/// The address of a host entry that stands for the host itself.
const HOST_GATEWAY: &str = "host-gateway";

const DEFAULT_HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// What dockerd writes at the top.
const RESOLV_CONF_HEAD: &str = "# Generated by Docker Engine.\n# This file can be edited; Docker Engine will not make further changes once it\n# has been modified.\n\n";

/// The host's resolver configuration with what the client replaces. Outside the host's own network
/// its loopback servers mean nothing and are left out.
fn resolv_conf(host: &str, fixed: &FixedView, daemon_dns: &[String]) -> String {
    let spec = &fixed.host;
    let dns = if spec.dns.is_empty() {
        daemon_dns
    } else {
        &spec.dns
    };
    let host_mode = spec.network_mode == NetworkMode::Host;
    let mut text = RESOLV_CONF_HEAD.to_owned();
    for line in host.lines() {
        let mut words = line.split_whitespace();
        let keep = match words.next() {
            Some("nameserver") => {
                let loopback = words
                    .next()
                    .is_some_and(|a| a.starts_with("127.") || a == "::1");
                dns.is_empty() && (host_mode || !loopback)
            }
            Some("search" | "domain") => spec.dns_search.is_empty(),
            Some("options") => spec.dns_options.is_empty(),
            Some(word) => !word.starts_with(['#', ';']),
            None => false,
        };
        if keep {
            text.push_str(line);
            text.push('\n');
        }
    }
    for server in dns {
        text.push_str(&format!("nameserver {server}\n"));
    }
    // A single dot means: no search list.
    if !spec.dns_search.is_empty() && spec.dns_search != ["."] {
        text.push_str(&format!("search {}\n", spec.dns_search.join(" ")));
    }
    if !spec.dns_options.is_empty() {
        text.push_str(&format!("options {}\n", spec.dns_options.join(" ")));
    }
    let overrides = [
        (!dns.is_empty(), "nameservers"),
        (!spec.dns_search.is_empty(), "search"),
        (!spec.dns_options.is_empty(), "options"),
    ];
    let overrides: Vec<&str> = overrides.iter().filter(|o| o.0).map(|o| o.1).collect();
    // In the host's own network the host's file is used as it is.
    let legacy = if host_mode { "" } else { " (legacy)" };
    text.push_str(&format!(
        "\n# Based on host file: '/etc/resolv.conf'{legacy}\n# Overrides: [{}]\n",
        overrides.join(" ")
    ));
    if spec.dns_options.iter().any(|o| o.starts_with("ndots:")) {
        text.push_str("# Option ndots from: override\n");
    }
    text
}

/// The view whose /etc files a container uses: its own, or those of the one whose network it joins.
pub(crate) fn etc_owner(own: &FixedView, joined: Option<&ContainerView>) -> [PathBuf; 3] {
    let fixed = joined.map_or(own, |view| &view.fixed);
    [
        fixed.hosts_path(),
        fixed.hostname_path(),
        fixed.resolv_conf_path(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::view;

    #[test]
    fn resolver_configuration() {
        let host =
            "# made by\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch a b\noptions edns0\n";
        let mut fixed = (*view("a", "a", Status::Created).fixed).clone();
        let settings = |fixed: &FixedView| {
            let text = resolv_conf(host, fixed, &[]);
            assert!(text.starts_with("# Generated by Docker Engine.\n"));
            let lines = text
                .lines()
                .filter(|l| !l.is_empty() && !l.starts_with('#'));
            lines.map(|l| format!("{l}\n")).collect::<String>()
        };
        assert_eq!(
            settings(&fixed),
            "nameserver 10.0.0.1\nsearch a b\noptions edns0\n"
        );
        fixed.host.dns = vec!["9.9.9.9".to_owned()];
        fixed.host.dns_search = vec!["c".to_owned()];
        assert_eq!(
            settings(&fixed),
            "options edns0\nnameserver 9.9.9.9\nsearch c\n"
        );
        fixed.host.dns_search = vec![".".to_owned()];
        assert_eq!(settings(&fixed), "options edns0\nnameserver 9.9.9.9\n");
    }

    #[test]
    fn only_directories_without_a_life_are_unborn() {
        let dir = tempfile::tempdir().unwrap();
        assert!(was_never_started(dir.path()));
        fs::create_dir_all(dir.path().join("rootfs/upper")).unwrap();
        assert!(was_never_started(dir.path()));
        fs::write(dir.path().join(RECORD_FILE), b"{}").unwrap();
        assert!(!was_never_started(dir.path()), "a record nobody can read");
        fs::remove_file(dir.path().join(RECORD_FILE)).unwrap();
        fs::write(dir.path().join("rootfs/upper/data"), b"x").unwrap();
        assert!(!was_never_started(dir.path()));
    }

    #[test]
    fn a_removed_tree_is_deleted_whatever_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        for more in [None, Some("rootfs/upper/file"), Some("checkpoint")] {
            let tree = dir.path().join("abc");
            fs::create_dir_all(tree.join("rootfs/upper")).unwrap();
            fs::create_dir_all(tree.join("rootfs/work/work")).unwrap();
            for name in ["hosts", "hostname", "abc-json.log"]
                .into_iter()
                .chain(more)
            {
                fs::write(tree.join(name), b"x").unwrap();
            }
            assert_eq!(delete_usual(&tree, "abc").is_ok(), more.is_none());
            delete_container_tree(&tree).unwrap();
            assert!(!tree.exists());
        }
    }

    #[test]
    fn trash_lies_beside_the_containers() {
        assert_eq!(
            trash_of(Path::new("/r/containers/abc")),
            Some(PathBuf::from("/r/trash/abc"))
        );
    }
}
