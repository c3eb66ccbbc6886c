//! From a client's create request to the engine's specification: validation, dockerd's defaults, and loud refusal of
//! everything that is not built.

mod config;
mod devices;
mod limits;
mod modes;
mod mounts;
mod security;
mod update;
mod versions;

pub use mounts::shown as shown_mount;

use std::sync::Arc;

pub use modes::name_joined;
pub use update::update_spec;

use gantry_engine::model::{CreateSpec, HostSpec, LogConfig, RestartPolicy, Ulimit};
use gantry_engine::{BUILT_IN_RUNTIME, Runtimes};

use crate::error::ApiError;
use crate::version::ApiVersion;
use crate::wire::create::{
    CreateRequest, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS, HostConfig, Kept,
    RestartPolicy as WireRestart,
};

/// Size of /dev/shm unless the client says otherwise.
pub const DEFAULT_SHM_BYTES: i64 = 64 << 20;

/// What a request is checked against.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine {
    /// CPUs that containers may use.
    pub cpus: u32,
    /// Only cgroup2 is there.
    pub cgroup_v2: bool,
    /// Containers are in a user namespace unless they ask for the host's.
    pub userns_remap: bool,
    /// Block I/O can be weighted.
    pub blkio_weight: bool,
    /// Block I/O can be weighted by device.
    pub blkio_weight_device: bool,
}

/// Makes the engine's specification of a request.
///
/// The strings are warnings for the client.
pub fn create_spec(
    name: Option<String>,
    mut request: CreateRequest,
    version: ApiVersion,
    machine: &Machine,
) -> Result<(CreateSpec, Vec<String>), ApiError> {
    let mut host = request.host_config.clone().unwrap_or_default();
    versions::check(&host, version)?;
    versions::adjust(&mut request, &mut host, version);
    config::check(&request)?;
    check_shape(&request, &host)?;
    let network_mode = modes::network(&request, &host)?;
    refuse_unbuilt(&request, &host)?;
    modes::namespaces(&host)?;
    modes::check_uts(&request, &host)?;
    modes::check_userns(&host, machine)?;
    let mut warnings = limits::drop_unsupported(&mut host, machine)?;
    let percent = std::mem::take(&mut host.cpu_percent);
    limits::check(&mut host, machine.cpus)?;
    let restart = restart_policy(&mut host)?;
    let security = security::parse(host.security_opt.as_deref().unwrap_or_default())?;
    check_host(&host)?;
    let mounts = mounts::parse(&host)?;
    warnings.extend(general_warnings(&host));
    if percent > 0 {
        warnings.push("linux does not support CPU percent. Percent discarded.".to_owned());
    }
    fill_defaults(&mut host, &network_mode.as_docker(), machine);
    let spec_host = HostSpec {
        network_mode,
        pid_mode: modes::pid(&host.pid_mode),
        ipc_mode: modes::ipc(&host.ipc_mode),
        host_uts: host.uts_mode == "host",
        host_userns: host.userns_mode == "host",
        host_cgroup_namespace: host.cgroupns_mode == "host",
        devices: devices::mappings(&host),
        device_cgroup_rules: host.device_cgroup_rules.clone().unwrap_or_default(),
        device_requests: devices::requests(&host),
        auto_remove: host.auto_remove,
        restart,
        limits: limits::to_engine(&host),
        privileged: host.privileged,
        readonly_rootfs: host.readonly_rootfs,
        cap_add: host.cap_add.0.clone().unwrap_or_default(),
        cap_drop: host.cap_drop.0.clone().unwrap_or_default(),
        security,
        shm_size_bytes: u64::try_from(host.shm_size).ok(),
        tmpfs: host.tmpfs.clone().unwrap_or_default(),
        extra_hosts: host.extra_hosts.clone().unwrap_or_default(),
        dns: host.dns.clone().unwrap_or_default(),
        dns_search: host.dns_search.clone().unwrap_or_default(),
        dns_options: host.dns_options.clone().unwrap_or_default(),
        group_add: host.group_add.clone().unwrap_or_default(),
        ulimits: host
            .ulimits
            .iter()
            .flatten()
            .map(|u| Ulimit {
                name: u.name.clone(),
                soft: u.soft,
                hard: u.hard,
            })
            .collect(),
        sysctls: host.sysctls.clone().unwrap_or_default(),
        oom_score_adj: i32::try_from(host.oom_score_adj).unwrap_or(0),
        masked_paths: host.masked_paths.clone(),
        readonly_paths: host.readonly_paths.clone(),
        cgroup_parent: host.cgroup_parent.clone(),
        log: LogConfig {
            driver: host.log_config.driver.clone(),
            options: host.log_config.options.clone(),
        },
        console_size: console_size(host.console_size),
        init: host.init == Some(true),
        runtime: host.runtime.clone(),
        annotations: host.annotations.clone().unwrap_or_default(),
        mounts: Vec::new(),
        storage_quota: None,
    };
    mounts::label_anonymous(host.mounts.as_deref_mut().unwrap_or_default());
    let volume_driver = host.volume_driver.clone();
    let storage_options = host.storage_opt.clone().unwrap_or_default();
    let wire = keep(&request, host)?;
    let spec = CreateSpec {
        name,
        config: config::to_engine(request),
        host: spec_host,
        mounts: mounts.requests,
        volumes_from: mounts.from,
        volume_driver,
        storage_options,
        wire,
    };
    Ok((spec, warnings))
}

