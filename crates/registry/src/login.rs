//! `POST /auth`: whether a registry takes credentials.

use std::sync::Arc;

use http::{Method, StatusCode};

use crate::Registry;
use crate::auth::AuthConfig;
use crate::error::RegistryError;
use crate::session::{Access, Session, endpoints};

/// Who Docker's own registry is, in the addresses that clients send.
const INDEX_HOSTS: [&str; 4] = ["", "index.docker.io", "docker.io", "registry-1.docker.io"];

/// Host and port of an address as `docker login` sends it.
fn domain(address: &str) -> String {
    let bare = address
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or_default();
    if INDEX_HOSTS.contains(&host) {
        return "docker.io".to_owned();
    }
    host.to_owned()
}

impl Registry {
    /// Asks the registry of `auth`. An identity token, if it gave one, else an empty text. In the guest lane.
    pub async fn login(self: &Arc<Self>, auth: &AuthConfig) -> Result<String, RegistryError> {
        let settings = self.settings();
        let mut last = RegistryError::Protocol("no endpoint for this registry".into());
        for endpoint in endpoints(&settings, &domain(&auth.serveraddress), false).await? {
            match Session::open(&settings, &endpoint, "", auth, Access::Pull).await {
                Ok(session) => return session.login().await,
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Session {
    async fn login(&self) -> Result<String, RegistryError> {
        let url = self.endpoint.url.at("/v2/");
        let answer = self.hello(&url).await?;
        if answer.status != StatusCode::OK {
            return Err(RegistryError::Protocol(format!(
                "login attempt to {url} failed with status: {}",
                answer.status
            )));
        }
        answer.discard().await;
        Ok(self.identity())
    }

    async fn hello(&self, url: &crate::url::Url) -> Result<crate::http::Answer, RegistryError> {
        let none = http::HeaderMap::new();
        let headers = self.authorized(&Method::GET, url, &none, true).await?;
        self.http.fetch(&Method::GET, url, &headers).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_clients() {
        for (address, want) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("reg.example:5000", "reg.example:5000"),
            ("https://reg.example/v2/", "reg.example"),
        ] {
            assert_eq!(domain(address), want);
        }
    }
}
