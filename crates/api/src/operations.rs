//! Every operation of the Engine API v1.48. The table is the only list of routes: a path that is not here is
//! "page not found", and an operation that is here but has no handler answers 501 with its name.

use Operation::*;

/// The methods the API uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
}

impl Verb {
    /// The verb of an HTTP method, if the API uses it.
    pub fn parse(method: &str) -> Option<Verb> {
        Some(match method {
            "GET" => Verb::Get,
            "HEAD" => Verb::Head,
            "POST" => Verb::Post,
            "PUT" => Verb::Put,
            "DELETE" => Verb::Delete,
            _ => return None,
        })
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// HTTP method.
    pub verb: Verb,
    /// Path with one optional `{parameter}`, without version.
    pub pattern: &'static str,
    /// What it does.
    pub operation: Operation,
    /// Oldest API version (1.x) that has it. dockerd 28 serves every route at every version it accepts.
    pub min_minor: u32,
}

const fn r(verb: Verb, pattern: &'static str, operation: Operation) -> Route {
    Route {
        verb,
        pattern,
        operation,
        min_minor: crate::version::MIN_MINOR,
    }
}

/// Every operation of the API, by its operation id; `Gantry...` are additions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Operation {
    ContainerList,
    ContainerCreate,
    ContainerInspect,
    ContainerTop,
    ContainerLogs,
    ContainerChanges,
    ContainerExport,
    ContainerStats,
    ContainerResize,
    ContainerStart,
    ContainerStop,
    ContainerRestart,
    ContainerKill,
    ContainerUpdate,
    ContainerRename,
    ContainerPause,
    ContainerUnpause,
    ContainerAttach,
    ContainerAttachWebsocket,
    ContainerWait,
    ContainerDelete,
    ContainerArchiveInfo,
    ContainerArchive,
    PutContainerArchive,
    ContainerPrune,
    ImageList,
    ImageBuild,
    BuildPrune,
    ImageCreate,
    ImageInspect,
    ImageHistory,
    ImagePush,
    ImageTag,
    ImageDelete,
    ImageSearch,
    ImagePrune,
    SystemAuth,
    SystemInfo,
    SystemVersion,
    SystemPing,
    SystemPingHead,
    ImageCommit,
    SystemEvents,
    SystemDataUsage,
    ImageGet,
    ImageGetAll,
    ImageLoad,
    ContainerExec,
    ExecStart,
    ExecResize,
    ExecInspect,
    VolumeList,
    VolumeCreate,
    VolumeInspect,
    VolumeUpdate,
    VolumeDelete,
    VolumePrune,
    NetworkList,
    NetworkInspect,
    NetworkDelete,
    NetworkCreate,
    NetworkConnect,
    NetworkDisconnect,
    NetworkPrune,
    PluginList,
    GetPluginPrivileges,
    PluginPull,
    PluginInspect,
    PluginDelete,
    PluginEnable,
    PluginDisable,
    PluginUpgrade,
    PluginCreate,
    PluginPush,
    PluginSet,
    NodeList,
    NodeInspect,
    NodeDelete,
    NodeUpdate,
    SwarmInspect,
    SwarmInit,
    SwarmJoin,
    SwarmLeave,
    SwarmUpdate,
    SwarmUnlockkey,
    SwarmUnlock,
    ServiceList,
    ServiceCreate,
    ServiceInspect,
    ServiceDelete,
    ServiceUpdate,
    ServiceLogs,
    TaskList,
    TaskInspect,
    TaskLogs,
    SecretList,
    SecretCreate,
    SecretInspect,
    SecretDelete,
    SecretUpdate,
    ConfigList,
    ConfigCreate,
    ConfigInspect,
    ConfigDelete,
    ConfigUpdate,
    DistributionInspect,
    Session,
    /// BuildKit's way in; the specification does not list it.
    Grpc,
    GantryDebug,
}

