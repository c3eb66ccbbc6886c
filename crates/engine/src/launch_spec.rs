//! From a record to a [`LaunchSpec`]: everything about a start that is decided here.

use std::ffi::CString;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use gantry_cgroup::{DeviceRule, Hierarchy, Limits};
use gantry_launch::{
    BindFile, Bundle, CapabilityMasks, CgroupSpec, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS,
    HookSpec, LaunchSpec, NamespaceMode, Prepared, Rlimit, RootfsSpec, TmpfsMount,
};
use gantry_seccomp::{PROGRAM_CACHE_CAPACITY, Profile, ProgramCache};

use crate::config::{DEFAULT_CGROUP_PARENT, DEFAULT_SHM_BYTES};
use crate::container::{Container, external, files};
use crate::devices::{self, Devices};
use crate::model::*;
use crate::namespaces::{self, Donors, Namespaces};
use crate::shard::Shared;
use crate::user::{self, Identity};
use crate::{EngineError, apparmor, capabilities, command, mounts, rlimits, sysctl};

/// Compiled system call filters, shared by all shards; used on workers only.
pub(crate) struct SeccompCache {
    default: Arc<Profile>,
    pub(crate) kernel: (u32, u32),
    programs: Mutex<ProgramCache>,
    pub(crate) hierarchy: Arc<Hierarchy>,
    /// What this daemon itself may have: nobody can be given more.
    available_caps: u64,
}

impl SeccompCache {
    pub(crate) fn new() -> Result<Self, EngineError> {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        let mut numbers = release
            .split(['.', '-', '+'])
            .map_while(|n| n.parse::<u32>().ok());
        let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let hierarchy = Hierarchy::detect()?;
        Ok(Self {
            default: Arc::new(Profile::default_docker()),
            kernel,
            programs: Mutex::new(ProgramCache::new(PROGRAM_CACHE_CAPACITY, kernel)),
            hierarchy: Arc::new(hierarchy),
            available_caps: capabilities::available()?,
        })
    }

    /// What this daemon itself may have.
    pub(crate) fn available_caps(&self) -> u64 {
        self.available_caps
    }

    /// The profile to enforce, if there is one.
    pub(crate) fn profile(&self, of: &SeccompChoice) -> Result<Option<Arc<Profile>>, EngineError> {
        let profile = match of {
            SeccompChoice::Unconfined => return Ok(None),
            SeccompChoice::Default => self.default.clone(),
            SeccompChoice::Profile(text) => Arc::new(parse_profile(text)?),
        };
        Ok(Some(profile).filter(|p| p.enforces()))
    }

    fn program(
        &self,
        choice: &SeccompChoice,
        caps_mask: u64,
    ) -> Result<Option<Arc<[u8]>>, EngineError> {
        let Some(profile) = self.profile(choice)? else {
            return Ok(None);
        };
        let mut programs = self.programs.lock().unwrap_or_else(|e| e.into_inner());
        let program = programs
            .get(&profile, caps_mask)
            .map_err(|e| EngineError::InvalidParameter(format!("seccomp profile: {e}")))?;
        Ok(Some(program.bytes()))
    }
}

fn parse_profile(text: &str) -> Result<Profile, EngineError> {
    Profile::parse(text).map_err(|e| EngineError::InvalidParameter(e.to_string()))
}

impl From<gantry_cgroup::CgroupError> for EngineError {
    fn from(e: gantry_cgroup::CgroupError) -> Self {
        EngineError::System(e.to_string())
    }
}

/// What came of preparing a launch.
pub(crate) enum Staged {
    Ready(Box<Prepared>),
    /// An earlier daemon died in the midst of a launch or an exit: this has to go first.
    Left(Arc<Bundle>),
}

