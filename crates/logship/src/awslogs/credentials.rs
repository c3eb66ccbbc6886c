//! Where credentials for Amazon come from: the daemon's environment, a file, or a service of the machine.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use super::sign::Credentials;
use crate::error::SinkError;
use crate::http::{Base, Client, service_url};

/// Where containers of ECS get theirs.
const CONTAINER_SERVICE: &str = "http://169.254.170.2";
/// Where machines of EC2 get theirs.
const MACHINE_SERVICE: &str = "http://169.254.169.254";
/// Credentials are fetched anew so long before they end.
const RENEW_BEFORE: Duration = Duration::from_secs(300);

/// Finds credentials and keeps them until they end.
#[derive(Default)]
pub(super) struct Source {
    /// The option `awslogs-credentials-endpoint`: a path at the containers' service.
    pub(super) endpoint: String,
    kept: Option<(Credentials, Option<Timestamp>)>,
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    access_key_id: String,
    secret_access_key: String,
    #[serde(default)]
    token: String,
    #[serde(default)]
    expiration: Option<Timestamp>,
}

impl Source {
    pub(super) fn new(endpoint: &str) -> Source {
        Source {
            endpoint: endpoint.to_owned(),
            kept: None,
        }
    }

    /// The credentials are no good any more.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// The credentials of now.
    pub(super) async fn get(&mut self) -> Result<Credentials, SinkError> {
        if let Some((credentials, ends)) = &self.kept
            && ends.is_none_or(|ends| Timestamp::now() + RENEW_BEFORE < ends)
        {
            return Ok(credentials.clone());
        }
        let found = self.find().await.map_err(|e| {
            SinkError::passing(format!(
                "get identity: get credentials: failed to refresh cached credentials, {e}"
            ))
        })?;
        let credentials = found.0.clone();
        self.kept = Some(found);
        Ok(credentials)
    }

    async fn find(&self) -> Result<(Credentials, Option<Timestamp>), SinkError> {
        if !self.endpoint.is_empty() {
            return fetch(CONTAINER_SERVICE, &self.endpoint, &[]).await;
        }
        if let (Some(key_id), Some(secret)) =
            (env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY"))
        {
            let token = env("AWS_SESSION_TOKEN").unwrap_or_default();
            let credentials = Credentials {
                key_id,
                secret,
                token,
            };
            return Ok((credentials, None));
        }
        if let Some(credentials) = from_file() {
            return Ok((credentials, None));
        }
        if let Some(path) = env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            return fetch(CONTAINER_SERVICE, &path, &[]).await;
        }
        let token = machine_token().await;
        let none = |e: SinkError| SinkError::passing(format!("no EC2 IMDS role found, {e}"));
        let headers = token.map_err(none)?;
        let path = "/latest/meta-data/iam/security-credentials/";
        let base = machine_service();
        let role = ask(&base, "GET", path, &headers).await.map_err(none)?;
        fetch(&base, &format!("{path}{}", role.trim()), &headers).await
    }
}

fn machine_service() -> String {
    env("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| MACHINE_SERVICE.to_owned())
}

type Headers = Vec<(&'static str, String)>;

/// The machine's service wants a token of its own first.
async fn machine_token() -> Result<Headers, SinkError> {
    let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "300".to_owned())];
    let token = ask(&machine_service(), "PUT", "/latest/api/token", &ttl).await?;
    Ok(vec![("X-aws-ec2-metadata-token", token)])
}

/// The region of the machine, if it is one of EC2.
pub(super) async fn machine_region() -> Result<String, SinkError> {
    #[derive(Deserialize)]
    struct Document {
        region: String,
    }
    let headers = machine_token().await?;
    let path = "/latest/dynamic/instance-identity/document";
    let text = ask(&machine_service(), "GET", path, &headers).await?;
    let document: Document = serde_json::from_str(&text)
        .map_err(|e| SinkError::passing(format!("the machine's identity document: {e}")))?;
    Ok(document.region)
}

async fn ask(
    base: &str,
    method: &str,
    path: &str,
    headers: &[(&str, String)],
) -> Result<String, SinkError> {
    let url = service_url(base).map_err(SinkError::passing)?;
    let base = Base::new(&url).map_err(|e| SinkError::passing(e.0))?;
    let mut client = Client::new(base);
    // Machines that are not Amazon's swallow what is sent there.
    let asked = client.send(method, path, headers, Vec::new());
    let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
    let answer = answer.unwrap_or_else(|_| {
        Err(SinkError::passing(format!(
            "{method} {base}{path}: i/o timeout",
            base = url.host
        )))
    })?;
    if answer.status != 200 {
        return Err(SinkError::passing(format!(
            "{method} {path}: {}",
            answer.status
        )));
    }
    Ok(answer.text())
}

async fn fetch(
    base: &str,
    path: &str,
    headers: &[(&str, String)],
) -> Result<(Credentials, Option<Timestamp>), SinkError> {
    let text = ask(base, "GET", path, headers).await?;
    let answer: Answer = serde_json::from_str(&text)
        .map_err(|e| SinkError::passing(format!("failed to load credentials, {e}")))?;
    let credentials = Credentials {
        key_id: answer.access_key_id,
        secret: answer.secret_access_key,
        token: answer.token,
    };
    Ok((credentials, answer.expiration))
}

fn from_file() -> Option<Credentials> {
    let path = match env("AWS_SHARED_CREDENTIALS_FILE") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env("HOME")?).join(".aws/credentials"),
    };
    let profile = env("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    profile_of(&std::fs::read_to_string(path).ok()?, &profile)
}

/// A profile of a file with sections in brackets.
fn profile_of(text: &str, profile: &str) -> Option<Credentials> {
    let mut found = Credentials::default();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = section.trim() == profile;
        } else if let (true, Some((name, value))) = (inside, line.split_once('=')) {
            let value = value.trim().to_owned();
            match name.trim() {
                "aws_access_key_id" => found.key_id = value,
                "aws_secret_access_key" => found.secret = value,
                "aws_session_token" => found.token = value,
                _ => {}
            }
        }
    }
    (!found.key_id.is_empty() && !found.secret.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles() {
        let text = "[a]\naws_access_key_id=1\n[ default ]\n aws_access_key_id = k\naws_secret_access_key=s=\n#x\n";
        let found = profile_of(text, "default").unwrap();
        assert_eq!((&*found.key_id, &*found.secret), ("k", "s="));
        assert_eq!(profile_of(text, "a"), None);
    }

    #[test]
    fn answers() {
        let text = r#"{"AccessKeyId":"a","SecretAccessKey":"b","Token":"c","Expiration":"2026-11-25T13:28:05Z","X":1}"#;
        let answer: Answer = serde_json::from_str(text).unwrap();
        assert_eq!(answer.expiration.unwrap().as_second(), 1_795_613_285);
    }
}
