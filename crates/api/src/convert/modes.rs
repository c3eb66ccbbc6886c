//! Namespace modes: which are built, which are refused and how.

use gantry_engine::model::NetworkMode;

use crate::error::ApiError;
use crate::wire::create::{CreateRequest, Endpoint, HostConfig};

/// The network mode, after refusing everything that networking will bring.
pub(super) fn network(request: &CreateRequest, host: &HostConfig) -> Result<NetworkMode, ApiError> {
    let mode = match host.network_mode.as_str() {
        "" | "default" | "bridge" => NetworkMode::Default,
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        other => match other.strip_prefix("container:") {
            Some("") => {
                return Err(ApiError::invalid(
                    "invalid network mode: invalid container format container:<name|id>",
                ));
            }
            Some(name) => NetworkMode::Container(name.to_owned()),
            None => NetworkMode::Named(other.to_owned()),
        },
    };
    if let NetworkMode::Container(_) = mode {
        check_shared(request, host)?;
    }
    for (name, endpoint) in request
        .networking_config
        .iter()
        .flat_map(|n| n.endpoints.iter().flatten())
    {
        let predefined = matches!(name.as_str(), "default" | "bridge" | "none" | "host");
        if !predefined && !name.starts_with("container:") && *name != mode.as_docker() {
            // No 404: clients take that for a missing image.
            return Err(ApiError::invalid(format!("network {name} not found")));
        }
        if endpoint.as_ref().is_some_and(asks_for_something) {
            return Err(ApiError::not_implemented(format!(
                "settings of the endpoint in network {name} (addresses, aliases, links, MAC): this is not implemented yet"
            )));
        }
    }
    Ok(mode)
}

fn asks_for_something(endpoint: &Endpoint) -> bool {
    let ipam = endpoint
        .ipam
        .as_ref()
        .is_some_and(|v| v.as_object().is_none_or(|o| !o.is_empty()));
    let list = |l: &Option<Vec<String>>| l.as_ref().is_some_and(|l| !l.is_empty());
    ipam || list(&endpoint.links)
        || list(&endpoint.aliases)
        || !endpoint.mac_address.is_empty()
        || endpoint.driver_opts.as_ref().is_some_and(|o| !o.is_empty())
}

/// What a container that shares another's network can't have.
fn check_shared(request: &CreateRequest, host: &HostConfig) -> Result<(), ApiError> {
    let conflict = |what: &str| Err(ApiError::invalid(format!("conflicting options: {what}")));
    if !request.hostname.is_empty() {
        return conflict("hostname and the network mode");
    }
    if host.dns.as_ref().is_some_and(|d| !d.is_empty()) {
        return conflict("dns and the network mode");
    }
    if host.extra_hosts.as_ref().is_some_and(|h| !h.is_empty()) {
        return conflict("custom host-to-IP mapping and the network mode");
    }
    if request
        .exposed_ports
        .as_ref()
        .is_some_and(|p| !p.is_empty())
    {
        return conflict("port exposing and the container type network mode");
    }
    Ok(())
}

/// The other namespaces: the container's own, or an error.
pub(super) fn namespaces(host: &HostConfig) -> Result<(), ApiError> {
    one("PID", "PidMode", &host.pid_mode, &[""], &["host"])?;
    one(
        "IPC",
        "IpcMode",
        &host.ipc_mode,
        &["", "private"],
        &["host", "none", "shareable"],
    )?;
    one("UTS", "UTSMode", &host.uts_mode, &[""], &["host"])?;
    one(
        "cgroup namespace",
        "CgroupnsMode",
        &host.cgroupns_mode,
        &["", "private"],
        &["host"],
    )?;
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return Err(ApiError::invalid(format!(
            "invalid user namespace mode: {}",
            host.userns_mode
        )));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(ApiError::invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        )));
    }
    if !host.cgroup.is_empty() {
        return Err(ApiError::not_implemented(
            "Cgroup: this is not implemented yet",
        ));
    }
    Ok(())
}

fn one(
    what: &str,
    field: &str,
    mode: &str,
    built: &[&str],
    known: &[&str],
) -> Result<(), ApiError> {
    if built.contains(&mode) {
        return Ok(());
    }
    if known.contains(&mode) || mode.starts_with("container:") {
        return Err(ApiError::not_implemented(format!(
            "{field} {mode}: this is not implemented yet"
        )));
    }
    Err(ApiError::invalid(format!("invalid {what} mode: {mode}")))
}
