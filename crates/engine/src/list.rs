//! Listing: filters over immutable views.

use std::sync::Arc;

use regex_lite::Regex;

use crate::EngineError;
use crate::index::Index;
use crate::model::{
    ContainerView, FilterMap, FixedView, ListOptions, MountKind, NetworkMode, Status,
};

/// Longest pattern of a `name` or `id` filter.
pub const MAX_PATTERN_BYTES: usize = 1024;

const KEYS: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// Answers which image ids a reference of an `ancestor` filter stands for.
pub(crate) type AncestorIds<'a> = dyn Fn(&str) -> Vec<String> + 'a;

/// A checked set of filters.
pub(crate) struct Filters {
    ancestors: Option<Vec<String>>,
    before_ns: Option<i64>,
    since_ns: Option<i64>,
    exited: Vec<i32>,
    health: Vec<String>,
    ids: Option<Vec<String>>,
    names: Option<Vec<Regex>>,
    is_task: Option<bool>,
    labels: Vec<String>,
    networks: Vec<String>,
    publish: Vec<Port>,
    expose: Vec<Port>,
    statuses: Vec<Status>,
    volumes: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Port {
    first: u16,
    last: u16,
    protocol: String,
}

impl Filters {
    pub(crate) fn parse(
        map: &FilterMap,
        index: &Index,
        ancestor_ids: &AncestorIds,
    ) -> Result<Self, EngineError> {
        if let Some(key) = map.keys().find(|k| !KEYS.contains(&k.as_str())) {
            return Err(EngineError::InvalidParameter(format!(
                "invalid filter '{key}'"
            )));
        }
        let values = |key: &str| map.get(key).cloned().unwrap_or_default();
        let created = |key: &str| -> Result<Option<i64>, EngineError> {
            values(key)
                .last()
                .map(|v| Ok(index.resolve(v)?.1.fixed.created_unix_ns))
                .transpose()
        };
        let ancestors = map.get("ancestor").map(|references| {
            references
                .iter()
                .flat_map(|reference| ancestor_ids(reference))
                .collect()
        });
        Ok(Self {
            ancestors,
            before_ns: created("before")?,
            since_ns: created("since")?,
            exited: parse_each(&values("exited"), parse_exit_code, "exited")?,
            health: parse_each(&values("health"), parse_health, "health")?,
            ids: map
                .get("id")
                .filter(|v| !v.is_empty())
                .map(|v| by_prefix(index, v)),
            names: map
                .get("name")
                .filter(|v| !v.is_empty())
                .map(|v| patterns(v)),
            is_task: parse_truth(&values("is-task"), "is-task")?,
            labels: values("label"),
            networks: values("network"),
            publish: parse_each(&values("publish"), parse_port, "publish")?,
            expose: parse_each(&values("expose"), parse_port, "expose")?,
            statuses: parse_each(&values("status"), parse_status, "status")?,
            volumes: values("volume"),
        })
    }

    /// Whether these filters ask for containers that do not run.
    fn implies_all(&self) -> bool {
        !self.statuses.is_empty()
    }

    fn matches(&self, view: &ContainerView) -> bool {
        let fixed = &view.fixed;
        let named = |list: &Vec<Regex>| {
            let slashed = format!("/{}", view.name);
            list.iter()
                .any(|r| r.is_match(&view.name) || r.is_match(&slashed))
        };
        self.ancestors.as_ref().is_none_or(|ids| ids.contains(&fixed.image_id))
            && self.before_ns.is_none_or(|ns| fixed.created_unix_ns < ns)
            && self.since_ns.is_none_or(|ns| fixed.created_unix_ns > ns)
            && self.matches_state(view)
            && self.ids.as_ref().is_none_or(|ids| ids.iter().any(|id| **id == *view.id))
            && self.names.as_ref().is_none_or(named)
            && self.is_task.is_none_or(|wanted| !wanted)
            && self.labels.iter().all(|l| label_matches(&fixed.config.labels, l))
            && (self.networks.is_empty() || self.networks.iter().any(|n| on_network(&fixed.host.network_mode, n)))
            // Nothing is published until networking is built (publishing is refused at creation).
            && self.publish.is_empty()
            && (self.expose.is_empty() || self.expose.iter().any(|p| exposes(view, p)))
            && (self.volumes.is_empty() || self.volumes.iter().any(|v| mounts_volume(fixed, v)))
    }

