//! From the engine's views to the documents of inspect and list.

use std::collections::BTreeMap;

use gantry_engine::ExecId;
use gantry_engine::model::{
    ContainerView, Health as FoundHealth, HealthCheck, HealthStatus, NetworkMode, StateView, Status,
};

use crate::context::DaemonInfo;
use crate::error::ApiError;
use crate::text;
use crate::wire::container::*;
use crate::wire::create::{Healthcheck, Kept, Span};

/// Name of the storage driver, as shown.
pub const STORAGE_DRIVER: &str = "overlay2";

/// Exit code of a start whose program is there and can't be executed.
const EXIT_NOT_EXECUTABLE: i32 = 126;
/// Exit code of a start whose program is not there.
const EXIT_NO_PROGRAM: i32 = 127;

/// Sizes of a container's file systems.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sizes {
    /// The writable layer.
    pub rw: u64,
    /// All of it.
    pub root: u64,
}

/// The document of inspect.
pub fn inspect(
    view: &ContainerView,
    daemon: &DaemonInfo,
    lowers: &[std::path::PathBuf],
    sizes: Option<Sizes>,
    execs: &[ExecId],
) -> Result<Inspect, ApiError> {
    let fixed = &view.fixed;
    let mut kept: Kept = serde_json::from_str(&fixed.wire).map_err(|e| {
        ApiError::system(format!(
            "the kept request of container {} is damaged: {e}",
            view.id
        ))
    })?;
    // The engine knows which container a name meant.
    kept.host_config.network_mode = fixed.host.network_mode.as_docker();
    let path = |p: std::path::PathBuf| p.to_string_lossy().into_owned();
    // Docker shows these paths only after the first start, even if its program could not be executed.
    let tried = matches!(view.state.exit_code, EXIT_NOT_EXECUTABLE | EXIT_NO_PROGRAM);
    let started = |p: std::path::PathBuf| {
        if view.state.started_unix_ns == 0 && !tried {
            String::new()
        } else {
            path(p)
        }
    };
    let json_log = matches!(
        kept.host_config.log_config.driver.as_str(),
        "" | "json-file"
    );
    Ok(Inspect {
        id: view.id.to_string(),
        created: text::rfc3339(fixed.created_unix_ns),
        path: fixed.path.clone(),
        args: fixed.args.clone(),
        state: state(&view.state, view.health().as_deref()),
        image: fixed.image_id.clone(),
        resolv_conf_path: started(etc_file(view, "/etc/resolv.conf")),
        hostname_path: started(etc_file(view, "/etc/hostname")),
        hosts_path: started(etc_file(view, "/etc/hosts")),
        log_path: if json_log {
            started(fixed.log_path(&view.id))
        } else {
            String::new()
        },
        name: format!("/{}", view.name),
        restart_count: view.restart_count,
        driver: STORAGE_DRIVER,
        platform: "linux",
        mount_label: "",
        process_label: "",
        app_armor_profile: match view.state.started_unix_ns {
            // What was asked for, whatever the kernel has.
            0 => fixed.host.security.apparmor_profile.clone(),
            _ => gantry_engine::apparmor::shown_profile(&fixed.host).to_owned(),
        },
        exec_ids: (!execs.is_empty()).then(|| execs.iter().map(|id| id.to_string()).collect()),
        graph_driver: graph_driver(view, lowers),
        size_rw: sizes.map(|s| s.rw),
        size_root_fs: sizes.map(|s| s.root),
        mounts: fixed
            .host
            .mounts
            .iter()
            .map(crate::convert::shown_mount)
            .collect(),
        config: config(view, &kept),
        network_settings: network_settings(view, daemon),
        host_config: kept.host_config,
    })
}

/// The file of the host that a container has at one of the places that every container with a network has a file at:
/// the client's own, that of the container whose network it shares, or one made for it.
fn etc_file(view: &ContainerView, place: &str) -> std::path::PathBuf {
    let fixed = &view.fixed;
    if fixed.config.network_disabled {
        return std::path::PathBuf::new();
    }
    if let Some(own) = fixed.host.mounts.iter().find(|m| m.target == place) {
        return own.source.clone().into();
    }
    let made = match place {
        "/etc/hosts" => fixed.hosts_path(),
        "/etc/hostname" => fixed.hostname_path(),
        _ => fixed.resolv_conf_path(),
    };
    match (&fixed.host.network_mode, made.file_name()) {
        (NetworkMode::Container(id), Some(name)) => fixed.dir.with_file_name(id).join(name),
        _ => made,
    }
}