/// The daemon's default runtime for a request that names none; what a client then sees does not change with a reload.
pub fn choose_runtime(request: &mut CreateRequest, runtimes: &Runtimes) {
    let host = request.host_config.get_or_insert_default();
    if host.runtime.is_empty() {
        host.runtime.clone_from(&runtimes.default);
    }
}

/// The daemon's log driver and its options, as far as a request names none.
pub fn choose_log(request: &mut CreateRequest, default: &LogConfig) {
    let wire = &mut request.host_config.get_or_insert_default().log_config;
    let mut log = LogConfig {
        driver: std::mem::take(&mut wire.driver),
        options: std::mem::take(&mut wire.options),
    };
    log.fill_from(default);
    (wire.driver, wire.options) = (log.driver, log.options);
}

/// What dockerd says about settings that it takes and does not follow, or that are dangerous.
fn general_warnings(host: &HostConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    if host.oom_kill_disable == Some(true) && host.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.".to_owned(),
        );
    }
    warnings
}

/// What is wrong about settings whatever is built.
fn check_shape(request: &CreateRequest, host: &HostConfig) -> Result<(), ApiError> {
    let invalid = |text: String| Err(ApiError::invalid(text));
    if host.io_maximum_bandwidth > 0 {
        return invalid(
            "invalid option: QoS maximum bandwidth configuration is not supported on linux".into(),
        );
    }
    if host.io_maximum_iops > 0 {
        return invalid(
            "invalid option: QoS maximum IOPs configuration is not supported on linux".into(),
        );
    }
    if host
        .annotations
        .iter()
        .flatten()
        .any(|(key, _)| key.is_empty())
    {
        return invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key".into(),
        );
    }
    let endpoints = request.networking_config.iter();
    for (name, endpoint) in endpoints.flat_map(|n| n.endpoints.iter().flatten()) {
        if endpoint.is_none() {
            return invalid(format!(
                "invalid config for network {name}: EndpointsConfig is nil"
            ));
        }
    }
    Ok(())
}

fn console_size([rows, columns]: [u32; 2]) -> Option<(u16, u16)> {
    match (u16::try_from(rows), u16::try_from(columns)) {
        (Ok(0), Ok(0)) => None,
        (Ok(rows), Ok(columns)) => Some((rows, columns)),
        _ => None,
    }
}

fn keep(request: &CreateRequest, host: HostConfig) -> Result<Arc<str>, ApiError> {
    let kept = Kept {
        host_config: host,
        volumes: request.volumes.clone(),
        exposed_ports: request.exposed_ports.clone(),
        on_build: request.on_build.clone(),
        mac_address: request.mac_address.clone(),
        shell: request.shell.0.clone(),
    };
    let text = serde_json::to_string(&kept)
        .map_err(|e| ApiError::system(format!("the request can't be kept for inspect: {e}")))?;
    Ok(text.into())
}

/// What would silently do nothing is refused, naming the option.
fn refuse_unbuilt(request: &CreateRequest, host: &HostConfig) -> Result<(), ApiError> {
    fn some<T>(list: &Option<Vec<T>>) -> bool {
        list.as_ref().is_some_and(|l| !l.is_empty())
    }
    let published = host.port_bindings.as_ref().is_some_and(|m| !m.is_empty());
    let wanted: &[(bool, &str)] = &[
        (
            published || host.publish_all_ports,
            "publishing ports (PortBindings, PublishAllPorts; docker run -p, -P)",
        ),
        (some(&host.links), "links (Links)"),
        (
            !request.mac_address.is_empty(),
            "MAC addresses (MacAddress)",
        ),
    ];
    match wanted.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(ApiError::not_implemented(format!(
            "{what}: this is not implemented yet"
        ))),
        None => Ok(()),
    }
}

