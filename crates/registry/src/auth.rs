//! Who asks: credentials of a client, and the tokens that servers give for them.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::error::RegistryError;
use crate::http::{Http, ReqBody, head_in_time};
use crate::url::{Url, escape};

/// Longest answer of a token server.
const MAX_TOKEN_BYTES: usize = 256 * 1024;
/// A token that does not say how long it lives, lives this long (the specification's minimum).
const DEFAULT_TOKEN_LIFE: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);
/// Who token servers are told is asking.
const CLIENT_ID: &str = "docker";

/// Credentials, as `docker login` keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    /// Name.
    pub username: String,
    /// Password.
    pub password: String,
    /// `name:password` in base64, instead of the two.
    pub auth: String,
    /// Which registry they are for.
    pub serveraddress: String,
    /// A token that stands for name and password at a token server.
    pub identitytoken: String,
    /// A token that the registry itself takes.
    pub registrytoken: String,
}

fn lenient(alphabet: &alphabet::Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    GeneralPurpose::new(alphabet, config)
}

impl AuthConfig {
    /// From the header `X-Registry-Auth`: base64 (of URLs or standard, padded or not) of a JSON document. `None` if it is
    /// not that.
    pub fn from_header(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Some(Self::default());
        }
        let bytes = lenient(&alphabet::URL_SAFE)
            .decode(text)
            .or_else(|_| lenient(&alphabet::STANDARD).decode(text))
            .ok()?;
        // A list would do as well for the library.
        let object: serde_json::Map<_, _> = serde_json::from_slice(&bytes).ok()?;
        let parsed: Self = serde_json::from_value(object.into()).ok()?;
        Some(parsed.with_name_of_auth())
    }

    /// Takes name and password out of `auth` if there are none.
    #[must_use]
    pub fn with_name_of_auth(mut self) -> Self {
        if self.username.is_empty()
            && let Ok(bytes) = lenient(&alphabet::STANDARD).decode(self.auth.trim())
            && let Ok(text) = String::from_utf8(bytes)
            && let Some((name, password)) = text.split_once(':')
        {
            self.username = name.to_owned();
            self.password = password.trim_end_matches('\0').to_owned();
        }
        self
    }

    fn basic(&self) -> Option<String> {
        (!self.username.is_empty()).then(|| {
            let pair = format!("{}:{}", self.username, self.password);
            format!("Basic {}", STANDARD.encode(pair))
        })
    }
}

/// A token, and until when it is used.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) value: String,
    /// What to ask the next ones with, if the server gave it.
    pub(crate) identity: String,
    until: Instant,
}

impl Token {
    pub(crate) fn is_good(&self) -> bool {
        Instant::now() < self.until
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

/// The header for a challenge of this registry. A token is asked for with `scopes`.
pub(crate) fn header(value: &str) -> Result<HeaderValue, RegistryError> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| RegistryError::Protocol("credentials cannot be sent in a header".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `Basic ..` for these credentials.
pub(crate) fn basic(auth: &AuthConfig) -> Result<String, RegistryError> {
    auth.basic().ok_or(RegistryError::NoCredentials)
}

/// Asks the token server of a `Bearer` challenge.
pub(crate) async fn fetch_token(
    http: &Http,
    challenge: &Challenge,
    auth: &AuthConfig,
    scopes: &[String],
    offline: bool,
) -> Result<Token, RegistryError> {
    let realm = challenge.get("realm");
    if realm.is_empty() {
        return Err(RegistryError::Protocol(
            "no realm specified for token auth challenge".into(),
        ));
    }
    let realm = Url::parse(realm).map_err(|_| {
        RegistryError::Protocol(format!("invalid token auth challenge realm: {realm:?}"))
    })?;
    let service = challenge.get("service");
    let answer = if auth.identitytoken.is_empty() {
        let mut headers = HeaderMap::new();
        let mut url = realm;
        if let Some(basic) = auth.basic() {
            headers.insert(AUTHORIZATION, header(&basic)?);
            url = url.with_parameter("account", &auth.username);
            if offline {
                url = url
                    .with_parameter("client_id", CLIENT_ID)
                    .with_parameter("offline_token", "true");
            }
        }
        for scope in scopes {
            url = url.with_parameter("scope", scope);
        }
        if !service.is_empty() {
            url = url.with_parameter("service", service);
        }
        http.fetch(&Method::GET, &url, &headers).await?
    } else {
        let pairs = [
            ("grant_type", "refresh_token"),
            ("service", service),
            ("client_id", CLIENT_ID),
            ("scope", &scopes.join(" ")),
            ("refresh_token", &auth.identitytoken),
        ];
        let form: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={}", escape(value)))
            .collect();
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let body = ReqBody::Full(form.join("&").into());
        let sent = http.send(&Method::POST, &realm, &headers, body);
        head_in_time(&Method::POST, &realm, sent).await?
    };
    if answer.status != StatusCode::OK {
        return Err(answer.into_error().await);
    }
    let body = answer.collect(MAX_TOKEN_BYTES).await?;
    let parsed: TokenAnswer = serde_json::from_slice(&body)
        .map_err(|e| RegistryError::Protocol(format!("unable to decode token response: {e}")))?;
    let value = parsed
        .access_token
        .or(parsed.token)
        .filter(|t| !t.is_empty())
        .ok_or_else(|| {
            RegistryError::Protocol(
                "authorization server did not include a token in the response".into(),
            )
        })?;
    let life = parsed
        .expires_in
        .map_or(DEFAULT_TOKEN_LIFE, Duration::from_secs)
        .max(DEFAULT_TOKEN_LIFE)
        .min(Duration::from_secs(24 * 3600));
    Ok(Token {
        value,
        identity: parsed.refresh_token.unwrap_or_default(),
        until: Instant::now() + (life - TOKEN_MARGIN),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

    #[test]
    fn all_forms_of_the_header() {
        let json = r#"{"username":"ü?>","password":"p:w","serveraddress":"x","email":"e"}"#;
        for text in [
            URL_SAFE.encode(json),
            URL_SAFE_NO_PAD.encode(json),
            STANDARD.encode(json),
        ] {
            let auth = AuthConfig::from_header(&text).unwrap();
            assert_eq!(
                (auth.username.as_str(), auth.password.as_str()),
                ("ü?>", "p:w")
            );
        }
        let pair = format!(r#"{{"auth":"{}"}}"#, STANDARD.encode("me:a:b"));
        let auth = AuthConfig::from_header(&URL_SAFE.encode(pair)).unwrap();
        assert_eq!(
            (auth.username.as_str(), auth.password.as_str()),
            ("me", "a:b")
        );
        let token = AuthConfig::from_header(&URL_SAFE.encode(r#"{"identitytoken":"t"}"#)).unwrap();
        assert_eq!(token.identitytoken, "t");
        assert_eq!(AuthConfig::from_header(""), Some(AuthConfig::default()));
        assert_eq!(AuthConfig::from_header("e30="), Some(AuthConfig::default()));
        for bad in ["%%%", "bm8=", "W10="] {
            assert_eq!(AuthConfig::from_header(bad).map(|_| ()), None, "{bad}");
        }
    }
}
