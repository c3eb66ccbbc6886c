//! One function per operation.

mod archive;
mod body;
mod commit;
mod containers;
mod exec;
mod images;
mod networks;
mod prune;
mod registry;
mod streams;
mod system;
mod usage;
mod volumes;
mod websocket;

use crate::error::ApiError;
use crate::operations::Operation::*;
use crate::reply::Reply;
use crate::service::Call;

/// Gives a request to its handler; operations without one answer 501 with their name.
pub(crate) async fn dispatch(call: Call) -> Reply {
    match call.operation {
        SystemPing => crate::reply::ping(true),
        SystemPingHead => crate::reply::ping(false),
        SystemVersion => system::version(call),
        SystemInfo => system::info(call),
        SystemDataUsage => usage::data_usage(call).await,
        SystemEvents => system::events(call),
        GantryDebug => system::debug(&call.ctx),
        VolumeList => volumes::list(call),
        VolumeInspect => volumes::inspect(call),
        VolumeCreate => volumes::create(call).await,
        VolumeDelete => volumes::delete(call).await,
        VolumeUpdate => volumes::update(),
        NetworkList => networks::list(call),
        NetworkInspect => networks::inspect(call),
        PluginList => crate::reply::ok(&[(); 0]),
        ContainerCreate => containers::create(call).await,
        ContainerList => containers::list(call).await,
        ContainerInspect => containers::inspect(call).await,
        ContainerStart => containers::start(call).await,
        ContainerStop => containers::stop(call).await,
        ContainerRestart => containers::restart(call).await,
        ContainerKill => containers::kill(call).await,
        ContainerPause => containers::pause(call).await,
        ContainerUnpause => containers::unpause(call).await,
        ContainerUpdate => containers::update(call).await,
        ContainerRename => containers::rename(call).await,
        ContainerResize => containers::resize(call).await,
        ContainerTop => containers::top(call).await,
        ContainerDelete => containers::delete(call).await,
        ContainerArchiveInfo => archive::info(call).await,
        ContainerArchive => archive::get(call).await,
        PutContainerArchive => archive::put(call).await,
        ContainerExport => archive::export(call).await,
        ContainerChanges => archive::changes(call).await,
        ImageCommit => commit::commit(call).await,
        ContainerPrune => prune::containers(call).await,
        NetworkPrune => prune::networks(call),
        VolumePrune => volumes::prune(call).await,
        BuildPrune => prune::build_cache(call),
        // No plugin can be installed.
        PluginInspect => Err(ApiError::not_found(format!(
            "plugin {} not found",
            crate::query::quoted(&call.key)
        ))),
        ContainerWait => streams::wait(call).await,
        ContainerLogs => streams::logs(call).await,
        ContainerAttach => streams::attach(call).await,
        ContainerAttachWebsocket => websocket::attach(call).await,
        ContainerExec => exec::create(call).await,
        ExecStart => exec::start(call).await,
        ExecResize => exec::resize(call).await,
        ExecInspect => exec::inspect(call).await,
        ImageList => images::list(call).await,
        ImageInspect => images::inspect(call).await,
        ImageHistory => images::history(call).await,
        ImageTag => images::tag(call).await,
        ImageDelete => images::delete(call).await,
        ImageLoad => images::load(call).await,
        ImageCreate => images::create(call).await,
        ImagePrune => images::prune(call).await,
        ImageGet | ImageGetAll => images::get(call).await,
        ImagePush => images::push(call).await,
        ImageSearch => registry::search(call).await,
        SystemAuth => registry::login(call).await,
        DistributionInspect => registry::inspect(call).await,
        other => Err(ApiError::not_implemented(format!(
            "{} is not implemented by this version of Gantry",
            other.name()
        ))),
    }
}
