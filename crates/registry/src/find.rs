//! `docker search`: the old index protocol, which Docker's registry still has.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap};
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::auth::{self, AuthConfig};
use crate::error::RegistryError;
use crate::http::Http;
use crate::session::{Endpoint, endpoints};
use crate::url::Url;
use crate::{Registry, jobs, tls};

/// Longest answer of an index.
const MAX_ANSWER_BYTES: usize = 4 << 20;
const INDEX: &str = "https://index.docker.io";

/// A repository that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    /// How many like it.
    pub star_count: i64,
    /// Docker vouches for it.
    pub is_official: bool,
    /// Its name.
    pub name: String,
    /// What it is.
    #[serde(deserialize_with = "nullable")]
    pub description: String,
}

fn nullable<'de, D: serde::Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(d).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    results: Vec<Found>,
}

/// The index that a term names, and what is left of the term.
fn split(term: &str) -> (Option<&str>, &str) {
    match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
            let own = matches!(host, "docker.io" | "index.docker.io");
            (Some(host).filter(|_| !own), rest)
        }
        _ => (None, term),
    }
}

impl Registry {
    /// Asks the index. In the guest lane.
    pub async fn search(
        self: &Arc<Self>,
        term: &str,
        limit: u32,
        auth: &AuthConfig,
    ) -> Result<Vec<Found>, RegistryError> {
        let settings = self.settings();
        let (host, rest) = split(term);
        let found = match host {
            Some(host) => endpoints(&settings, host, false).await?,
            None => vec![Endpoint::secure(Url::parse(INDEX)?)],
        };
        let mut last = RegistryError::Protocol("no endpoint for this index".into());
        for endpoint in found {
            let dir = settings.certs_dir.join(&endpoint.url.authority);
            let insecure = endpoint.insecure;
            let tls = jobs::short(move || tls::client(&dir, insecure)).await??;
            let http = Http::new(tls, settings.proxies.clone());
            let url = endpoint.url.at("/v1/search").with_parameter("q", rest);
            let url = url.with_parameter("n", &limit.to_string());
            let mut headers = HeaderMap::new();
            if let Ok(basic) = auth::basic(auth) {
                headers.insert(AUTHORIZATION, auth::header(&basic)?);
            }
            let answer = match http.fetch(&Method::GET, &url, &headers).await {
                Ok(answer) => answer,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            if answer.status != StatusCode::OK {
                let status = answer.status.as_u16();
                let text = format!("Unexpected status code {status}");
                return Err(RegistryError::Protocol(text));
            }
            let body = answer.collect(MAX_ANSWER_BYTES).await?;
            let parsed: Results = serde_json::from_slice(&body).map_err(|e| {
                RegistryError::Protocol(format!("error decoding registry search results: {e}"))
            })?;
            return Ok(parsed.results);
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms() {
        assert_eq!(split("busybox"), (None, "busybox"));
        assert_eq!(split("a/b"), (None, "a/b"));
        assert_eq!(split("docker.io/a"), (None, "a"));
        assert_eq!(split("r.example:1/a/b"), (Some("r.example:1"), "a/b"));
        assert_eq!(split("localhost/a"), (Some("localhost"), "a"));
    }
}
