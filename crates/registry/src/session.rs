//! One repository of one registry for one client: requests with the right credentials.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use gantry_image::{Reference, registry::Media};
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE,
};
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::auth::{self, AuthConfig, Token};
use crate::challenge::{self, Challenge};
use crate::error::RegistryError;
use crate::http::{Answer, Http, ReqBody, head_in_time};
use crate::settings::Settings;
use crate::url::Url;
use crate::{digest_of, jobs, net, tls};

/// Longest manifest or index, as distribution's.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// Longest config file.
pub const MAX_CONFIG_BYTES: usize = 8 << 20;
/// Longest page of a list of tags.
const MAX_TAGS_BYTES: usize = 4 << 20;
/// Pages of a list of tags.
const MAX_TAG_PAGES: usize = 1000;
const DOCKER_IO: &str = "docker.io";
const DOCKER_REGISTRY: &str = "https://registry-1.docker.io";

const MANIFEST_TYPES: [&str; 6] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/json",
];

/// A server that may have what is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) url: Url,
    pub(crate) mirror: bool,
    pub(crate) insecure: bool,
}

impl Endpoint {
    /// One that has to have a good certificate.
    pub(crate) fn secure(url: Url) -> Self {
        Self {
            url,
            mirror: false,
            insecure: false,
        }
    }
}

/// The servers to ask for a repository, in order.
pub(crate) async fn endpoints(
    settings: &Settings,
    domain: &str,
    for_pull: bool,
) -> Result<Vec<Endpoint>, RegistryError> {
    if domain == DOCKER_IO {
        let mut found = Vec::new();
        for mirror in settings.mirrors.iter().filter(|_| for_pull) {
            let url = Url::parse(mirror)?;
            let insecure = is_insecure(settings, &url).await;
            found.push(Endpoint {
                url,
                mirror: true,
                insecure,
            });
        }
        found.push(Endpoint::secure(Url::parse(DOCKER_REGISTRY)?));
        return Ok(found);
    }
    let at = |scheme: &str| Url::parse(&format!("{scheme}://{domain}"));
    let secure = at("https")?;
    let insecure = is_insecure(settings, &secure).await;
    let mut found = vec![Endpoint {
        url: secure,
        mirror: false,
        insecure,
    }];
    if insecure {
        found.push(Endpoint {
            url: at("http")?,
            mirror: false,
            insecure,
        });
    }
    Ok(found)
}

async fn is_insecure(settings: &Settings, url: &Url) -> bool {
    if settings.is_insecure(&url.authority, &[]) {
        return true;
    }
    // A name that nobody knows is reported when it is dialled.
    let found = net::resolve(&url.host, url.port).await.unwrap_or_default();
    let addresses: Vec<IpAddr> = found.iter().map(|a| a.ip()).collect();
    settings.is_insecure(&url.authority, &addresses)
}

/// A document with its digest.
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    pub(crate) media_type: String,
    pub(crate) digest: String,
}

pub(crate) struct Session {
    pub(crate) http: Rc<Http>,
    pub(crate) endpoint: Endpoint,
    path: String,
    auth: AuthConfig,
    /// `pull` or `pull,push`.
    actions: &'static str,
    challenges: RefCell<Vec<Challenge>>,
    token: RefCell<Option<Token>>,
    /// More repositories the token is asked for: sources of mounts.
    more_scopes: RefCell<Vec<String>>,
}

/// What is wanted with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
}

impl Session {
    /// Says hello to a server.
    pub(crate) async fn open(
        settings: &Settings,
        endpoint: &Endpoint,
        path: &str,
        auth: &AuthConfig,
        access: Access,
    ) -> Result<Self, RegistryError> {
        let dir = settings.certs_dir.join(&endpoint.url.authority);
        let insecure = endpoint.insecure;
        let tls = jobs::short(move || tls::client(&dir, insecure)).await??;
        let session = Self {
            http: Rc::new(Http::new(tls, settings.proxies.clone())),
            endpoint: endpoint.clone(),
            path: path.to_owned(),
            auth: auth.clone(),
            actions: match access {
                Access::Pull => "pull",
                Access::Push => "pull,push",
            },
            challenges: RefCell::default(),
            token: RefCell::default(),
            more_scopes: RefCell::default(),
        };
        session.ping().await?;
        Ok(session)
    }

    async fn ping(&self) -> Result<StatusCode, RegistryError> {
        let url = self.endpoint.url.at("/v2/");
        let answer = self
            .http
            .fetch(&Method::GET, &url, &HeaderMap::new())
            .await?;
        let status = answer.status;
        *self.challenges.borrow_mut() = challenges(&answer.headers);
        answer.discard().await;
        Ok(status)
    }

