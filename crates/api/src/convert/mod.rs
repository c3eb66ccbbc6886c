//! From a client's create request to the engine's specification: validation, dockerd's defaults, and loud refusal of
//! everything that is not built.

mod limits;
mod modes;
mod security;

use std::sync::Arc;

use gantry_engine::model::{
    ContainerConfig, CreateSpec, HostSpec, LogConfig, RestartPolicy, Ulimit,
};
use serde_json::Value;

use crate::error::ApiError;
use crate::wire::create::{
    CreateRequest, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS, HostConfig, Kept,
    RestartPolicy as WireRestart,
};

/// Size of /dev/shm unless the client says otherwise.
pub const DEFAULT_SHM_BYTES: i64 = 64 << 20;
/// Name of the built-in launcher in `Runtime` and `/info`.
pub const RUNTIME_NAME: &str = "gantry";

/// Log drivers of Docker that are not built.
const OTHER_LOG_DRIVERS: &[&str] = &[
    "local", "syslog", "journald", "gelf", "fluentd", "awslogs", "splunk", "etwlogs", "gcplogs",
];

/// Makes the engine's specification of a request.
pub fn create_spec(
    name: Option<String>,
    request: CreateRequest,
    cpus: u32,
) -> Result<CreateSpec, ApiError> {
    let mut host = request.host_config.clone().unwrap_or_default();
    check_config(&request)?;
    refuse_unbuilt(&request, &host)?;
    let network_mode = modes::network(&request, &host)?;
    modes::namespaces(&host)?;
    limits::check(&mut host, cpus)?;
    let restart = restart_policy(&mut host)?;
    let security = security::parse(host.security_opt.as_deref().unwrap_or_default())?;
    check_host(&host)?;
    fill_defaults(&mut host, &network_mode.as_docker());
    let spec_host = HostSpec {
        network_mode,
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
        annotations: host.annotations.clone().unwrap_or_default(),
    };
    let wire = keep(&request, host)?;
    Ok(CreateSpec {
        name,
        config: config(request),
        host: spec_host,
        wire,
    })
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
        healthcheck: request.healthcheck.clone(),
        mac_address: request.mac_address.clone(),
        shell: request.shell.0.clone(),
    };
    let text = serde_json::to_string(&kept)
        .map_err(|e| ApiError::system(format!("the request can't be kept for inspect: {e}")))?;
    Ok(text.into())
}

fn config(r: CreateRequest) -> ContainerConfig {
    ContainerConfig {
        image: r.image,
        hostname: r.hostname,
        domainname: r.domainname,
        user: r.user,
        attach_stdin: r.attach_stdin,
        attach_stdout: r.attach_stdout,
        attach_stderr: r.attach_stderr,
        tty: r.tty,
        open_stdin: r.open_stdin,
        stdin_once: r.stdin_once,
        env: r.env.unwrap_or_default(),
        cmd: r.cmd.0,
        entrypoint: r.entrypoint.0,
        working_dir: r.working_dir,
        labels: r.labels.unwrap_or_default(),
        stop_signal: r.stop_signal,
        stop_timeout_s: r.stop_timeout,
        exposed_ports: r
            .exposed_ports
            .into_iter()
            .flatten()
            .map(|(port, _)| port)
            .collect(),
        volumes: r
            .volumes
            .into_iter()
            .flatten()
            .map(|(path, _)| path)
            .collect(),
        shell: r.shell.0.unwrap_or_default(),
        on_build: r.on_build.unwrap_or_default(),
        network_disabled: r.network_disabled,
    }
}

fn check_config(request: &CreateRequest) -> Result<(), ApiError> {
    let nothing = |list: &Option<Vec<String>>| list.as_ref().is_none_or(|l| l.is_empty());
    if request.image.is_empty() {
        let text = if nothing(&request.cmd.0) && nothing(&request.entrypoint.0) {
            "no command specified"
        } else {
            "a container needs an image: Image is empty"
        };
        return Err(ApiError::invalid(text));
    }
    if !request.working_dir.is_empty() && !request.working_dir.starts_with('/') {
        return Err(ApiError::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            request.working_dir
        )));
    }
    for variable in request.env.iter().flatten() {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(ApiError::invalid(format!(
                "invalid environment variable: {variable}"
            )));
        }
    }
    Ok(())
}