    fn matches_state(&self, view: &ContainerView) -> bool {
        let state = &view.state;
        let health = || view.health().map_or("none", |h| h.status.as_str());
        (self.health.is_empty() || self.health.iter().any(|wanted| wanted == health()))
            && (self.statuses.is_empty() || self.statuses.contains(&state.status))
            && (self.exited.is_empty()
                || (self.exited.contains(&state.exit_code)
                    && !state.status.is_alive()
                    && state.started_unix_ns != 0))
    }
}

/// Reads every value of a filter; the error is Docker's, with the reason that `parse` gives.
fn parse_each<T>(
    values: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
    key: &str,
) -> Result<Vec<T>, EngineError> {
    values
        .iter()
        .map(|v| {
            parse(v).map_err(|reason| {
                EngineError::InvalidParameter(format!("invalid filter '{key}={v}'{reason}"))
            })
        })
        .collect()
}

fn parse_exit_code(text: &str) -> Result<i32, String> {
    let error = |what| format!(": strconv.Atoi: parsing {text:?}: {what}");
    text.parse::<i32>().map_err(|e| match e.kind() {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
            error("value out of range")
        }
        _ => error("invalid syntax"),
    })
}

fn parse_status(text: &str) -> Result<Status, String> {
    Status::parse(text).ok_or_else(|| {
        format!(
            ": invalid value for state ({text}): must be one of created, running, paused, restarting, removing, exited, dead"
        )
    })
}

fn parse_health(text: &str) -> Result<String, String> {
    if ["none", "starting", "healthy", "unhealthy"].contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        ": invalid value for health ({text}): must be one of none, starting, healthy, unhealthy"
    ))
}

/// One truth; several different ones, or none of Docker's words for it, are an error.
fn parse_truth(values: &[String], key: &str) -> Result<Option<bool>, EngineError> {
    let error =
        || EngineError::InvalidParameter(format!("invalid filter '{key}=[{}]'", values.join(" ")));
    let mut truths = values.iter().map(|v| match v.as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(error()),
    });
    let Some(first) = truths.next().transpose()? else {
        return Ok(None);
    };
    for other in truths {
        if other? != first {
            return Err(error());
        }
    }
    Ok(Some(first))
}

/// Full ids of those that an id prefix means; one that means none or several is no error.
fn by_prefix(index: &Index, prefixes: &[String]) -> Vec<String> {
    let all = index.all();
    let only = |prefix: &String| {
        let mut found = all.iter().filter(|v| v.id.starts_with(prefix.as_str()));
        match (found.next(), found.next()) {
            (Some(view), None) => Some(view.id.to_string()),
            _ => None,
        }
    };
    prefixes
        .iter()
        .filter(|p| !p.is_empty())
        .filter_map(only)
        .collect()
}

/// What is no regular expression matches nothing.
fn patterns(values: &[String]) -> Vec<Regex> {
    values
        .iter()
        .filter(|v| v.len() <= MAX_PATTERN_BYTES)
        .filter_map(|v| Regex::new(v).ok())
        .collect()
}

fn parse_port(text: &str) -> Result<Port, String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |digits: &str| {
        digits
            .parse::<u16>()
            .map_err(|_| format!(": invalid port {digits:?}"))
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!(
            ": Invalid range specified for the Port: {first}-{last}"
        ));
    }
    Ok(Port {
        first,
        last,
        protocol: protocol.to_ascii_lowercase(),
    })
}

/// The exposed ports of a container that runs on a network; elsewhere there are none to reach.
fn exposes(view: &ContainerView, wanted: &Port) -> bool {
    let on_network = view.fixed.host.network_mode == NetworkMode::Default;
    let ports = view.fixed.config.exposed_ports.iter();
    on_network
        && view.state.status.is_alive()
        && ports.filter_map(|e| parse_port(e).ok()).any(|port| {
            port.protocol == wanted.protocol
                && port.first <= wanted.last
                && wanted.first <= port.last
        })
}

fn on_network(mode: &NetworkMode, wanted: &str) -> bool {
    match mode {
        NetworkMode::Container(_) => false,
        other => other.as_docker() == wanted,
    }
}

/// `name` or `name=value`.
pub(crate) fn label_matches(
    labels: &std::collections::BTreeMap<String, String>,
    filter: &str,
) -> bool {
    match filter.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|v| v == value),
        None => labels.contains_key(filter),
    }
}