fn state(s: &StateView, health: Option<&FoundHealth>) -> State {
    State {
        status: s.status.as_str(),
        // A paused container runs, and so does one that waits for its restart.
        running: matches!(
            s.status,
            Status::Running | Status::Paused | Status::Restarting
        ),
        paused: s.status == Status::Paused,
        restarting: s.status == Status::Restarting,
        oom_killed: s.oom_killed,
        dead: s.status == Status::Dead,
        pid: s.pid,
        exit_code: s.exit_code,
        error: s.error.clone(),
        started_at: text::rfc3339(s.started_unix_ns),
        finished_at: text::rfc3339(s.finished_unix_ns),
        health: health.map(found_health),
    }
}

fn found_health(health: &FoundHealth) -> Health {
    let results = health.log.iter().map(|result| HealthcheckResult {
        start: text::rfc3339(result.start_unix_ns),
        end: text::rfc3339(result.end_unix_ns),
        exit_code: result.exit_code,
        output: result.output.clone(),
    });
    Health {
        status: health.status.as_str(),
        failing_streak: health.failing_streak,
        log: results.collect(),
    }
}

fn health_check(check: &HealthCheck) -> Healthcheck {
    let span = |ns| Span { ns };
    Healthcheck {
        test: (!check.test.is_empty()).then(|| check.test.clone()),
        interval: span(check.interval_ns),
        timeout: span(check.timeout_ns),
        start_period: span(check.start_period_ns),
        start_interval: span(check.start_interval_ns),
        retries: check.retries,
    }
}

fn graph_driver(view: &ContainerView, lowers: &[std::path::PathBuf]) -> GraphDriver {
    let lower: Vec<_> = lowers.iter().map(|l| l.to_string_lossy()).collect();
    let data = BTreeMap::from([
        ("ID", view.id.to_string()),
        ("LowerDir", lower.join(":")),
        (
            "UpperDir",
            view.fixed.upper_path().to_string_lossy().into_owned(),
        ),
        (
            "WorkDir",
            view.fixed.work_path().to_string_lossy().into_owned(),
        ),
    ]);
    GraphDriver {
        data,
        name: STORAGE_DRIVER,
    }
}

fn config(view: &ContainerView, kept: &Kept) -> Config {
    let c = &view.fixed.config;
    let keys = |list: &[String], kept: &Option<crate::wire::create::KeySet>| {
        let mut set = kept.clone().unwrap_or_default();
        set.extend(list.iter().map(|k| (k.clone(), serde_json::json!({}))));
        (!set.is_empty()).then_some(set)
    };
    let some_list = |l: &[String], kept: &Option<Vec<String>>| {
        if l.is_empty() {
            kept.clone()
        } else {
            Some(l.to_vec())
        }
    };
    Config {
        hostname: if c.hostname.is_empty() {
            hostname(view)
        } else {
            c.hostname.clone()
        },
        domainname: c.domainname.clone(),
        user: c.user.clone(),
        attach_stdin: c.attach_stdin,
        attach_stdout: c.attach_stdout,
        attach_stderr: c.attach_stderr,
        exposed_ports: keys(&c.exposed_ports, &None),
        tty: c.tty,
        open_stdin: c.open_stdin,
        stdin_once: c.stdin_once,
        env: (!c.env.is_empty()).then(|| c.env.clone()),
        cmd: c.cmd.clone(),
        healthcheck: c.health.as_ref().map(health_check),
        image: c.image.clone(),
        volumes: keys(&c.volumes, &kept.volumes),
        working_dir: c.working_dir.clone(),
        entrypoint: c.entrypoint.clone(),
        network_disabled: c.network_disabled,
        mac_address: kept.mac_address.clone(),
        on_build: some_list(&c.on_build, &kept.on_build),
        labels: c.labels.clone(),
        stop_signal: c.stop_signal.clone(),
        stop_timeout: c.stop_timeout_s,
        // The image's is not shown.
        shell: kept.shell.clone().unwrap_or_default(),
    }
}

fn hostname(view: &ContainerView) -> String {
    match view.fixed.host.network_mode {
        NetworkMode::Container(_) => String::new(),
        _ => view.id.get(..12).unwrap_or(&view.id).to_owned(),
    }
}

/// The networks of a container. With the network namespace of another container there are none; the predefined bridge
/// is named without an address, because nothing is connected to it until networking is built.
fn networks(view: &ContainerView, daemon: &DaemonInfo) -> BTreeMap<String, EndpointSettings> {
    let mode = &view.fixed.host.network_mode;
    if matches!(mode, NetworkMode::Container(_)) || view.fixed.config.network_disabled {
        return BTreeMap::new();
    }
    let name = mode.as_docker();
    let id = if view.state.started_unix_ns == 0 {
        String::new()
    } else {
        daemon.network_id(&name)
    };
    BTreeMap::from([(
        name,
        EndpointSettings {
            network_id: id,
            ..EndpointSettings::default()
        },
    )])
}

