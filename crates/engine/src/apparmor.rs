//! AppArmor, where the kernel has it: a profile that the client names is applied, and Docker's own to everything else, which
//! is made and loaded here as dockerd does it, by `apparmor_parser`. Without that program containers that name none have none.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::EngineError;
use crate::model::HostSpec;

/// The profile that confines nothing.
pub const UNCONFINED: &str = "unconfined";
/// The profile of containers that name none.
pub const DEFAULT_PROFILE: &str = "docker-default";
/// How long the program that loads profiles may take.
const PARSER_LIMIT: Duration = Duration::from_secs(30);
const PARSER_POLL: Duration = Duration::from_millis(10);
/// Most bytes of what it says that are repeated.
const MAX_SAID_BYTES: u64 = 4096;

/// The machine, as far as AppArmor is concerned.
struct Host {
    root: PathBuf,
}

impl Host {
    fn own() -> Host {
        Host { root: "/".into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn is_enabled(&self) -> bool {
        let parameter = fs::read(self.at("sys/module/apparmor/parameters/enabled"));
        parameter.is_ok_and(|text| text.starts_with(b"Y"))
            && self.at("sys/kernel/security/apparmor").exists()
    }

    fn parser(&self) -> PathBuf {
        self.at("sbin/apparmor_parser")
    }

    fn is_loaded(&self) -> io::Result<bool> {
        let loaded = fs::read_to_string(self.at("sys/kernel/security/apparmor/profiles"))?;
        let mut names = loaded.lines().filter_map(|line| line.split_once(" ("));
        Ok(names.any(|(name, _)| name == DEFAULT_PROFILE))
    }

    /// Whether containers that name no profile have the default one.
    fn has_default(&self) -> bool {
        self.is_enabled() && (self.parser().exists() || self.is_loaded().unwrap_or(false))
    }

    /// Loads the default profile unless it is there. Blocks.
    fn ensure_default(&self) -> Result<(), String> {
        let name = DEFAULT_PROFILE;
        let loaded = self.is_loaded();
        let loaded = loaded
            .map_err(|e| format!("Could not check if {name} AppArmor profile was loaded: {e}"))?;
        if loaded {
            return Ok(());
        }
        self.load(&self.default_profile()).map_err(|e| {
            format!("AppArmor enabled on system but the {name} profile could not be loaded: {e}")
        })
    }

    fn load(&self, profile: &str) -> Result<(), String> {
        let parser = self.parser();
        let failed = |e: io::Error| format!("{}: {e}", parser.display());
        let mut child = Command::new(&parser)
            .arg("-Kr")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        // It is shorter than a pipe is long, and so is what is said about it.
        let written = child
            .stdin
            .take()
            .map(|mut to| to.write_all(profile.as_bytes()));
        let ended = wait(&mut child).map_err(failed)?;
        let mut said = String::new();
        if let Some(from) = child.stderr.take() {
            // What it says is only repeated.
            let _ = from.take(MAX_SAID_BYTES).read_to_string(&mut said);
        }
        match (ended, written) {
            (Some(status), Some(Ok(()))) if status.success() => Ok(()),
            (Some(status), _) => Err(format!(
                "running '{} -Kr' failed with output: {}\nerror: {status}",
                parser.display(),
                said.trim_end()
            )),
            (None, _) => Err(format!(
                "{} did not end within {} s",
                parser.display(),
                PARSER_LIMIT.as_secs()
            )),
        }
    }

    /// The policy of dockerd's profile of this name: everything is allowed that is not the kernel's own business, other
    /// profiles may not be signalled or traced, and nothing may be mounted.
    fn default_profile(&self) -> String {
        let known = |file: &str| self.at("etc/apparmor.d").join(file).exists();
        let tunables = match known("tunables/global") {
            true => "include <tunables/global>",
            false => "@{PROC}=/proc/",
        };
        let base = match known("abstractions/base") {
            true => "include <abstractions/base>",
            false => "",
        };
        let own = fs::read_to_string(self.at("proc/self/attr/current")).unwrap_or_default();
        let own = own.split_whitespace().next().unwrap_or(UNCONFINED);
        let mut rules: Vec<String> = ["network", "capability", "file", "umount"]
            .map(str::to_owned)
            .into();
        for peer in [UNCONFINED, "runc", "crun", own] {
            rules.push(format!("signal (receive) peer={peer}"));
        }
        rules.push(format!("signal (send, receive) peer={DEFAULT_PROFILE}"));
        rules.push(format!(
            "ptrace (trace, read, tracedby, readby) peer={DEFAULT_PROFILE}"
        ));
        rules.extend(DENIED.iter().map(|rule| format!("deny {rule}")));
        let rules: String = rules.iter().map(|rule| format!("  {rule},\n")).collect();
        format!(
            "{tunables}\nprofile {DEFAULT_PROFILE} flags=(attach_disconnected, mediate_deleted) {{\n  {base}\n{rules}}}\n"
        )
    }
}

/// What stands outside of processes in /proc, apart from what /proc/sys/kernel has of shared memory; and what /sys has
/// beside control groups.
const DENIED: [&str; 14] = [
    "mount",
    "@{PROC}/* w",
    "@{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}/** w",
    "@{PROC}/sys/[^k]** w",
    "@{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w",
    "@{PROC}/sysrq-trigger rwklx",
    "@{PROC}/kcore rwklx",
    "/sys/[^f]*/** wklx",
    "/sys/f[^s]*/** wklx",
    "/sys/fs/[^c]*/** wklx",
    "/sys/fs/c[^g]*/** wklx",
    "/sys/fs/cg[^r]*/** wklx",
    "/sys/firmware/** rwklx",
    "/sys/devices/virtual/powercap/** rwklx",
];

/// How it ended; `None` if it took too long and was killed.
fn wait(child: &mut Child) -> io::Result<Option<std::process::ExitStatus>> {
    let begin = Instant::now();
    while begin.elapsed() < PARSER_LIMIT {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(PARSER_POLL);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Whether the kernel applies profiles. It does not change while it runs.
pub fn is_enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| Host::own().is_enabled())
}

/// As the daemon found it when it was asked first.
fn has_default() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| is_enabled() && Host::own().has_default())
}

