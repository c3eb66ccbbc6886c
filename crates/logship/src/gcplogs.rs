//! Google Cloud Logging.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gantry_logs::{LogInfo, Record};
use hyper::StatusCode;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::error::{Refused, SinkError, errno_text};
use crate::go;
use crate::http::{Base, Client, service_url};
use crate::options::{ATTRIBUTES, Options};
use crate::portion::Portion;
use crate::sink::{Todo, text_time};

const PROJECT: &str = "gcp-project";
const LOG_COMMAND: &str = "gcp-log-cmd";
const ZONE: &str = "gcp-meta-zone";
const NAME: &str = "gcp-meta-name";
const ID: &str = "gcp-meta-id";
/// Not Docker's: another address of the service, for example of a private network.
const ENDPOINT: &str = "gcp-endpoint";
const OPTIONS: &[&str] = &[PROJECT, LOG_COMMAND, ZONE, NAME, ID, ENDPOINT];

const SERVICE: &str = "https://logging.googleapis.com";
const SCOPE: &str = "https://www.googleapis.com/auth/logging.write";
const METADATA: &str = "metadata.google.internal";
/// How long entries are gathered.
pub(crate) const GATHER: Duration = Duration::from_secs(1);
/// Entries and text of one call.
const MAX_ENTRIES: usize = 1000;
const MAX_CALL_BYTES: usize = 4 << 20;
/// A token is fetched anew so long before it ends.
const RENEW_BEFORE_S: i64 = 120;
const TOKEN_SECONDS: i64 = 3600;

pub(crate) fn check(options: Options<'_>) -> Result<(), Refused> {
    match options.unknown(&[OPTIONS, ATTRIBUTES]) {
        Some(name) => {
            let name = go::quoted(name);
            Err(Refused(format!(
                "{name} is not a valid option for the gcplogs driver"
            )))
        }
        None => Ok(()),
    }
}

pub(crate) struct GcpLogs {
    client: Client,
    project: String,
    /// `zone`, `name`, `id`, of the options or of the machine.
    instance: Map<String, Value>,
    container: Value,
    /// In front of what tells an entry from others.
    short_id: String,
    identity: Option<Identity>,
    token: Option<(String, i64)>,
    portion: Portion,
}

/// The key of a service account.
#[derive(Clone, Debug, Deserialize)]
struct Identity {
    client_email: String,
    private_key: String,
    #[serde(default)]
    private_key_id: String,
    token_uri: String,
    #[serde(default)]
    project_id: String,
}

impl GcpLogs {
    pub(crate) fn new(info: &LogInfo) -> Result<GcpLogs, Refused> {
        let options = Options(&info.options);
        check(options)?;
        let endpoint = match options.get(ENDPOINT) {
            "" => SERVICE,
            endpoint => endpoint,
        };
        let base = Base::new(&service_url(endpoint)?)?;
        let attributes = info.attributes(str::to_owned)?;
        let mut container = json!({
            "name": info.name,
            "id": info.id,
            "imageName": info.image_name,
            "imageId": info.image_id,
            "created": text_time(u64::try_from(info.created_unix_ns).unwrap_or(0)),
        });
        if options.truth(LOG_COMMAND)? {
            container["command"] = info.command().into();
        }
        if !attributes.is_empty() {
            container["metadata"] = json!(attributes);
        }
        let given = [("zone", ZONE), ("name", NAME), ("id", ID)].into_iter();
        let given = given.filter(|(_, option)| !options.get(option).is_empty());
        let instance = given.map(|(name, o)| (name.to_owned(), options.get(o).into()));
        let identity = identity()?;
        let project = match (options.get(PROJECT), &identity) {
            ("", Some(identity)) => identity.project_id.clone(),
            (project, _) => project.to_owned(),
        };
        Ok(GcpLogs {
            client: Client::new(base),
            project,
            instance: instance.collect(),
            container,
            short_id: info.short_id().to_owned(),
            identity,
            token: None,
            portion: Portion::new(MAX_ENTRIES),
        })
    }

    /// Writes a test entry, as Google's library does to see whether it may.
    pub(crate) async fn connect(&mut self) -> Result<(), SinkError> {
        self.find_project().await?;
        let entry = json!({ "textPayload": "ping", "insertId": "ping", "timestamp": "1970-01-01T00:00:00Z" });
        let written = self.write("ping", vec![entry]).await;
        written.map_err(|e| {
            SinkError::passing(format!(
                "unable to connect or authenticate with Google Cloud Logging: {e}"
            ))
        })
    }

