//! Version, info, events.

use std::collections::BTreeMap;

use std::sync::atomic::{AtomicUsize, Ordering};

use gantry_engine::model::Counts;
use gantry_engine::{BUILT_IN_RUNTIME, Runtimes};
use serde::Serialize;
use serde_json::{Value, json};

use crate::context::{DaemonInfo, Settings};
use crate::text;
use crate::version::{MAX_VERSION, MIN_VERSION};

/// Open streams of events.
static EVENT_LISTENERS: AtomicUsize = AtomicUsize::new(0);

/// Counts a stream of events as long as it lives.
#[derive(Debug)]
pub struct EventListener(());

impl EventListener {
    /// One more.
    pub fn register() -> Self {
        EVENT_LISTENERS.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for EventListener {
    fn drop(&mut self) {
        EVENT_LISTENERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One event, as a line of the stream.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct EventMessage<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<&'a str>,
    #[serde(rename = "Type")]
    pub kind: &'a str,
    #[serde(rename = "Action")]
    pub action: &'a str,
    #[serde(rename = "Actor")]
    pub actor: Actor<'a>,
    pub scope: &'a str,
    pub time: i64,
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// `Actor`
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Actor<'a> {
    #[serde(rename = "ID")]
    pub id: &'a str,
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<&'a str, &'a str>,
}

/// Docker's word for this machine's architecture.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Answer of `/version`.
pub fn version(daemon: &DaemonInfo) -> Value {
    let details = json!({
        "ApiVersion": MAX_VERSION,
        "Arch": arch(),
        "BuildTime": daemon.build_time,
        "Experimental": "false",
        "GitCommit": daemon.git_commit,
        "GoVersion": "",
        "KernelVersion": daemon.kernel_version,
        "MinAPIVersion": MIN_VERSION,
        "Os": "linux",
    });
    json!({
        "Platform": { "Name": "Gantry" },
        "Components": [{ "Name": "Engine", "Version": daemon.version, "Details": details }],
        "Version": daemon.version,
        "ApiVersion": MAX_VERSION,
        "MinAPIVersion": MIN_VERSION,
        "GitCommit": daemon.git_commit,
        "GoVersion": "",
        "Os": "linux",
        "Arch": arch(),
        "KernelVersion": daemon.kernel_version,
        "BuildTime": daemon.build_time,
    })
}

/// Answer of `/info`.
pub fn info(
    daemon: &DaemonInfo,
    settings: &Settings,
    counts: Counts,
    images: usize,
    runtimes: &Runtimes,
    registries: &gantry_registry::Settings,
) -> Value {
    let mut document = machine(daemon);
    for part in [
        objects(daemon, settings, counts, images),
        features(daemon, runtimes),
        registry_settings(registries),
    ] {
        if let (Value::Object(all), Value::Object(part)) = (&mut document, part) {
            all.extend(part);
        }
    }
    document
}

fn machine(daemon: &DaemonInfo) -> Value {
    json!({
        "Architecture": std::env::consts::ARCH,
        "KernelVersion": daemon.kernel_version,
        "OperatingSystem": daemon.operating_system,
        "OSVersion": daemon.os_version,
        "OSType": "linux",
        "Name": daemon.hostname,
        "NCPU": daemon.cpus,
        "MemTotal": daemon.memory_bytes,
        "SystemTime": text::rfc3339(text::now_unix_ns()),
        "NFd": open_fds(),
        // There are no goroutines; the number of tasks on the shards is what this field is used for.
        "NGoroutines": gantry_rt::stats::snapshot().iter().map(|s| s.tasks_alive).sum::<usize>(),
        "NEventsListener": EVENT_LISTENERS.load(Ordering::Relaxed),
        "IPv4Forwarding": std::fs::read("/proc/sys/net/ipv4/ip_forward").is_ok_and(|v| v.starts_with(b"1")),
        "BridgeNfIptables": false,
        "BridgeNfIp6tables": false,
    })
}

fn objects(daemon: &DaemonInfo, settings: &Settings, counts: Counts, images: usize) -> Value {
    json!({
        "ID": daemon.id,
        "Containers": counts.containers,
        "ContainersRunning": counts.running,
        "ContainersPaused": counts.paused,
        "ContainersStopped": counts.stopped,
        "Images": images,
        "Driver": crate::render::STORAGE_DRIVER,
        "DriverStatus": [
            ["Backing Filesystem", daemon.backing_filesystem],
            ["Supports d_type", "true"],
            ["Layer Form", daemon.layer_form],
        ],
        "DockerRootDir": daemon.data_root.to_string_lossy(),
        "Labels": settings.labels,
        "Debug": settings.debug,
        "ServerVersion": daemon.version,
        "Warnings": (!daemon.warnings.is_empty()).then_some(&daemon.warnings),
        "GenericResources": null,
    })
}

/// A proxy without its password.
fn masked(proxy: &str) -> String {
    match (proxy.find("://"), proxy.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            format!("{}xxxxx:xxxxx{}", &proxy[..scheme + 3], &proxy[at..])
        }
        _ => proxy.to_owned(),
    }
}

fn registry_settings(registries: &gantry_registry::Settings) -> Value {
    let mirrors = &registries.mirrors;
    let mut indexes = json!({
        "docker.io": { "Mirrors": mirrors, "Name": "docker.io", "Official": true, "Secure": true },
    });
    let mut networks = vec!["::1/128", "127.0.0.0/8"];
    for entry in &registries.insecure {
        if entry.contains('/') {
            networks.push(entry);
        } else {
            indexes[entry.as_str()] =
                json!({ "Mirrors": [], "Name": entry, "Official": false, "Secure": false });
        }
    }
    json!({
        "HttpProxy": masked(&registries.proxies.http),
        "HttpsProxy": masked(&registries.proxies.https),
        "NoProxy": registries.proxies.none,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "IndexConfigs": indexes,
            "InsecureRegistryCIDRs": networks,
            "Mirrors": (!mirrors.is_empty()).then_some(mirrors),
        },
    })
}

fn shown_runtimes(runtimes: &Runtimes) -> Value {
    let external = runtimes.external.values().map(|runtime| {
        let mut shown = json!({ "path": runtime.path });
        if !runtime.args.is_empty() {
            shown["runtimeArgs"] = json!(runtime.args);
        }
        (runtime.name.clone(), shown)
    });
    let built_in = (
        BUILT_IN_RUNTIME.to_owned(),
        json!({ "path": BUILT_IN_RUNTIME }),
    );
    Value::Object(std::iter::once(built_in).chain(external).collect())
}

/// As Docker lists them: without `none`.
const LOG_DRIVERS: &[&str] = &[
    "awslogs",
    "fluentd",
    "gcplogs",
    "gelf",
    "journald",
    "json-file",
    "local",
    "splunk",
    "syslog",
];

fn features(daemon: &DaemonInfo, runtimes: &Runtimes) -> Value {
    let has = |name: &str| daemon.has_controller(name);
    json!({
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": daemon.cgroup_version,
        "MemoryLimit": has("memory"),
        "SwapLimit": daemon.swap_limit,
        "OomKillDisable": has("memory") && daemon.cgroup_version == "1",
        "KernelMemoryTCP": false,
        "CPUShares": has("cpu"),
        "CpuCfsPeriod": has("cpu"),
        "CpuCfsQuota": has("cpu"),
        "CPUSet": has("cpuset"),
        "PidsLimit": has("pids"),
        "LoggingDriver": daemon.log_driver,
        "Plugins": {
            "Authorization": null,
            "Log": LOG_DRIVERS,
            "Network": ["bridge", "host", "null"],
            "Volume": [],
        },
        "DefaultRuntime": runtimes.default,
        "Runtimes": shown_runtimes(runtimes),
        "InitBinary": "docker-init",
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" },
        "InitCommit": { "ID": "" },
        "SecurityOptions": security_options(daemon),
        "LiveRestoreEnabled": true,
        "ExperimentalBuild": false,
        "Isolation": "",
        "CDISpecDirs": daemon.cdi_spec_dirs,
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": false,
            "Error": "",
            "RemoteManagers": null,
        },
    })
}

/// In dockerd's order.
fn security_options(daemon: &DaemonInfo) -> Vec<&'static str> {
    let all = [
        (gantry_engine::apparmor::is_enabled(), "name=apparmor"),
        (true, "name=seccomp,profile=builtin"),
        (daemon.userns_remap, "name=userns"),
        // Where it is what containers get.
        (daemon.cgroup_version == "2", "name=cgroupns"),
    ];
    let all = all.iter().filter(|(on, _)| *on);
    all.map(|(_, option)| *option).collect()
}

/// Open file descriptors of this process (the one that counts them is not counted).
pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1))
}