fn check_host(host: &HostConfig) -> Result<(), ApiError> {
    if host.shm_size < 0 {
        return Err(ApiError::invalid("SHM size can not be less than 0"));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(ApiError::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    host.extra_hosts
        .iter()
        .flatten()
        .try_for_each(|entry| extra_host(entry))?;
    for path in host.tmpfs.iter().flatten().map(|(path, _)| path) {
        if !path.starts_with('/') {
            return Err(ApiError::invalid(format!(
                "invalid mount path: '{path}' mount path must be absolute"
            )));
        }
        if gantry_engine::clean_path(path) == "/" {
            return Err(ApiError::invalid(
                "invalid specification: destination can't be '/'",
            ));
        }
    }
    check_log_mode(&host.log_config.options)?;
    check_log_driver(&host.log_config.driver)
}

/// `name:address`, where the address may be `host-gateway`.
fn extra_host(entry: &str) -> Result<(), ApiError> {
    let Some((_, address)) = entry.split_once(':').filter(|(name, _)| !name.is_empty()) else {
        return Err(ApiError::invalid(format!(
            "bad format for add-host: {}",
            crate::query::quoted(entry)
        )));
    };
    if address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "invalid IP address in add-host: {}",
        crate::query::quoted(address)
    )))
}

fn check_log_mode(options: &std::collections::BTreeMap<String, String>) -> Result<(), ApiError> {
    let options = options.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    gantry_logs::check_delivery(&options.collect()).map_err(|e| ApiError::invalid(e.to_string()))
}

fn check_log_driver(driver: &str) -> Result<(), ApiError> {
    match driver {
        "" => Ok(()),
        known if gantry_logs::LogDriver::named(known).is_some() => Ok(()),
        other => Err(ApiError::invalid(format!(
            "error looking up logging plugin {other}: plugin {} not found",
            crate::query::quoted(other)
        ))),
    }
}

fn restart_policy(host: &mut HostConfig) -> Result<RestartPolicy, ApiError> {
    let WireRestart {
        name,
        maximum_retry_count: count,
    } = &host.restart_policy;
    if *count != 0 && name != "on-failure" {
        let also = if *count < 0 {
            " and cannot be negative"
        } else {
            ""
        };
        return Err(ApiError::invalid(format!(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'{also}"
        )));
    }
    if *count < 0 {
        return Err(ApiError::invalid(
            "invalid restart policy: maximum retry count cannot be negative",
        ));
    }
    let policy = match name.as_str() {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => RestartPolicy::OnFailure {
            max_retries: u32::try_from(*count).unwrap_or(u32::MAX),
        },
        other => {
            return Err(ApiError::invalid(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    };
    if host.auto_remove && policy != RestartPolicy::No {
        return Err(ApiError::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    Ok(policy)
}

/// Fills what the client left open, as dockerd shows it in inspect.
fn fill_defaults(host: &mut HostConfig, network_mode: &str, machine: &Machine) {
    fn fill(field: &mut String, value: &str) {
        if field.is_empty() {
            field.push_str(value);
        }
    }
    network_mode.clone_into(&mut host.network_mode);
    fill(&mut host.restart_policy.name, "no");
    fill(&mut host.log_config.driver, "json-file");
    fill(&mut host.ipc_mode, "private");
    fill(
        &mut host.cgroupns_mode,
        if machine.cgroup_v2 { "private" } else { "host" },
    );
    fill(&mut host.runtime, BUILT_IN_RUNTIME);
    if host.shm_size == 0 {
        host.shm_size = DEFAULT_SHM_BYTES;
    }
    if !machine.cgroup_v2 {
        host.oom_kill_disable.get_or_insert(false);
    }
    // What is empty is shown as if it had not been sent.
    host.links = host.links.take().filter(|l| !l.is_empty());
    host.mounts = host.mounts.take().filter(|l| !l.is_empty());
    let unlabelled = host.privileged || host.pid_mode == "host" || host.ipc_mode == "host";
    let labelled = host.security_opt.iter().flatten().any(|option| {
        // With the other separator it is no label to dockerd here.
        option == "label" || option.starts_with("label=")
    });
    if unlabelled && !labelled {
        let options = host.security_opt.get_or_insert_default();
        options.push("label=disable".to_owned());
    }
    let defaults = |list: &[&str]| Some(list.iter().map(|&s| s.to_owned()).collect());
    if !host.privileged {
        host.masked_paths = host
            .masked_paths
            .take()
            .or_else(|| defaults(DEFAULT_MASKED_PATHS));
        host.readonly_paths = host
            .readonly_paths
            .take()
            .or_else(|| defaults(DEFAULT_READONLY_PATHS));
    }
}

#[cfg(test)]
mod tests;