/// The containers that match, newest first.
pub(crate) fn list(
    index: &Index,
    options: &ListOptions,
    ancestor_ids: &AncestorIds,
) -> Result<Vec<Arc<ContainerView>>, EngineError> {
    let filters = Filters::parse(&options.filters, index, ancestor_ids)?;
    let limit = options.limit.filter(|n| *n > 0);
    let everything = options.all || limit.is_some() || filters.implies_all();
    let mut found: Vec<_> = index
        .all()
        .into_iter()
        .filter(|v| everything || v.state.status.is_alive() || v.state.status == Status::Restarting)
        .filter(|v| filters.matches(v))
        .collect();
    found.sort_by(|a, b| {
        b.fixed
            .created_unix_ns
            .cmp(&a.fixed.created_unix_ns)
            .then_with(|| b.id.cmp(&a.id))
    });
    found.truncate(limit.unwrap_or(usize::MAX));
    Ok(found)
}

/// Whether a volume, a source or a place in the container has this name.
fn mounts_volume(fixed: &FixedView, wanted: &String) -> bool {
    fixed.config.volumes.contains(wanted)
        || fixed.host.mounts.iter().any(|m| {
            let source = match m.kind {
                MountKind::Volume | MountKind::Image => &m.volume,
                _ => &m.source,
            };
            source == wanted || m.target == *wanted
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::view;

    fn sample() -> Index {
        let index = Index::new(2);
        for (n, (name, status)) in [
            ("web", Status::Running),
            ("web2", Status::Exited),
            ("db", Status::Paused),
        ]
        .into_iter()
        .enumerate()
        {
            let mut v = view(&format!("{n}abc"), name, status);
            let fixed = Arc::make_mut(&mut v.fixed);
            fixed.created_unix_ns = n as i64;
            fixed
                .config
                .labels
                .insert("app".to_owned(), name.to_owned());
            fixed.config.exposed_ports.push("80/tcp".to_owned());
            v.state.started_unix_ns = 1;
            v.state.exit_code = if status == Status::Exited { 3 } else { 0 };
            index.reserve_name(name, &v.id).unwrap();
            index.publish(n % 2, Arc::new(v));
        }
        index
    }

    fn names(filters: &[(&str, &str)], all: bool) -> Result<String, EngineError> {
        let mut options = ListOptions {
            all,
            ..ListOptions::default()
        };
        for (k, v) in filters {
            options
                .filters
                .entry((*k).to_owned())
                .or_default()
                .push((*v).to_owned());
        }
        let ids = |reference: &str| {
            if reference == "busybox" {
                vec!["sha256:0123".to_owned()]
            } else {
                vec![]
            }
        };
        Ok(list(&sample(), &options, &ids)?
            .iter()
            .map(|v| v.name.to_string())
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn filters() {
        for (filter, all, expected) in [
            (&[][..], false, "db web"),
            (&[], true, "db web2 web"),
            (&[("name", "web")], true, "web2 web"),
            (&[("name", "^/web$")], true, "web"),
            (&[("name", "^web$")], true, "web"),
            (&[("id", "0a")], true, "web"),
            (&[("id", "abc")], true, ""),
            (&[("name", "(")], true, ""),
            (&[("status", "exited")], false, "web2"),
            (&[("exited", "3")], true, "web2"),
            (&[("exited", "3")], false, ""),
            (&[("exited", "0")], false, ""),
            (&[("label", "app=db")], false, "db"),
            (&[("label", "app")], true, "db web2 web"),
            (&[("ancestor", "busybox")], false, "db web"),
            (&[("ancestor", "nope")], false, ""),
            (&[("before", "web2")], false, "web"),
            (&[("since", "web")], true, "db web2"),
            (&[("expose", "79-81")], false, "db web"),
            (&[("expose", "80/udp")], false, ""),
            (&[("publish", "80")], true, ""),
            (&[("network", "bridge")], false, "db web"),
            (&[("health", "none")], false, "db web"),
            (&[("health", "healthy")], false, ""),
            (&[("is-task", "false")], false, "db web"),
            (&[("is-task", "true")], false, ""),
            (&[("volume", "/data")], true, ""),
            (&[("isolation", "default")], false, "db web"),
        ] {
            assert_eq!(names(filter, all).unwrap(), expected, "{filter:?}");
        }
        let bad = [
            ("nope", "x"),
            ("status", "up"),
            ("exited", "x"),
            ("label!", "app"),
            ("is-task", "x"),
            ("health", "x"),
            ("publish", "x"),
        ];
        for filter in bad {
            assert!(
                matches!(
                    names(&[filter], true),
                    Err(EngineError::InvalidParameter(_))
                ),
                "{filter:?}"
            );
        }
        assert!(matches!(
            names(&[("before", "gone")], true),
            Err(EngineError::NoSuchContainer(_))
        ));
    }
}