/// Prepares a launch on a worker; unless what an external runtime left `was_put_away`, that is looked for.
pub(crate) async fn stage(
    container: &Rc<Container>,
    bundle: Option<Arc<Bundle>>,
    was_put_away: bool,
) -> Result<Staged, EngineError> {
    let shared = container.shard.shared.clone();
    let fixed = container.settings();
    let id = container.id.to_string();
    let joined = joined_container(&shared, &fixed)?;
    let donors = namespaces::donors(&shared, &fixed.host)?;
    files::on_worker(move || {
        if !was_put_away && let Some(left) = external::look(&shared, &id)? {
            return Ok(Staged::Left(left));
        }
        let spec = specify(&shared, &fixed, id, joined.as_deref(), &donors)?;
        let prepared = external::prepare(&shared, &fixed, &spec, bundle.as_deref())?;
        Ok(Staged::Ready(Box::new(prepared)))
    })
    .await
}

/// The container whose network is joined; it must run.
fn joined_container(
    shared: &Shared,
    fixed: &FixedView,
) -> Result<Option<Arc<ContainerView>>, EngineError> {
    let key = match &fixed.host.network_mode {
        NetworkMode::Container(key) => key,
        // There are no networks of users until networking is built.
        NetworkMode::Named(name) => {
            return Err(EngineError::NotFound(format!(
                "failed to set up container networking: network {name} not found"
            )));
        }
        NetworkMode::Default | NetworkMode::None | NetworkMode::Host => return Ok(None),
    };
    // Docker does not class this one.
    let view = match shared.index.resolve(key) {
        Ok((_, view)) => view,
        Err(e) => {
            return Err(EngineError::System(format!(
                "joining network namespace of container: {e}"
            )));
        }
    };
    if !view.state.status.is_alive() {
        return Err(EngineError::Conflict(format!(
            "cannot join network namespace of a non running container: container {} is {}",
            view.name,
            view.state.status.as_str()
        )));
    }
    Ok(Some(view))
}

fn specify(
    shared: &Shared,
    fixed: &FixedView,
    id: String,
    joined: Option<&ContainerView>,
    donors: &Donors,
) -> Result<LaunchSpec, EngineError> {
    let devices = devices::resolve(&fixed.host, &shared.config.cdi_spec_dirs)?;
    let remap = shared.config.remap_of(&fixed.host);
    let namespaces = donors.open(remap, &fixed.host, joined)?;
    let image = shared
        .images
        .snapshot()
        .of_container(&fixed.image_id)
        .cloned()
        .ok_or_else(|| EngineError::NoSuchImage(fixed.image_id.clone()))?;
    let lowers = shared.lowers_of(&image)?;
    let upper = fixed.upper_path();
    files::make_dirs(fixed)?;
    let accounts = shared.accounts.of_start(&fixed.image_id, &upper, &lowers)?;
    let who = user::resolve(&fixed.config.user, &fixed.host.group_add, &accounts)?;
    if joined.is_none() && !fixed.config.network_disabled {
        files::etc_files(fixed, &shared.config.dns)?.write(fixed)?;
    }
    let rootfs = RootfsSpec {
        lowers,
        upper,
        work: fixed.work_path(),
        volatile: fixed.host.auto_remove,
        remap: remap.cloned(),
    };
    let network = network(fixed, joined)?;
    mounts::make_ready(shared, &fixed.host.mounts, &id.as_str().into())?;
    build(
        shared,
        fixed,
        Inputs {
            id,
            who,
            rootfs,
            network,
            joined,
            namespaces,
            devices,
        },
    )
}

fn network(
    fixed: &FixedView,
    joined: Option<&ContainerView>,
) -> Result<NamespaceMode, EngineError> {
    Ok(match (&fixed.host.network_mode, joined) {
        (_, Some(view)) => NamespaceMode::Join(namespaces::namespace_of(view, "net")?),
        (NetworkMode::Host, None) => NamespaceMode::Host,
        _ => NamespaceMode::New,
    })
}

