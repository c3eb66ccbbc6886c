//! Namespace modes: which are built, which are refused and how.

use gantry_engine::model::{IpcMode, NetworkMode, PidMode};

use super::Machine;
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
    check_links(&mode, host)?;
    if let NetworkMode::Container(_) = mode {
        check_shared(request, host)?;
    }
    check_ports(host)?;
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

fn check_links(mode: &NetworkMode, host: &HostConfig) -> Result<(), ApiError> {
    let what = match mode {
        NetworkMode::Container(_) => "container type network",
        NetworkMode::Host => "host type networking",
        _ => return Ok(()),
    };
    if host.links.as_ref().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "conflicting options: {what} can't be used with links. This would result in undefined behavior"
    )))
}

/// What is wrong about the ports that are to be published.
fn check_ports(host: &HostConfig) -> Result<(), ApiError> {
    let invalid = |text: &str| {
        let text = crate::query::quoted(text);
        Err(ApiError::invalid(format!(
            "invalid port specification: {text}"
        )))
    };
    for (port, bindings) in host.port_bindings.iter().flatten() {
        let number = port.split_once('/').map_or(port.as_str(), |(n, _)| n);
        if !is_port_range(number) {
            return invalid(port);
        }
        let on_host = bindings.as_array().into_iter().flatten();
        for wanted in on_host.filter_map(|b| b.get("HostPort")?.as_str()) {
            if !wanted.is_empty() && !is_port_range(wanted) {
                return invalid(wanted);
            }
        }
    }
    Ok(())
}

/// A port, or two with a dash.
fn is_port_range(text: &str) -> bool {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => first <= last,
        _ => false,
    }
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
    if host.publish_all_ports || host.port_bindings.as_ref().is_some_and(|p| !p.is_empty()) {
        return conflict("port publishing and the container type network mode");
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

/// Refuses what is no mode of the other namespaces.
pub(super) fn namespaces(host: &HostConfig) -> Result<(), ApiError> {
    let container = |mode: &str| mode.strip_prefix("container:").map(str::to_owned);
    // Docker wants a name here, and finds out at the start that it has none there.
    let pid = matches!(host.pid_mode.as_str(), "" | "host")
        || container(&host.pid_mode).is_some_and(|name| !name.is_empty());
    let ipc = matches!(
        host.ipc_mode.as_str(),
        "" | "private" | "shareable" | "host" | "none"
    ) || container(&host.ipc_mode).is_some();
    for (valid, what, mode) in [
        (pid, "PID", &host.pid_mode),
        (ipc, "IPC", &host.ipc_mode),
        (
            matches!(host.uts_mode.as_str(), "" | "host"),
            "UTS",
            &host.uts_mode,
        ),
        (
            matches!(host.cgroupns_mode.as_str(), "" | "private" | "host"),
            "cgroup namespace",
            &host.cgroupns_mode,
        ),
    ] {
        if !valid {
            return Err(ApiError::invalid(format!("invalid {what} mode: {mode}")));
        }
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(ApiError::invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        )));
    }
    Ok(())
}

/// What a container that has the host's names can't have.
pub(super) fn check_uts(request: &CreateRequest, host: &HostConfig) -> Result<(), ApiError> {
    if host.uts_mode == "host" && !request.hostname.is_empty() {
        return Err(ApiError::invalid(
            "conflicting options: hostname and the UTS mode",
        ));
    }
    Ok(())
}

/// What a container in a user namespace can't have. As under dockerd every mode but `host` means one.
pub(super) fn check_userns(host: &HostConfig, machine: &Machine) -> Result<(), ApiError> {
    if !machine.userns_remap || host.userns_mode == "host" {
        return Ok(());
    }
    let refused = [
        (
            host.privileged,
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ),
        (
            host.network_mode == "host",
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (
            host.pid_mode == "host",
            "cannot share the host PID namespace when user namespaces are enabled",
        ),
    ];
    match refused.iter().find(|(asked, _)| *asked) {
        Some((_, text)) => Err(ApiError::invalid(*text)),
        None => Ok(()),
    }
}

/// `PidMode`, which is valid.
pub(super) fn pid(mode: &str) -> PidMode {
    match (mode, mode.strip_prefix("container:")) {
        (_, Some(key)) => PidMode::Container(key.to_owned()),
        ("host", None) => PidMode::Host,
        _ => PidMode::Private,
    }
}

/// `IpcMode`, which is valid.
pub(super) fn ipc(mode: &str) -> IpcMode {
    match (mode, mode.strip_prefix("container:")) {
        (_, Some(key)) => IpcMode::Container(key.to_owned()),
        ("host", None) => IpcMode::Host,
        ("none", None) => IpcMode::None,
        ("shareable", None) => IpcMode::Shareable,
        _ => IpcMode::Private,
    }
}

/// Puts the id in place of a name after `container:`.
///
/// # Errors
/// No such container, in Docker's words.
pub fn name_joined(
    host: &mut HostConfig,
    id_of: impl Fn(&str) -> Result<String, ApiError>,
) -> Result<(), ApiError> {
    for mode in [&mut host.ipc_mode, &mut host.pid_mode] {
        let Some(key) = mode.strip_prefix("container:").filter(|k| !k.is_empty()) else {
            continue;
        };
        let id = id_of(key).map_err(|e| ApiError::invalid(e.message))?;
        *mode = format!("container:{id}");
    }
    Ok(())
}