    async fn find_project(&mut self) -> Result<(), SinkError> {
        if !self.project.is_empty() {
            return Ok(());
        }
        let asked = metadata("/computeMetadata/v1/project/project-id").await;
        self.project = asked.map_err(|_| {
            SinkError::passing(
                "No project was specified and couldn't read project from the metadata server. Please specify a project",
            )
        })?;
        for (name, path) in [("zone", "zone"), ("name", "name"), ("id", "id")] {
            if !self.instance.contains_key(name)
                && let Ok(value) = metadata(&format!("/computeMetadata/v1/instance/{path}")).await
            {
                // A zone is the last part of its path.
                let value = value.rsplit('/').next().unwrap_or_default().to_owned();
                self.instance.insert(name.to_owned(), value.into());
            }
        }
        Ok(())
    }

    pub(crate) async fn deliver(&mut self, todo: &mut Todo<'_>) -> Result<(), SinkError> {
        self.find_project().await?;
        while !todo.left().is_empty() {
            let mut bytes = 0;
            let fit = todo.left().iter().take(self.portion.records());
            let fit = fit.take_while(|r| {
                bytes += r.bytes.len() + 1024;
                bytes <= MAX_CALL_BYTES
            });
            let count = fit.count().max(1);
            let batch = &todo.left()[..count];
            let entries: Vec<Value> = batch.iter().filter_map(|r| self.entry(r)).collect();
            if !entries.is_empty() {
                match self.write("gcplogs-docker-driver", entries).await {
                    Err(e) if e.skip > 0 && self.portion.refused(count) => continue,
                    written => written?,
                }
            }
            self.portion.taken();
            todo.took(count);
        }
        Ok(())
    }

    fn entry(&self, record: &Record) -> Option<Value> {
        if record.bytes.is_empty() {
            return None;
        }
        let mut payload = json!({
            "container": self.container,
            "message": String::from_utf8_lossy(&record.bytes),
        });
        if !self.instance.is_empty() {
            payload["instance"] = Value::Object(self.instance.clone());
        }
        let part = record.partial.map_or(0, |p| p.ordinal);
        let (id, stream) = (&self.short_id, record.stream.index());
        Some(json!({
            "timestamp": text_time(record.time_ns),
            // What is sent twice is kept once.
            "insertId": format!("{id}-{:x}-{stream}-{part}", record.time_ns),
            "jsonPayload": payload,
        }))
    }

    /// An error that is not passing is for what is in the entries.
    async fn write(&mut self, log: &str, entries: Vec<Value>) -> Result<(), SinkError> {
        let body = json!({
            "logName": format!("projects/{}/logs/{log}", self.project),
            "resource": { "type": "global", "labels": { "project_id": self.project } },
            "entries": entries,
        });
        let token = self.token().await?;
        let headers = [
            ("authorization", format!("Bearer {token}")),
            ("content-type", "application/json".to_owned()),
        ];
        let body = body.to_string().into_bytes();
        let answer = self
            .client
            .send("POST", "/v2/entries:write", &headers, body)
            .await?;
        let text = || format!("googleapi: Error {}: {}", answer.status, answer.text());
        match answer.status {
            StatusCode::OK => Ok(()),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
                Err(SinkError::permanent(text(), 1))
            }
            StatusCode::UNAUTHORIZED => {
                self.token = None;
                Err(SinkError::passing(text()))
            }
            _ => Err(SinkError::passing(text())),
        }
    }

    async fn token(&mut self) -> Result<String, SinkError> {
        let now = Timestamp::now().as_second();
        if let Some((token, ends)) = &self.token
            && now + RENEW_BEFORE_S < *ends
        {
            return Ok(token.clone());
        }
        let answer = match &self.identity {
            Some(identity) => exchange(identity, now).await?,
            None => metadata("/computeMetadata/v1/instance/service-accounts/default/token")
                .await
                .map_err(|e| {
                    SinkError::passing(format!("google: could not find default credentials: {e}"))
                })?,
        };
        let (token, ends) = read_token(&answer, now)?;
        self.token = Some((token.clone(), ends));
        Ok(token)
    }
}

/// The service account of the daemon's environment.
fn identity() -> Result<Option<Identity>, Refused> {
    let Ok(path) = std::env::var("GOOGLE_APPLICATION_CREDENTIALS") else {
        return Ok(None);
    };
    let text = std::fs::read(&path).map_err(|e| {
        Refused(format!(
            "google: error getting credentials using GOOGLE_APPLICATION_CREDENTIALS environment variable: open {path}: {}",
            errno_text(&e)
        ))
    })?;
    let identity = serde_json::from_slice(&text);
    identity.map(Some).map_err(|e| {
        Refused(format!(
            "google: {path} is no key of a service account: {e}"
        ))
    })
}