/// Whether a container of this mode shares the daemon's own network, directly or by joining one that does.
fn is_host_network(network: &NamespaceMode) -> Result<bool, EngineError> {
    let joined = match network {
        NamespaceMode::New => return Ok(false),
        NamespaceMode::Host => return Ok(true),
        NamespaceMode::Join(namespace) => namespace,
    };
    let failed = |e: rustix::io::Errno| EngineError::io("stat a network namespace", e.into());
    let joined = rustix::fs::fstat(joined).map_err(failed)?;
    let own = rustix::fs::stat("/proc/self/ns/net").map_err(failed)?;
    Ok((joined.st_dev, joined.st_ino) == (own.st_dev, own.st_ino))
}

/// What was found out about a start before its specification is put together.
struct Inputs<'a> {
    id: String,
    who: Identity,
    rootfs: RootfsSpec,
    network: NamespaceMode,
    joined: Option<&'a ContainerView>,
    namespaces: Namespaces,
    devices: Devices,
}

pub(crate) fn capability_masks(mask: u64, uid: u32) -> CapabilityMasks {
    // Unprivileged users get no capabilities in force, only a bound.
    let in_force = if uid == 0 { mask } else { 0 };
    CapabilityMasks {
        bounding: mask,
        effective: in_force,
        permitted: in_force,
        inheritable: 0,
        ambient: 0,
    }
}

/// The client's list of paths, or Docker's, or none for privileged containers.
fn paths(own: &Option<Vec<String>>, default: &[&str], privileged: bool) -> Vec<String> {
    match own {
        Some(list) => list.clone(),
        None if privileged => Vec::new(),
        None => default.iter().map(|p| (*p).to_owned()).collect(),
    }
}

/// What every process of a container may do.
pub(crate) struct Rights {
    /// One bit per capability.
    pub(crate) capabilities: u64,
    pub(crate) seccomp: Option<Arc<[u8]>>,
    pub(crate) rlimits: Vec<Rlimit>,
}

/// The rights that a container gives. On a worker: a filter may have to be compiled.
pub(crate) fn process_rights(shared: &Shared, fixed: &FixedView) -> Result<Rights, EngineError> {
    let host = &fixed.host;
    let available = shared.seccomp.available_caps;
    let capabilities =
        capabilities::resolve(&host.cap_add, &host.cap_drop, host.privileged, available)?;
    let seccomp = if host.privileged {
        None
    } else {
        shared
            .seccomp
            .program(&host.security.seccomp, capabilities)?
    };
    Ok(Rights {
        capabilities,
        seccomp,
        rlimits: rlimits::merge(&shared.config.default_ulimits, &host.ulimits)?,
    })
}

/// Zero is what a process has anyway.
pub(crate) fn oom_score_adj(host: &HostSpec) -> Option<i32> {
    (host.oom_score_adj != 0).then_some(host.oom_score_adj)
}

