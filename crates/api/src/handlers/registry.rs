//! What a registry is asked without an image coming or going: login, inspect, search.

use gantry_image::Reference;
use gantry_image::reference::{AnyReference, parse_any};
use gantry_registry::{AuthConfig, Found};
use gantry_rt::guest;
use serde::Serialize;
use serde_json::json;

use super::images::credentials;
use crate::error::ApiError;
use crate::filters::{self, Filters};
use crate::json;
use crate::query::atoi;
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::registry::{AuthRequest, DistributionInspect, SearchResult};

/// Results of a search without a limit, as Docker's.
const SEARCH_LIMIT: i64 = 25;
const MAX_SEARCH_LIMIT: i64 = 100;
const SEARCH_FILTERS: &[&str] = &["is-automated", "is-official", "stars"];

pub(super) async fn login(mut call: Call) -> Reply {
    let bytes = call.json_bytes().await?;
    let request: AuthRequest = json::parse(&bytes).and_then(json::decode)?;
    let auth = AuthConfig {
        username: request.username,
        password: request.password,
        auth: request.auth,
        serveraddress: request.server_address,
        identitytoken: request.identity_token,
        registrytoken: request.registry_token,
    }
    .with_name_of_auth();
    let registry = call.ctx.registry.clone();
    let token = guest::call("registry.login", move || async move {
        registry.login(&auth).await
    })
    .await??;
    reply::ok(&json!({ "IdentityToken": token, "Status": "Login Succeeded" }))
}

pub(super) async fn inspect(call: Call) -> Reply {
    let auth = credentials(&call);
    if let AnyReference::Id(_) = parse_any(&call.key)? {
        return Err(ApiError::system("no manifest found for full image ID"));
    }
    let reference = Reference::parse(&call.key)?.or_latest();
    let registry = call.ctx.registry.clone();
    let remote = guest::call("registry.inspect", move || async move {
        registry.inspect(&reference, &auth).await
    })
    .await??;
    reply::ok(&DistributionInspect::from(remote))
}

pub(super) async fn search(call: Call) -> Reply {
    let limit = match call.query.get("limit") {
        "" => SEARCH_LIMIT,
        text => atoi(text)
            .map_err(|e| ApiError::invalid(format!("invalid limit specified: {}", e.message)))?,
    };
    let wanted = filters::parse(call.query.get("filters"))?;
    let choice = Choice::new(&wanted)?;
    let limit = match limit {
        0 => SEARCH_LIMIT,
        n if (1..=MAX_SEARCH_LIMIT).contains(&n) => n,
        n => {
            return Err(ApiError::invalid(format!(
                "limit {n} is outside the range of [1, {MAX_SEARCH_LIMIT}]"
            )));
        }
    };
    let auth = credentials(&call);
    let term = call.query.get("term").to_owned();
    let registry = call.ctx.registry.clone();
    let limit = u32::try_from(limit).unwrap_or_default();
    let found = guest::call("registry.search", move || async move {
        registry.search(&term, limit, &auth).await
    })
    .await??;
    let rows = found.into_iter().filter(|f| choice.takes(f));
    let rows: Vec<SearchResult> = rows.map(SearchResult::from).collect();
    reply::ok(&Rows(rows))
}

/// `[]`, never `null`.
#[derive(Serialize)]
struct Rows(Vec<SearchResult>);

/// What the filters of a search want.
struct Choice {
    automated: Option<bool>,
    official: Option<bool>,
    stars: i64,
}

impl Choice {
    fn new(wanted: &Filters) -> Result<Self, ApiError> {
        filters::check_keys(wanted, SEARCH_FILTERS)?;
        let mut stars = 0;
        for text in wanted.get("stars").into_iter().flatten() {
            let number = atoi(text).map_err(|e| {
                ApiError::invalid(format!("invalid filter 'stars={text}': {}", e.message))
            })?;
            stars = stars.max(number);
        }
        Ok(Self {
            automated: filters::boolean(wanted, "is-automated")?,
            official: filters::boolean(wanted, "is-official")?,
            stars,
        })
    }

    fn takes(&self, found: &Found) -> bool {
        // Nothing is automated any more.
        self.automated != Some(true)
            && self.official.is_none_or(|o| o == found.is_official)
            && found.star_count >= self.stars
    }
}
