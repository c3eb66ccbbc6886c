//! The list and its filters.

use std::collections::BTreeMap;

use gantry_image::Image;

use crate::error::ApiError;
use crate::filters::{self, Filters};
use crate::glob;
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::image as wire;

const FILTERS: &[&str] = &["before", "dangling", "label", "reference", "since", "until"];
/// Clients below this version may send `filter=NAME`.
const NO_FILTER_SINCE_MINOR: u32 = 41;

pub(in crate::handlers) async fn list(call: Call) -> Reply {
    let mut wanted = filters::parse(call.query.get("filters"))?;
    if !call.version.at_least(NO_FILTER_SINCE_MINOR)
        && let Some(old) = call.query.find("filter").filter(|f| !f.is_empty())
    {
        wanted
            .entry("reference".to_owned())
            .or_default()
            .push(old.to_owned());
    }
    filters::check_keys(&wanted, FILTERS)?;
    let selection = Selection::new(&call, wanted)?;
    let snapshot = call.ctx.images.snapshot();
    let shared = call
        .query
        .flag("shared-size")
        .then(|| snapshot.shared_sizes());
    let mut rows = Vec::new();
    for image in snapshot.list() {
        let Some(tags) = selection.tags_of(&image)? else {
            continue;
        };
        let shared_bytes = shared.as_ref().and_then(|s| s.get(&image.id).copied());
        rows.push(wire::summary(&image, tags, shared_bytes, call.version));
    }
    reply::ok(&rows)
}

/// `until` of a list or prune, in ns of the epoch.
pub(super) fn until_ns(text: &str) -> Result<i64, ApiError> {
    super::super::containers::until_ns(text).map_err(|_| {
        ApiError::invalid(format!(
            "failed to parse value as time or duration: {}",
            crate::query::quoted(text)
        ))
    })
}

/// The filters of a list, ready to be asked.
struct Selection {
    filters: Filters,
    dangling: Option<bool>,
    before_ns: Option<i64>,
    since_ns: Option<i64>,
}

impl Selection {
    fn new(call: &Call, filters: Filters) -> Result<Self, ApiError> {
        let snapshot = call.ctx.images.snapshot();
        // One that does not say when it was made is from the year one.
        let created = |key: &str| -> Result<Option<i64>, ApiError> {
            let Some(name) = filters.get(key).and_then(|v| v.first()) else {
                return Ok(None);
            };
            Ok(snapshot.resolve(name)?.created_unix_ns())
        };
        let mut before_ns = created("before")?;
        for text in filters.get("until").into_iter().flatten() {
            let until = until_ns(text)?;
            before_ns = Some(before_ns.map_or(until, |b| b.min(until)));
        }
        let since_ns = created("since")?;
        let dangling = filters::boolean(&filters, "dangling")?;
        Ok(Self {
            filters,
            dangling,
            before_ns,
            since_ns,
        })
    }

    /// The tags to show, or `None` if the image is not wanted.
    fn tags_of(&self, image: &Image) -> Result<Option<Vec<String>>, ApiError> {
        let no_labels = BTreeMap::new();
        let labels = image.config.labels.as_ref().unwrap_or(&no_labels);
        let created_ns = image.created_unix_ns();
        let unwanted = self
            .before_ns
            .is_some_and(|t| created_ns.is_none_or(|c| c >= t))
            || self
                .since_ns
                .is_some_and(|t| created_ns.is_none_or(|c| c <= t))
            || self
                .filters
                .get("label")
                .is_some_and(|wanted| !filters::labels_match(wanted, labels))
            || self
                .dangling
                .is_some_and(|d| d != image.repo_tags.is_empty());
        if unwanted {
            return Ok(None);
        }
        let Some(patterns) = self.filters.get("reference").filter(|p| !p.is_empty()) else {
            return Ok(Some(image.repo_tags.clone()));
        };
        let mut tags = Vec::new();
        for tag in &image.repo_tags {
            let name = tag.rsplit_once(':').map_or(tag.as_str(), |(name, _)| name);
            for pattern in patterns {
                let hit = |text: &str| {
                    glob::matches(pattern, text)
                        .ok_or_else(|| ApiError::invalid("syntax error in pattern"))
                };
                if hit(tag)? || hit(name)? {
                    tags.push(tag.clone());
                    break;
                }
            }
        }
        Ok((!tags.is_empty()).then_some(tags))
    }
}