    /// The identity token that came with the last token, if there was one.
    pub(crate) fn identity(&self) -> String {
        let token = self.token.borrow();
        token
            .as_ref()
            .map_or_else(String::new, |t| t.identity.clone())
    }

    fn scopes(&self) -> Vec<String> {
        let mut scopes = Vec::new();
        if !self.path.is_empty() {
            scopes.push(format!("repository:{}:{}", self.path, self.actions));
        }
        scopes.extend(self.more_scopes.borrow().iter().cloned());
        scopes
    }

    /// Lets the next token also read another repository.
    pub(crate) fn also_read(&self, path: &str) {
        let scope = format!("repository:{path}:pull");
        let mut more = self.more_scopes.borrow_mut();
        if !more.contains(&scope) {
            more.push(scope);
            *self.token.borrow_mut() = None;
        }
    }

    /// The headers of a request with the credentials it needs.
    pub(crate) async fn authorized(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        offline: bool,
    ) -> Result<HeaderMap, RegistryError> {
        let value = self.credentials(offline).await;
        let value = value.map_err(|cause| RegistryError::During {
            what: crate::http::shown(method, url),
            cause: Box::new(cause),
        })?;
        let mut headers = headers.clone();
        if let Some(value) = value {
            headers.insert(AUTHORIZATION, auth::header(&value)?);
        }
        Ok(headers)
    }

    async fn credentials(&self, offline: bool) -> Result<Option<String>, RegistryError> {
        if !self.auth.registrytoken.is_empty() {
            return Ok(Some(format!("Bearer {}", self.auth.registrytoken)));
        }
        let challenges = self.challenges.borrow().clone();
        let of = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        if let Some(challenge) = of("bearer") {
            let good = self.token.borrow().clone().filter(Token::is_good);
            let token = match good {
                Some(token) => token,
                None => {
                    let scopes = self.scopes();
                    let asked =
                        auth::fetch_token(&self.http, challenge, &self.auth, &scopes, offline);
                    let token = asked.await?;
                    *self.token.borrow_mut() = Some(token.clone());
                    token
                }
            };
            return Ok(Some(format!("Bearer {}", token.value)));
        }
        match of("basic") {
            Some(_) => auth::basic(&self.auth).map(Some),
            None => Ok(None),
        }
    }

    /// A request below `/v2/PATH`; credentials are renewed once if they are refused.
    pub(crate) async fn fetch(
        &self,
        method: &Method,
        below: &str,
        headers: &HeaderMap,
    ) -> Result<Answer, RegistryError> {
        let url = self.url(below);
        let all = self.authorized(method, &url, headers, false).await?;
        let answer = self.http.fetch(method, &url, &all).await?;
        if !self.renew(&answer) {
            return Ok(answer);
        }
        answer.discard().await;
        let all = self.authorized(method, &url, headers, false).await?;
        self.http.fetch(method, &url, &all).await
    }

    pub(crate) fn url(&self, below: &str) -> Url {
        self.endpoint.url.at(&format!("/v2/{}/{below}", self.path))
    }

    /// Whether another try with new credentials makes sense.
    fn renew(&self, answer: &Answer) -> bool {
        if answer.status != StatusCode::UNAUTHORIZED || !answer.url.same_origin(&self.endpoint.url)
        {
            return false;
        }
        let wanted = challenges(&answer.headers);
        let known = std::mem::replace(&mut *self.challenges.borrow_mut(), wanted.clone());
        let had_token = self.token.borrow_mut().take().is_some();
        !wanted.is_empty() && (had_token || known.is_empty())
    }