/// What would silently do nothing is refused, naming the option.
fn refuse_unbuilt(request: &CreateRequest, host: &HostConfig) -> Result<(), ApiError> {
    fn some<T>(list: &Option<Vec<T>>) -> bool {
        list.as_ref().is_some_and(|l| !l.is_empty())
    }
    let published = host.port_bindings.as_ref().is_some_and(|m| !m.is_empty());
    let healthcheck = request
        .healthcheck
        .as_ref()
        .is_some_and(|h| !is_no_healthcheck(h));
    let wanted: &[(bool, &str)] = &[
        (
            published || host.publish_all_ports,
            "publishing ports (PortBindings, PublishAllPorts; docker run -p, -P)",
        ),
        (
            some(&host.binds),
            "bind mounts and volumes (Binds; docker run -v)",
        ),
        (some(&host.mounts), "mounts (Mounts; docker run --mount)"),
        (
            some(&host.volumes_from),
            "volumes of another container (VolumesFrom)",
        ),
        (
            request.volumes.as_ref().is_some_and(|v| !v.is_empty()),
            "anonymous volumes (Volumes)",
        ),
        (some(&host.links), "links (Links)"),
        (
            some(&host.devices),
            "devices (Devices; docker run --device)",
        ),
        (
            some(&host.device_cgroup_rules),
            "device rules (DeviceCgroupRules)",
        ),
        (
            some(&host.device_requests),
            "device requests (DeviceRequests; docker run --gpus)",
        ),
        (
            host.storage_opt.as_ref().is_some_and(|o| !o.is_empty()),
            "storage options (StorageOpt)",
        ),
        (
            some(&host.blkio_weight_device),
            "block I/O limits of devices (BlkioWeightDevice)",
        ),
        (
            some(&host.blkio_device_read_bps),
            "block I/O limits of devices (BlkioDeviceReadBps)",
        ),
        (
            some(&host.blkio_device_write_bps),
            "block I/O limits of devices (BlkioDeviceWriteBps)",
        ),
        (
            some(&host.blkio_device_read_iops),
            "block I/O limits of devices (BlkioDeviceReadIOps)",
        ),
        (
            some(&host.blkio_device_write_iops),
            "block I/O limits of devices (BlkioDeviceWriteIOps)",
        ),
        (
            host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0,
            "real-time CPU limits (CpuRealtimePeriod)",
        ),
        (
            host.kernel_memory_tcp != 0,
            "kernel TCP memory limits (KernelMemoryTCP)",
        ),
        (
            host.init == Some(true),
            "an init process (Init; docker run --init)",
        ),
        (healthcheck, "health checks (Healthcheck)"),
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

fn is_no_healthcheck(check: &Value) -> bool {
    let test = check.get("Test").and_then(Value::as_array);
    test.is_none_or(|t| t.is_empty() || t.first().and_then(Value::as_str) == Some("NONE"))
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
    for entry in host.extra_hosts.iter().flatten() {
        let split = entry.split_once('=').or_else(|| entry.split_once(':'));
        if !split.is_some_and(|(name, address)| !name.is_empty() && !address.is_empty()) {
            return Err(ApiError::invalid(format!(
                "bad format for add-host: {}",
                crate::query::quoted(entry)
            )));
        }
    }
    for path in host.tmpfs.iter().flatten().map(|(path, _)| path) {
        if !path.starts_with('/') {
            return Err(ApiError::invalid(format!(
                "invalid mount path: '{path}' mount path must be absolute"
            )));
        }
    }
    if !matches!(host.runtime.as_str(), "" | RUNTIME_NAME) {
        return Err(ApiError::invalid(format!(
            "unknown or invalid runtime name: {}",
            host.runtime
        )));
    }
    check_log_driver(&host.log_config.driver)
}

fn check_log_driver(driver: &str) -> Result<(), ApiError> {
    match driver {
        "" | "json-file" | "none" => Ok(()),
        other if OTHER_LOG_DRIVERS.contains(&other) => Err(ApiError::not_implemented(format!(
            "the log driver {other} is not implemented yet"
        ))),
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
    if *count < 0 {
        return Err(ApiError::invalid(
            "invalid restart policy: maximum retry count cannot be negative",
        ));
    }
    if *count > 0 && name != "on-failure" {
        return Err(ApiError::invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
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
fn fill_defaults(host: &mut HostConfig, network_mode: &str) {
    fn fill(field: &mut String, value: &str) {
        if field.is_empty() {
            field.push_str(value);
        }
    }
    network_mode.clone_into(&mut host.network_mode);
    fill(&mut host.restart_policy.name, "no");
    fill(&mut host.log_config.driver, "json-file");
    fill(&mut host.ipc_mode, "private");
    fill(&mut host.cgroupns_mode, "private");
    fill(&mut host.runtime, RUNTIME_NAME);
    if host.shm_size == 0 {
        host.shm_size = DEFAULT_SHM_BYTES;
    }
    host.oom_kill_disable.get_or_insert(false);
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
