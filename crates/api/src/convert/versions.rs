//! What an older client can't have meant: fields that its API version does not have are not looked at, and defaults are
//! those of its time.

use crate::error::ApiError;
use crate::version::ApiVersion;
use crate::wire::create::{CreateRequest, HostConfig};

/// Refuses mounts that the API version does not have, where silence would mount something else.
pub(super) fn check(host: &HostConfig, version: ApiVersion) -> Result<(), ApiError> {
    for mount in host.mounts.iter().flatten() {
        let subpath = mount.volume.as_ref().is_some_and(|v| !v.subpath.is_empty());
        if subpath && !version.at_least(45) {
            return Err(ApiError::invalid(
                "VolumeOptions.Subpath needs API v1.45 or newer",
            ));
        }
        if mount.kind == "image" && !version.at_least(48) {
            return Err(ApiError::invalid(
                "Mount type \"Image\" needs API v1.48 or newer",
            ));
        }
    }
    Ok(())
}

/// Changes a request to what its API version lets it say.
pub(super) fn adjust(request: &mut CreateRequest, host: &mut HostConfig, version: ApiVersion) {
    if !version.at_least(25) {
        host.auto_remove = false;
    }
    if !version.at_least(42) {
        // The window size of a terminal was a separate request.
        host.console_size = [0, 0];
    }
    if !version.at_least(43) {
        host.annotations = None;
    }
    if !version.at_least(40) {
        host.kernel_memory_tcp = 0;
        // Before there was a choice, everything could be joined.
        if host.ipc_mode.is_empty() {
            host.ipc_mode.push_str("shareable");
        }
    }
    let check = request
        .healthcheck
        .as_mut()
        .filter(|_| !version.at_least(44));
    if let Some(check) = check {
        check.start_interval.ns = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_clients() {
        let asked = || HostConfig {
            auto_remove: true,
            console_size: [3, 4],
            annotations: Some([("a".to_owned(), "b".to_owned())].into()),
            ..HostConfig::default()
        };
        let at = |minor| {
            let mut host = asked();
            adjust(
                &mut CreateRequest::default(),
                &mut host,
                ApiVersion { minor },
            );
            (
                host.auto_remove,
                host.console_size,
                host.annotations.is_some(),
            )
        };
        assert_eq!(at(24), (false, [0, 0], false));
        assert_eq!(at(41), (true, [0, 0], false));
        assert_eq!(at(42), (true, [3, 4], false));
        assert_eq!(at(48), (true, [3, 4], true));
    }
}