fn build(
    shared: &Shared,
    fixed: &FixedView,
    inputs: Inputs<'_>,
) -> Result<LaunchSpec, EngineError> {
    let Inputs {
        id,
        who,
        rootfs,
        network,
        joined,
        namespaces,
        mut devices,
    } = inputs;
    let (config, host) = (&fixed.config, &fixed.host);
    let edits = mounts::below_clients(host, std::mem::take(&mut devices.edits));
    let hostname = joined
        .map_or(&config.hostname, |view| &view.fixed.config.hostname)
        .clone();
    let rights = process_rights(shared, fixed)?;
    let init = [gantry_init::PATH_IN_CONTAINER.to_owned(), "--".to_owned()];
    let argv = init
        .iter()
        .filter(|_| has_init(host))
        .chain(std::iter::once(&fixed.path))
        .chain(&fixed.args);
    let mut env = command::process_env(config, &hostname, &who.home);
    edits.apply_env(&mut env);
    let sharing = sysctl::Sharing {
        new_network: network.is_new(),
        host_network: is_host_network(&network)?,
        own_ipc: !matches!(namespaces.ipc, NamespaceMode::Host),
        own_uts: !host.host_uts,
        own_user: namespaces.user.is_some(),
    };
    if host.host_uts && !config.domainname.is_empty() {
        // Docker sets it as a parameter.
        sysctl::check_own("kernel.domainname", &sharing)?;
    }
    let (client_mounts, client_tmpfs) = mounts::of_launch(shared, &host.mounts)?;
    Ok(LaunchSpec {
        argv: c_strings(argv, "argument")?,
        env: c_strings(&env, "environment variable")?,
        cwd: if config.working_dir.is_empty() {
            "/".to_owned()
        } else {
            config.working_dir.clone()
        },
        uid: who.uid,
        gid: who.gid,
        groups: who.groups.into_iter().chain(edits.groups).collect(),
        hostname,
        domainname: config.domainname.clone(),
        tty: config.tty,
        console_size: host.console_size,
        open_stdin: config.open_stdin,
        capabilities: capability_masks(rights.capabilities, who.uid),
        seccomp: rights.seccomp,
        no_new_privs: host.security.no_new_privileges,
        rlimits: rights.rlimits,
        oom_score_adj: oom_score_adj(host),
        masked_paths: paths(&host.masked_paths, DEFAULT_MASKED_PATHS, host.privileged),
        readonly_paths: paths(
            &host.readonly_paths,
            DEFAULT_READONLY_PATHS,
            host.privileged,
        ),
        readonly_rootfs: host.readonly_rootfs,
        privileged: host.privileged,
        // With user namespaces dockerd leaves it to the owners.
        writable_cgroups: shared.config.remap.is_some()
            || host.security.writable_cgroups == Some(true),
        shm_size_bytes: host
            .shm_size_bytes
            .filter(|n| *n > 0)
            .unwrap_or(DEFAULT_SHM_BYTES),
        sysctls: sysctl::of_start(&host.sysctls, &sharing)?,
        rootfs,
        binds: binds(shared, fixed, joined),
        mounts: edits.mounts.into_iter().chain(client_mounts).collect(),
        tmpfs: edits
            .tmpfs
            .into_iter()
            .chain(tmpfs(host))
            .chain(client_tmpfs)
            .collect(),
        network,
        pid: namespaces.pid,
        joined_proc: namespaces.proc,
        user: namespaces.user,
        apparmor_profile: apparmor::profile_of(host)?,
        ipc: namespaces.ipc,
        host_uts: host.host_uts,
        cgroup_namespace: !host.host_cgroup_namespace,
        shm: namespaces.shm,
        hooks: HookSpec {
            hooks: edits.hooks,
            exec_root: shared.config.exec_root.clone(),
        },
        annotations: host.annotations.clone(),
        cgroup: cgroup(shared, fixed, devices.rules(host.privileged))?,
        devices: devices
            .nodes
            .into_iter()
            .filter(|node| node.path.starts_with('/'))
            .collect(),
        log_nonblocking: log_is_nonblocking(host),
        id,
    })
}

/// Whether a full spill drops output instead of blocking the container.
pub(crate) fn log_is_nonblocking(host: &HostSpec) -> bool {
    let mode = host.log.options.get("mode");
    mode.is_some_and(|m| m == "non-blocking")
}

pub(crate) fn c_strings<'a>(
    items: impl IntoIterator<Item = &'a String>,
    what: &str,
) -> Result<Vec<CString>, EngineError> {
    items
        .into_iter()
        .map(|s| {
            CString::new(s.as_str()).map_err(|_| {
                EngineError::InvalidParameter(format!("{what} contains a zero byte: {s:?}"))
            })
        })
        .collect()
}

fn tmpfs(host: &HostSpec) -> Vec<TmpfsMount> {
    host.tmpfs
        .iter()
        .map(|(target, options)| TmpfsMount {
            target: target.clone(),
            options: options.clone(),
        })
        .collect()
}

/// As under dockerd there is none in a pid namespace that has a first process already.
fn has_init(host: &HostSpec) -> bool {
    host.init && host.pid_mode == PidMode::Private
}