/// Loads the default profile, if there is one and it is not loaded; at the daemon's start. Blocks.
pub(crate) fn prepare() {
    if has_default()
        && let Err(reason) = Host::own().ensure_default()
    {
        tracing::error!(
            reason,
            "containers that name no AppArmor profile can't start"
        );
    }
}

/// The profile of a container that has been started, as dockerd shows it.
pub fn shown_profile(host: &HostSpec) -> &str {
    match (host.privileged, host.security.apparmor_profile.as_str()) {
        _ if !is_enabled() => "",
        (true, _) => UNCONFINED,
        (false, "") if has_default() => DEFAULT_PROFILE,
        (false, named) => named,
    }
}

/// The profile that a container's programs are executed with. Blocks.
pub(crate) fn profile_of(host: &HostSpec) -> Result<Option<CString>, EngineError> {
    let name = shown_profile(host);
    if name.is_empty() {
        return Ok(None);
    }
    if name == DEFAULT_PROFILE {
        // Somebody may have unloaded it.
        Host::own().ensure_default().map_err(EngineError::System)?;
    }
    let invalid = |_| EngineError::InvalidParameter(format!("invalid apparmor profile {name:?}"));
    CString::new(name).map(Some).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn host(root: &Path, enabled: &str, loaded: &str) -> Host {
        for (path, text) in [
            ("sys/module/apparmor/parameters/enabled", enabled),
            ("sys/kernel/security/apparmor/profiles", loaded),
            ("proc/self/attr/current", "mine (enforce)\n"),
            ("etc/apparmor.d/abstractions/base", ""),
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Host { root: root.into() }
    }

    fn put_parser(root: &Path, script: &str) {
        fs::create_dir_all(root.join("sbin")).unwrap();
        let path = root.join("sbin/apparmor_parser");
        fs::write(
            &path,
            format!("#!/bin/sh\ncd {}\n{script}\n", root.display()),
        )
        .unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_default_needs_a_kernel_and_a_program_or_somebody_who_loaded_it() {
        let dir = tempfile::tempdir().unwrap();
        let other = "docker-default//null (complain)\nx (enforce)\n";
        assert!(!host(dir.path(), "N\n", "docker-default (enforce)\n").has_default());
        assert!(!host(dir.path(), "Y\n", other).has_default());
        assert!(host(dir.path(), "Y\n", "docker-default (enforce)\n").has_default());
        put_parser(dir.path(), "exit 1");
        assert!(host(dir.path(), "Y\n", other).has_default());
    }

    #[test]
    fn it_is_loaded_once() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path(), "Y\n", "x (enforce)\n");
        put_parser(
            dir.path(),
            "echo $* >> args; cat > policy; echo 'docker-default (enforce)' >> sys/kernel/security/apparmor/profiles",
        );
        host.ensure_default().unwrap();
        host.ensure_default().unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("args")).unwrap(),
            "-Kr\n"
        );
        let policy = fs::read_to_string(dir.path().join("policy")).unwrap();
        for part in [
            "@{PROC}=/proc/\nprofile docker-default flags=(",
            "  include <abstractions/base>\n",
            "  signal (receive) peer=mine,\n",
            "  deny mount,\n",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
    }

    #[test]
    fn a_failure_is_told_in_dockerds_words() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path(), "Y\n", "");
        put_parser(dir.path(), "cat > /dev/null; echo bad rule >&2; exit 3");
        let text = host.ensure_default().unwrap_err();
        let start =
            "AppArmor enabled on system but the docker-default profile could not be loaded: ";
        assert!(text.starts_with(&format!("{start}running '")), "{text}");
        assert!(text.contains("bad rule\nerror: exit status: 3"), "{text}");
        fs::remove_file(host.parser()).unwrap();
        assert!(host.ensure_default().unwrap_err().starts_with(start));
    }
}
