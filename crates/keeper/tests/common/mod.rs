//! A root file system with a static busybox, a keeper, and what to ask of it.
#![allow(dead_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use gantry_cgroup::{DeviceRule, Group, Hierarchy, Limits};
use gantry_launch::{
    AdoptedContainer, CapabilityMasks, CgroupSpec, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS,
    Exit, KeeperClient, KeeperEvent, KeeperName, LaunchError, LaunchSpec, Launched, NamespaceMode,
    RootfsSpec, prepare,
};
use gantry_rt::workers;

const BUSYBOX: &str = "/usr/bin/busybox";
/// Docker's default capabilities.
pub const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

/// Why the tests cannot run here, if they cannot.
pub fn unable() -> Option<&'static str> {
    // SAFETY: a plain system call.
    if unsafe { libc::geteuid() } != 0 {
        return Some("skipped: not root");
    }
    if !Path::new(BUSYBOX).exists() {
        return Some("skipped: no /usr/bin/busybox (package busybox-static)");
    }
    if Hierarchy::detect().is_err() {
        return Some("skipped: no cgroups");
    }
    None
}

#[macro_export]
macro_rules! skip_unless_able {
    () => {
        if let Some(reason) = common::unable() {
            eprintln!("{reason}");
            return;
        }
    };
}

pub struct Host {
    pub dir: PathBuf,
    owned: Option<tempfile::TempDir>,
    pub hierarchy: Arc<Hierarchy>,
    next: AtomicU32,
}

impl Host {
    pub fn new() -> Host {
        let owned = tempfile::tempdir().expect("tempdir");
        let dir = owned.path().to_owned();
        for name in ["root/bin", "root/etc", "root/tmp", "root/opt", "exec"] {
            std::fs::create_dir_all(dir.join(name)).expect("mkdir");
        }
        std::fs::copy(BUSYBOX, dir.join("root/bin/busybox")).expect("copy busybox");
        for name in [
            "sh", "cat", "true", "sleep", "echo", "mount", "ls", "stty", "id", "grep", "seq",
            "kill", "ip", "hostname", "pwd", "readlink", "mkdir", "touch", "wc", "env", "yes",
            "head", "dd", "tty", "nproc",
        ] {
            symlink("busybox", dir.join("root/bin").join(name)).expect("symlink");
        }
        let write = |name: &str, text: &str, mode: u32| {
            let path = dir.join("root").join(name);
            std::fs::write(&path, text).expect("write");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        };
        write("etc/passwd", "root:x:0:0:root:/:/bin/sh\n", 0o644);
        write("opt/garbage", "\x01\x02", 0o755);
        write("opt/orphan", "#!/no/such/interpreter\n", 0o755);
        gantry_launch::make_init_layer(&dir.join("init")).expect("init layer");
        let mut host = Host::at(dir);
        host.owned = Some(owned);
        host
    }

    /// One that exists already (of another process).
    pub fn at(dir: PathBuf) -> Host {
        let hierarchy = Arc::new(Hierarchy::detect().expect("cgroups"));
        Host {
            dir,
            owned: None,
            hierarchy,
            next: AtomicU32::new(1),
        }
    }

    pub fn exec_root(&self) -> PathBuf {
        self.dir.join("exec")
    }

    pub fn cgroup_parent(&self) -> String {
        format!(
            "/gantry-test-{}",
            self.dir.file_name().and_then(|n| n.to_str()).unwrap_or("x")
        )
    }

    pub fn spec(&self, argv: &[&str]) -> LaunchSpec {
        let c = |s: &str| CString::new(s).expect("no NUL");
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{n:08x}{:056x}", std::process::id());
        let own = self.dir.join("containers").join(&id);
        std::fs::create_dir_all(&own).expect("mkdir");
        LaunchSpec {
            argv: argv.iter().map(|a| c(a)).collect(),
            env: vec![c("PATH=/usr/bin:/bin"), c("HOME=/")],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: vec![],
            hostname: id[..12].into(),
            domainname: String::new(),
            tty: false,
            console_size: None,
            open_stdin: false,
            capabilities: CapabilityMasks {
                bounding: DEFAULT_CAPABILITIES,
                effective: DEFAULT_CAPABILITIES,
                permitted: DEFAULT_CAPABILITIES,
                ..CapabilityMasks::default()
            },
            seccomp: None,
            no_new_privs: false,
            rlimits: vec![],
            oom_score_adj: Some(0),
            masked_paths: DEFAULT_MASKED_PATHS.iter().map(|p| (*p).into()).collect(),
            readonly_paths: DEFAULT_READONLY_PATHS.iter().map(|p| (*p).into()).collect(),
            readonly_rootfs: false,
            privileged: false,
            writable_cgroups: false,
            shm_size_bytes: gantry_launch::DEFAULT_SHM_BYTES,
            sysctls: vec![],
            rootfs: RootfsSpec {
                lowers: vec![self.dir.join("root").into(), self.dir.join("init").into()],
                upper: own.join("upper"),
                work: own.join("work"),
                volatile: false,
                remap: None,
            },
            binds: vec![],
            mounts: vec![],
            tmpfs: vec![],
            network: NamespaceMode::New,
            pid: NamespaceMode::New,
            joined_proc: None,
            user: None,
            apparmor_profile: None,
            ipc: NamespaceMode::New,
            host_uts: false,
            cgroup_namespace: true,
            shm: gantry_launch::Shm::Own,
            devices: vec![],
            cgroup: CgroupSpec {
                hierarchy: self.hierarchy.clone(),
                parent: self.cgroup_parent(),
                limits: Limits {
                    devices: Some(DeviceRule::defaults()),
                    ..Limits::default()
                },
            },
            hooks: Default::default(),
            annotations: Default::default(),
            log_nonblocking: false,
            id,
        }
    }