fn network_settings(view: &ContainerView, daemon: &DaemonInfo) -> NetworkSettings {
    let sandbox_key = match (&view.fixed.host.network_mode, view.state.pid) {
        (NetworkMode::Container(_), _) | (_, 0) => String::new(),
        (_, pid) => format!("/proc/{pid}/ns/net"),
    };
    NetworkSettings {
        ports: open_ports(view)
            .map(|(number, protocol)| (format!("{number}/{protocol}"), serde_json::Value::Null))
            .collect(),
        sandbox_key,
        networks: networks(view, daemon),
        ..NetworkSettings::default()
    }
}

/// The exposed ports of a container that runs on the predefined bridge. None is published until networking is built.
fn open_ports(view: &ContainerView) -> impl Iterator<Item = (u16, &str)> {
    let shown = view.fixed.host.network_mode == NetworkMode::Default && view.state.pid != 0;
    let exposed: &[String] = if shown {
        &view.fixed.config.exposed_ports
    } else {
        &[]
    };
    exposed.iter().filter_map(|port| {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        Some((number.parse().ok()?, protocol))
    })
}

/// One row of the list.
pub fn summary(
    view: &ContainerView,
    daemon: &DaemonInfo,
    now_unix_ns: i64,
    sizes: Option<Sizes>,
) -> Summary {
    let fixed = &view.fixed;
    Summary {
        id: view.id.to_string(),
        names: vec![format!("/{}", view.name)],
        image: fixed.config.image.clone(),
        image_id: fixed.image_id.clone(),
        command: command(fixed),
        created: fixed.created_unix_ns.div_euclid(1_000_000_000),
        ports: open_ports(view)
            .map(|(number, protocol)| ListedPort {
                private_port: number,
                protocol: protocol.to_owned(),
            })
            .collect(),
        size_rw: sizes.map(|s| s.rw).filter(|&n| n > 0),
        size_root_fs: sizes.map(|s| s.root),
        labels: fixed.config.labels.clone(),
        state: view.state.status.as_str(),
        status: status(&view.state, health_status(view), now_unix_ns),
        host_config: SummaryHostConfig {
            network_mode: fixed.host.network_mode.as_docker(),
            annotations: fixed.host.annotations.clone(),
        },
        network_settings: SummaryNetworkSettings {
            networks: networks(view, daemon),
        },
        mounts: fixed
            .host
            .mounts
            .iter()
            .map(crate::convert::shown_mount)
            .collect(),
    }
}

fn command(fixed: &gantry_engine::model::FixedView) -> String {
    let mut line = fixed.path.clone();
    for argument in &fixed.args {
        line.push(' ');
        line.push_str(&text::listed_argument(argument));
    }
    line
}

fn health_status(view: &ContainerView) -> Option<HealthStatus> {
    view.health().map(|health| health.status)
}

/// The `STATUS` column.
pub fn status(s: &StateView, health: Option<HealthStatus>, now_unix_ns: i64) -> String {
    let since = |start: i64| text::human(now_unix_ns.saturating_sub(start).max(0));
    match s.status {
        Status::Running => {
            let health = match health {
                None => "",
                Some(HealthStatus::Starting) => " (health: starting)",
                Some(HealthStatus::Healthy) => " (healthy)",
                Some(HealthStatus::Unhealthy) => " (unhealthy)",
            };
            format!("Up {}{health}", since(s.started_unix_ns))
        }
        Status::Paused => format!("Up {} (Paused)", since(s.started_unix_ns)),
        Status::Restarting => format!(
            "Restarting ({}) {} ago",
            s.exit_code,
            since(s.finished_unix_ns)
        ),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Created => "Created".to_owned(),
        Status::Exited if s.finished_unix_ns == 0 => String::new(),
        Status::Exited => format!("Exited ({}) {} ago", s.exit_code, since(s.finished_unix_ns)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_texts() {
        const S: i64 = 1_000_000_000;
        let state = |status, exit_code| StateView {
            status,
            exit_code,
            started_unix_ns: 100 * S,
            finished_unix_ns: 110 * S,
            ..StateView::default()
        };
        assert_eq!(
            status(&state(Status::Running, 0), None, 103 * S),
            "Up 3 seconds"
        );
        assert_eq!(
            status(&state(Status::Paused, 0), None, 103 * S),
            "Up 3 seconds (Paused)"
        );
        assert_eq!(
            status(&state(Status::Exited, 7), None, 230 * S),
            "Exited (7) 2 minutes ago"
        );
        assert_eq!(
            status(&state(Status::Restarting, 1), None, 112 * S),
            "Restarting (1) 2 seconds ago"
        );
        assert_eq!(status(&state(Status::Created, 0), None, 0), "Created");
        let running = state(Status::Running, 0);
        for (health, text) in [
            (HealthStatus::Starting, "Up 3 seconds (health: starting)"),
            (HealthStatus::Healthy, "Up 3 seconds (healthy)"),
            (HealthStatus::Unhealthy, "Up 3 seconds (unhealthy)"),
        ] {
            assert_eq!(status(&running, Some(health), 103 * S), text);
        }
    }
}