    /// As [`Session::fetch`] with a body, to any URL of this server; no redirects, no second try.
    pub(crate) async fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: ReqBody,
    ) -> Result<Answer, RegistryError> {
        // Only the registry itself gets its credentials.
        let all = if url.same_origin(&self.endpoint.url) {
            self.authorized(method, url, headers, false).await?
        } else {
            headers.clone()
        };
        self.http.send(method, url, &all, body).await
    }

    /// A manifest or index by tag or digest.
    pub(crate) async fn manifest(&self, which: &str) -> Result<Document, RegistryError> {
        let mut headers = HeaderMap::new();
        for media_type in MANIFEST_TYPES {
            headers.append(ACCEPT, HeaderValue::from_static(media_type));
        }
        let below = format!("manifests/{which}");
        let answer = self.fetch(&Method::GET, &below, &headers).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.into_error().await);
        }
        let media_type = answer.header(CONTENT_TYPE);
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        let media_type = media_type.to_owned();
        let bytes = answer.collect(MAX_MANIFEST_BYTES).await?;
        let digest = digest_of(&bytes);
        if which.contains(':') && which != digest {
            return Err(RegistryError::Protocol(format!(
                "manifest verification failed for digest {which}"
            )));
        }
        let media_type = media_type_of(&bytes, media_type);
        Ok(Document {
            bytes,
            media_type,
            digest,
        })
    }

    /// A small blob, verified.
    pub(crate) async fn blob(&self, digest: &str, size_bytes: u64) -> Result<Bytes, RegistryError> {
        if size_bytes > MAX_CONFIG_BYTES as u64 {
            return Err(RegistryError::Protocol(format!(
                "blob {digest} is longer than {MAX_CONFIG_BYTES} bytes"
            )));
        }
        let below = format!("blobs/{digest}");
        let answer = self.fetch(&Method::GET, &below, &HeaderMap::new()).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.into_error().await);
        }
        let bytes = answer.collect(MAX_CONFIG_BYTES).await?;
        if digest_of(&bytes) != digest {
            return Err(RegistryError::Protocol(format!(
                "image config verification failed for digest {digest}"
            )));
        }
        Ok(bytes)
    }

    /// The head of a blob's answer, from an offset.
    pub(crate) async fn open_blob(
        &self,
        digest: &str,
        from_bytes: u64,
    ) -> Result<Answer, RegistryError> {
        let mut headers = HeaderMap::new();
        if from_bytes > 0
            && let Ok(value) = HeaderValue::from_str(&format!("bytes={from_bytes}-"))
        {
            headers.insert(RANGE, value);
        }
        self.fetch(&Method::GET, &format!("blobs/{digest}"), &headers)
            .await
    }

    /// All tags of the repository.
    pub(crate) async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let mut found = Vec::new();
        let mut next = self.url("tags/list");
        for _ in 0..MAX_TAG_PAGES {
            let headers = self
                .authorized(&Method::GET, &next, &HeaderMap::new(), false)
                .await?;
            let answer = self.http.fetch(&Method::GET, &next, &headers).await?;
            if answer.status != StatusCode::OK {
                return Err(answer.into_error().await);
            }
            let link = next_page(answer.header("link")).map(|l| answer.url.join(l));
            let body = answer.collect(MAX_TAGS_BYTES).await?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|e| RegistryError::Protocol(format!("list of tags: {e}")))?;
            found.extend(page.tags.unwrap_or_default());
            match link {
                Some(link) => next = link?,
                None => return Ok(found),
            }
            if !next.same_origin(&self.endpoint.url) {
                break;
            }
        }
        Err(RegistryError::Protocol(
            "the list of tags does not end".into(),
        ))
    }

    /// A request with a body within the time for a head.
    pub(crate) async fn send_in_time(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Answer, RegistryError> {
        let sent = self.send(method, url, headers, ReqBody::Full(body));
        head_in_time(method, url, sent).await
    }
}

/// The media type that a document says of itself, else the answer's.
fn media_type_of(bytes: &[u8], answered: String) -> String {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Says {
        media_type: Option<String>,
        schema_version: Option<u64>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    if Media::of(&answered).is_some() {
        return answered;
    }
    let says: Says = serde_json::from_slice(bytes).unwrap_or_default();
    match says.media_type {
        Some(own) if Media::of(&own).is_some() => own,
        _ if says.schema_version == Some(1) => {
            "application/vnd.docker.distribution.manifest.v1+json".to_owned()
        }
        _ if says.manifests.is_some() => "application/vnd.oci.image.index.v1+json".to_owned(),
        _ if says.config.is_some() => "application/vnd.oci.image.manifest.v1+json".to_owned(),
        _ => answered,
    }
}

/// The address in a header `Link: <..>; rel="next"` (RFC 8288).
fn next_page(link: &str) -> Option<&str> {
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then_some(address)
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let all = headers.get_all(WWW_AUTHENTICATE).iter();
    all.filter_map(|v| v.to_str().ok())
        .flat_map(challenge::parse)
        .take(challenge::MAX_CHALLENGES)
        .collect()
}

/// Opens the first of the servers that answers.
pub(crate) async fn open_any(
    settings: &Settings,
    reference: &Reference,
    auth: &AuthConfig,
    access: Access,
) -> Result<Session, RegistryError> {
    let found = endpoints(settings, reference.domain(), access == Access::Pull).await?;
    let mut last = RegistryError::Protocol("no endpoint for this registry".into());
    for endpoint in found {
        match Session::open(settings, &endpoint, reference.path(), auth, access).await {
            Ok(session) => return Ok(session),
            Err(error) => {
                tracing::info!(%error, url = %endpoint.url, "a registry's endpoint does not answer");
                last = error;
            }
        }
    }
    Err(last)
}