    /// The parent group of this test's containers is empty and goes.
    pub fn remove_groups(&self) {
        if let Ok(group) = Group::open(&self.hierarchy, "/", &self.cgroup_parent()[1..]) {
            assert!(group.pids().expect("pids").is_empty(), "no process is left");
            group.remove().expect("remove the parent group");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.owned.is_some() && !std::thread::panicking() {
            self.remove_groups();
        }
    }
}

pub const KEEPER: KeeperName = KeeperName {
    shard: 0,
    generation: 0,
};

pub async fn connect(exec_root: &Path) -> (Rc<KeeperClient>, Vec<AdoptedContainer>) {
    let exe = Path::new(env!("CARGO_BIN_EXE_gantry-keeper"));
    KeeperClient::connect_or_spawn(exec_root, KEEPER, exe)
        .await
        .expect("connect")
}

pub async fn try_launch(client: &KeeperClient, spec: LaunchSpec) -> Result<Launched, LaunchError> {
    let prepared = workers::run(move || prepare(&spec))
        .await
        .expect("worker")?;
    client.launch(prepared).await
}

pub async fn launch(client: &KeeperClient, spec: LaunchSpec) -> Launched {
    match try_launch(client, spec).await {
        Ok(launched) => launched,
        Err(e) => panic!("launch: {e}"),
    }
}

pub async fn exited(client: &KeeperClient, wanted: &str) -> Exit {
    match client.next_event().await {
        KeeperEvent::Exited { id, exit } if id == wanted => exit,
        other => panic!("unexpected {other:?}"),
    }
}

pub async fn read_all(fd: OwnedFd) -> Vec<u8> {
    workers::run(move || {
        let mut bytes = Vec::new();
        let mut file = File::from(fd);
        let mut buf = vec![0; 65536];
        loop {
            match file.read(&mut buf) {
                // A terminal ends with an error.
                Ok(0) | Err(_) => return bytes,
                Ok(n) => bytes.extend_from_slice(&buf[..n]),
            }
        }
    })
    .await
    .expect("worker")
}

/// Launches, waits for the end, forgets and removes: exit code (or 128 + signal), stdout, stderr.
pub async fn run(client: &KeeperClient, spec: LaunchSpec) -> (i32, String, String) {
    let id = spec.id.clone();
    let launched = launch(client, spec).await;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (mut out, mut err) = (String::new(), String::new());
    if let Some(fd) = launched.process.stdout.or(launched.process.tty_master) {
        out = text(read_all(fd).await);
    }
    if let Some(fd) = launched.process.stderr {
        err = text(read_all(fd).await);
    }
    let exit = exited(client, &id).await;
    client.forget(&id).await.expect("forget");
    let group = launched.group;
    workers::run(move || group.remove())
        .await
        .expect("worker")
        .expect("remove the group");
    (code(exit.wait_status), out, err)
}

pub fn code(wait_status: i32) -> i32 {
    if libc::WIFEXITED(wait_status) {
        libc::WEXITSTATUS(wait_status)
    } else {
        128 + libc::WTERMSIG(wait_status)
    }
}

/// Ends the keeper and waits until it is gone.
pub async fn finish(client: &KeeperClient) {
    client.shutdown_if_empty().await.expect("shutdown");
    assert_eq!(client.next_event().await, KeeperEvent::Gone);
    let pid = client.keeper_pid();
    for _ in 0..100 {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            return;
        }
        gantry_rt::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("keeper {pid} is still there");
}