fn binds(shared: &Shared, fixed: &FixedView, joined: Option<&ContainerView>) -> Vec<BindFile> {
    // As under dockerd a container without any network has what its image has there.
    let mut all = match fixed.config.network_disabled {
        true => Vec::new(),
        false => etc_binds(fixed, joined),
    };
    if has_init(&fixed.host) {
        all.push(BindFile {
            source: shared.config.init_program_path(),
            target: gantry_init::PATH_IN_CONTAINER.to_owned(),
            readonly: true,
        });
    }
    all
}

pub(crate) fn etc_binds(fixed: &FixedView, joined: Option<&ContainerView>) -> Vec<BindFile> {
    files::etc_owner(fixed, joined)
        .into_iter()
        .zip(["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"])
        .map(|(source, target)| BindFile {
            source,
            target: target.to_owned(),
            readonly: fixed.host.readonly_rootfs,
        })
        .collect()
}

/// The parent group of a container.
pub(crate) fn cgroup_parent(shared: &Shared, host: &HostSpec) -> String {
    [&host.cgroup_parent, &shared.config.cgroup_parent]
        .into_iter()
        .find(|p| !p.is_empty())
        .map_or_else(|| DEFAULT_CGROUP_PARENT.to_owned(), Clone::clone)
}

fn cgroup(
    shared: &Shared,
    fixed: &FixedView,
    devices: Vec<DeviceRule>,
) -> Result<CgroupSpec, EngineError> {
    let mut limits = limits(&fixed.host);
    limits.devices = Some(devices);
    devices::block_limits(&fixed.host, &mut limits)?;
    Ok(CgroupSpec {
        hierarchy: shared.seccomp.hierarchy.clone(),
        parent: cgroup_parent(shared, &fixed.host),
        limits,
    })
}

/// A number of a client that may be larger than the kernel's signed one.
fn signed(value: Option<u64>) -> Option<i64> {
    value
        .filter(|v| *v != 0)
        .map(|v| i64::try_from(v).unwrap_or(i64::MAX))
}

/// The limits of a container without those that name a device.
pub(crate) fn limits(host: &HostSpec) -> Limits {
    let own = &host.limits;
    let memory_bytes = signed(own.memory_bytes);
    let text = |s: &String| (!s.is_empty()).then(|| s.clone());
    Limits {
        memory_bytes,
        // As Docker: memory without swap given means as much swap again.
        memory_swap_bytes: match own.memory_swap_bytes {
            None | Some(0) => memory_bytes.map(|m| m.saturating_mul(2)),
            // Whatever is negative is no limit.
            Some(..0) => Some(-1),
            given => given,
        },
        memory_reservation_bytes: signed(own.memory_reservation_bytes),
        memory_swappiness: own.memory_swappiness,
        oom_kill_disable: own.oom_kill_disable,
        cpu_shares: own.cpu_shares.filter(|n| *n != 0),
        cpu_quota_us: own.cpu_quota_us.filter(|n| *n != 0),
        cpu_period_us: own.cpu_period_us.filter(|n| *n != 0),
        nano_cpus: signed(own.nano_cpus),
        cpuset_cpus: text(&own.cpuset_cpus),
        cpuset_mems: text(&own.cpuset_mems),
        pids_max: own.pids_max.filter(|n| *n != 0),
        blkio_weight: own.blkio_weight.filter(|n| *n != 0),
        kernel_memory_tcp_bytes: signed(own.kernel_memory_tcp_bytes),
        cpu_rt_runtime_us: own.cpu_rt_runtime_us,
        // A negative one is for the kernel to refuse.
        cpu_rt_period_us: own.cpu_rt_period_us.map(i64::cast_unsigned),
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_follows_memory() {
        let mut host = HostSpec::default();
        host.limits.memory_bytes = Some(64 << 20);
        assert_eq!(limits(&host).memory_swap_bytes, Some(128 << 20));
        host.limits.memory_swap_bytes = Some(-1);
        assert_eq!(limits(&host).memory_swap_bytes, Some(-1));
    }
}
