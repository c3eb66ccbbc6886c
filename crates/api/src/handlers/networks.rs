//! Networks, as far as they exist without networking.

use crate::error::ApiError;
use crate::filters;
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::network::predefined;

const NETWORK_FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];

pub(super) fn list(call: Call) -> Reply {
    let wanted = filters::parse(call.query.get("filters"))?;
    filters::check_keys(&wanted, NETWORK_FILTERS)?;
    let dangling = filters::boolean(&wanted, "dangling")?;
    let any = |key: &str, test: &dyn Fn(&str) -> bool| {
        wanted
            .get(key)
            .is_none_or(|v| v.is_empty() || v.iter().any(|v| test(v)))
    };
    for kind in wanted.get("type").into_iter().flatten() {
        if kind != "builtin" && kind != "custom" {
            return Err(ApiError::invalid(format!(
                "invalid filter: 'type'='{kind}'"
            )));
        }
    }
    let rows: Vec<_> = call
        .ctx
        .daemon
        .networks
        .iter()
        .filter(|n| {
            any("driver", &|v| v == n.driver)
                && any("id", &|v| n.id.starts_with(v))
                && any("name", &|v| n.name.contains(v))
                && any("scope", &|v| v == "local")
                && any("type", &|v| v == "builtin")
                && wanted.get("label").is_none_or(|l| l.is_empty())
                // The predefined networks are never dangling.
                && dangling != Some(true)
        })
        .map(predefined)
        .collect();
    reply::ok(&rows)
}

pub(super) fn inspect(call: Call) -> Reply {
    let networks = &call.ctx.daemon.networks;
    let exact = networks
        .iter()
        .find(|n| n.name == call.key || n.id == call.key);
    let by_prefix = || {
        let mut found = networks.iter().filter(|n| n.id.starts_with(&call.key));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(ApiError::invalid(format!(
                "network {} is ambiguous (2 matches found based on ID prefix)",
                call.key
            ))),
            (one, _) => Ok(one),
        }
    };
    let found = match exact {
        Some(network) => Some(network),
        None => by_prefix()?,
    };
    match found {
        Some(network) => reply::ok(&predefined(network)),
        None => Err(ApiError::not_found(format!(
            "network {} not found",
            call.key
        ))),
    }
}