impl Operation {
    /// The operation id of the specification.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// The operations of the specification, in its order, and ours at the end.
pub const ROUTES: &[Route] = &[
    r(Verb::Get, "/containers/json", ContainerList),
    r(Verb::Post, "/containers/create", ContainerCreate),
    r(Verb::Get, "/containers/{id}/json", ContainerInspect),
    r(Verb::Get, "/containers/{id}/top", ContainerTop),
    r(Verb::Get, "/containers/{id}/logs", ContainerLogs),
    r(Verb::Get, "/containers/{id}/changes", ContainerChanges),
    r(Verb::Get, "/containers/{id}/export", ContainerExport),
    r(Verb::Get, "/containers/{id}/stats", ContainerStats),
    r(Verb::Post, "/containers/{id}/resize", ContainerResize),
    r(Verb::Post, "/containers/{id}/start", ContainerStart),
    r(Verb::Post, "/containers/{id}/stop", ContainerStop),
    r(Verb::Post, "/containers/{id}/restart", ContainerRestart),
    r(Verb::Post, "/containers/{id}/kill", ContainerKill),
    r(Verb::Post, "/containers/{id}/update", ContainerUpdate),
    r(Verb::Post, "/containers/{id}/rename", ContainerRename),
    r(Verb::Post, "/containers/{id}/pause", ContainerPause),
    r(Verb::Post, "/containers/{id}/unpause", ContainerUnpause),
    r(Verb::Post, "/containers/{id}/attach", ContainerAttach),
    r(
        Verb::Get,
        "/containers/{id}/attach/ws",
        ContainerAttachWebsocket,
    ),
    r(Verb::Post, "/containers/{id}/wait", ContainerWait),
    r(Verb::Delete, "/containers/{id}", ContainerDelete),
    r(Verb::Head, "/containers/{id}/archive", ContainerArchiveInfo),
    r(Verb::Get, "/containers/{id}/archive", ContainerArchive),
    r(Verb::Put, "/containers/{id}/archive", PutContainerArchive),
    r(Verb::Post, "/containers/prune", ContainerPrune),
    r(Verb::Get, "/images/json", ImageList),
    r(Verb::Post, "/build", ImageBuild),
    r(Verb::Post, "/build/prune", BuildPrune),
    r(Verb::Post, "/images/create", ImageCreate),
    r(Verb::Get, "/images/{name}/json", ImageInspect),
    r(Verb::Get, "/images/{name}/history", ImageHistory),
    r(Verb::Post, "/images/{name}/push", ImagePush),
    r(Verb::Post, "/images/{name}/tag", ImageTag),
    r(Verb::Delete, "/images/{name}", ImageDelete),
    r(Verb::Get, "/images/search", ImageSearch),
    r(Verb::Post, "/images/prune", ImagePrune),
    r(Verb::Post, "/auth", SystemAuth),
    r(Verb::Get, "/info", SystemInfo),
    r(Verb::Get, "/version", SystemVersion),
    r(Verb::Get, "/_ping", SystemPing),
    r(Verb::Head, "/_ping", SystemPingHead),
    r(Verb::Post, "/commit", ImageCommit),
    r(Verb::Get, "/events", SystemEvents),
    r(Verb::Get, "/system/df", SystemDataUsage),
    r(Verb::Get, "/images/{name}/get", ImageGet),
    r(Verb::Get, "/images/get", ImageGetAll),
    r(Verb::Post, "/images/load", ImageLoad),
    r(Verb::Post, "/containers/{id}/exec", ContainerExec),
    r(Verb::Post, "/exec/{id}/start", ExecStart),
    r(Verb::Post, "/exec/{id}/resize", ExecResize),
    r(Verb::Get, "/exec/{id}/json", ExecInspect),
    r(Verb::Get, "/volumes", VolumeList),
    r(Verb::Post, "/volumes/create", VolumeCreate),
    r(Verb::Get, "/volumes/{name}", VolumeInspect),
    r(Verb::Put, "/volumes/{name}", VolumeUpdate),
    r(Verb::Delete, "/volumes/{name}", VolumeDelete),
    r(Verb::Post, "/volumes/prune", VolumePrune),
    r(Verb::Get, "/networks", NetworkList),
    r(Verb::Get, "/networks/{id}", NetworkInspect),
    r(Verb::Delete, "/networks/{id}", NetworkDelete),
    r(Verb::Post, "/networks/create", NetworkCreate),
    r(Verb::Post, "/networks/{id}/connect", NetworkConnect),
    r(Verb::Post, "/networks/{id}/disconnect", NetworkDisconnect),
    r(Verb::Post, "/networks/prune", NetworkPrune),
    r(Verb::Get, "/plugins", PluginList),
    r(Verb::Get, "/plugins/privileges", GetPluginPrivileges),
    r(Verb::Post, "/plugins/pull", PluginPull),
    r(Verb::Get, "/plugins/{name}/json", PluginInspect),
    r(Verb::Delete, "/plugins/{name}", PluginDelete),
    r(Verb::Post, "/plugins/{name}/enable", PluginEnable),
    r(Verb::Post, "/plugins/{name}/disable", PluginDisable),
    r(Verb::Post, "/plugins/{name}/upgrade", PluginUpgrade),
    r(Verb::Post, "/plugins/create", PluginCreate),
    r(Verb::Post, "/plugins/{name}/push", PluginPush),
    r(Verb::Post, "/plugins/{name}/set", PluginSet),
    r(Verb::Get, "/nodes", NodeList),
    r(Verb::Get, "/nodes/{id}", NodeInspect),
    r(Verb::Delete, "/nodes/{id}", NodeDelete),
    r(Verb::Post, "/nodes/{id}/update", NodeUpdate),
    r(Verb::Get, "/swarm", SwarmInspect),
    r(Verb::Post, "/swarm/init", SwarmInit),
    r(Verb::Post, "/swarm/join", SwarmJoin),
    r(Verb::Post, "/swarm/leave", SwarmLeave),
    r(Verb::Post, "/swarm/update", SwarmUpdate),
    r(Verb::Get, "/swarm/unlockkey", SwarmUnlockkey),
    r(Verb::Post, "/swarm/unlock", SwarmUnlock),
    r(Verb::Get, "/services", ServiceList),
    r(Verb::Post, "/services/create", ServiceCreate),
    r(Verb::Get, "/services/{id}", ServiceInspect),
    r(Verb::Delete, "/services/{id}", ServiceDelete),
    r(Verb::Post, "/services/{id}/update", ServiceUpdate),
    r(Verb::Get, "/services/{id}/logs", ServiceLogs),
    r(Verb::Get, "/tasks", TaskList),
    r(Verb::Get, "/tasks/{id}", TaskInspect),
    r(Verb::Get, "/tasks/{id}/logs", TaskLogs),
    r(Verb::Get, "/secrets", SecretList),
    r(Verb::Post, "/secrets/create", SecretCreate),
    r(Verb::Get, "/secrets/{id}", SecretInspect),
    r(Verb::Delete, "/secrets/{id}", SecretDelete),
    r(Verb::Post, "/secrets/{id}/update", SecretUpdate),
    r(Verb::Get, "/configs", ConfigList),
    r(Verb::Post, "/configs/create", ConfigCreate),
    r(Verb::Get, "/configs/{id}", ConfigInspect),
    r(Verb::Delete, "/configs/{id}", ConfigDelete),
    r(Verb::Post, "/configs/{id}/update", ConfigUpdate),
    r(Verb::Get, "/distribution/{name}/json", DistributionInspect),
    r(Verb::Post, "/session", Session),
    r(Verb::Post, "/grpc", Grpc),
    // dockerd has it beside `/networks`.
    r(Verb::Get, "/networks/", NetworkList),
    r(Verb::Get, "/gantry/debug", GantryDebug),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Extracted from the specification: `METHOD path operationId` per line.
    const SPECIFICATION: &str = include_str!("../data/operations-v1.48.txt");

    #[test]
    fn every_operation_of_the_specification_is_in_the_table() {
        let mut seen = 0;
        for line in SPECIFICATION.lines() {
            let mut words = line.split(' ');
            let (method, path, id) = (
                words.next().unwrap(),
                words.next().unwrap(),
                words.next().unwrap(),
            );
            let verb = Verb::parse(method).unwrap();
            let row = ROUTES.iter().find(|r| r.verb == verb && r.pattern == path);
            assert_eq!(
                row.map(|r| r.operation.name()),
                Some(id.to_owned()),
                "{line}"
            );
            seen += 1;
        }
        assert_eq!(seen, 107);
        assert_eq!(
            ROUTES
                .iter()
                .filter(|r| !["/gantry/debug", "/grpc", "/networks/"].contains(&r.pattern))
                .count(),
            107
        );
    }

    #[test]
    fn every_row_is_reached_by_a_path_of_its_pattern() {
        for route in ROUTES {
            let parameter = if route.pattern.starts_with("/images/") {
                "a.io:5000/b/c:d"
            } else {
                "x1"
            };
            let path = route
                .pattern
                .replace("{id}", "x1")
                .replace("{name}", parameter);
            for prefix in ["", "/v1.24", "/v1.48"] {
                let method = format!("{:?}", route.verb).to_uppercase();
                let found = crate::router::route(&method, &format!("{prefix}{path}")).unwrap();
                assert_eq!(found.operation, route.operation, "{prefix}{path}");
            }
        }
    }
}