fn read_token(answer: &str, now: i64) -> Result<(String, i64), SinkError> {
    #[derive(Deserialize)]
    struct Token {
        access_token: String,
        #[serde(default)]
        expires_in: i64,
    }
    let token: Token = serde_json::from_str(answer)
        .map_err(|e| SinkError::passing(format!("oauth2: cannot parse the token: {e}")))?;
    Ok((token.access_token, now.saturating_add(token.expires_in)))
}

async fn metadata(path: &str) -> Result<String, SinkError> {
    let host = std::env::var("GCE_METADATA_HOST").unwrap_or_else(|_| METADATA.to_owned());
    let url = service_url(&format!("http://{host}")).map_err(SinkError::passing)?;
    let base = Base::new(&url).map_err(|e| SinkError::passing(e.0))?;
    let mut client = Client::new(base);
    let flavor = [("metadata-flavor", "Google".to_owned())];
    let asked = client.send("GET", path, &flavor, Vec::new());
    let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
    let answer = answer
        .unwrap_or_else(|_| Err(SinkError::passing("the metadata server does not answer")))?;
    match answer.status {
        StatusCode::OK => Ok(answer.text()),
        status => Err(SinkError::passing(format!(
            "the metadata server answers {status}"
        ))),
    }
}

/// A signed claim for a token.
async fn exchange(identity: &Identity, now: i64) -> Result<String, SinkError> {
    let claim = assertion(identity, now).map_err(SinkError::passing)?;
    let url = service_url(&identity.token_uri).map_err(SinkError::passing)?;
    let base = Base::new(&url).map_err(|e| SinkError::passing(e.0))?;
    let path = if url.path.is_empty() { "/" } else { &url.path };
    let form = [(
        "content-type",
        "application/x-www-form-urlencoded".to_owned(),
    )];
    let body = format!(
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={claim}"
    );
    let answer = Client::new(base)
        .send("POST", path, &form, body.into_bytes())
        .await?;
    match answer.status {
        StatusCode::OK => Ok(answer.text()),
        status => {
            let text = answer.text();
            Err(SinkError::passing(format!(
                "oauth2: cannot fetch token: {status}\nResponse: {text}"
            )))
        }
    }
}

fn assertion(identity: &Identity, now: i64) -> Result<String, String> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(identity.private_key.as_bytes());
    let key = key.map_err(|e| format!("private key: {e}"))?;
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der());
    let key = key.map_err(|e| format!("private key: {e}"))?;
    let head = json!({ "alg": "RS256", "typ": "JWT", "kid": identity.private_key_id });
    let claims = json!({
        "iss": identity.client_email,
        "scope": SCOPE,
        "aud": identity.token_uri,
        "iat": now,
        "exp": now + TOKEN_SECONDS,
    });
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(head.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        text.as_bytes(),
        &mut signature,
    )
    .map_err(|e| format!("private key: {e}"))?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use gantry_stream::Stream;

    use super::*;
    use crate::testing::{options, record, refused};

    #[test]
    fn an_unknown_option() {
        let bad = refused(check(Options(&options(&[("bogus", "1")]))));
        assert_eq!(
            bad,
            "\"bogus\" is not a valid option for the gcplogs driver"
        );
    }

    #[test]
    fn entries() {
        let info = LogInfo {
            options: options(&[
                (PROJECT, "p"),
                (NAME, "vm"),
                (LOG_COMMAND, "true"),
                ("env", "A"),
            ]),
            id: "0123456789abcdef".to_owned(),
            entrypoint: "sh".to_owned(),
            env: vec!["A=1".to_owned()],
            ..LogInfo::default()
        };
        let gcp = GcpLogs::new(&info).unwrap();
        let entry = gcp
            .entry(&record(1_795_613_228_902_153_999, Stream::Stderr, "m"))
            .unwrap();
        assert_eq!(entry["timestamp"], "2026-11-25T13:27:08.902153999Z");
        assert_eq!(entry["insertId"], "0123456789ab-18eb4cb7d6b47f0f-1-0");
        let payload = &entry["jsonPayload"];
        assert_eq!(
            (&payload["message"], &payload["instance"]["name"]),
            (&"m".into(), &"vm".into())
        );
        assert_eq!(payload["container"]["metadata"]["A"], "1");
        assert_eq!(payload["container"]["command"], "sh");
        assert_eq!(gcp.entry(&record(1, Stream::Stdout, "")), None);
    }
}
