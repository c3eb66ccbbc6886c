//! Splunk's HTTP event collector.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use gantry_logs::{DEFAULT_TAG, LogInfo, Record};
use gantry_stream::Stream;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Refused, SinkError};
use crate::go::{self, Url};
use crate::http::{Base, Client};
use crate::options::{ATTRIBUTES, Options};
use crate::portion::Portion;
use crate::sink::{Todo, hostname};
use crate::tls;

const URL: &str = "splunk-url";
const TOKEN: &str = "splunk-token";
const SOURCE: &str = "splunk-source";
const SOURCE_TYPE: &str = "splunk-sourcetype";
const INDEX: &str = "splunk-index";
const CA_PATH: &str = "splunk-capath";
const CA_NAME: &str = "splunk-caname";
const SKIP_VERIFY: &str = "splunk-insecureskipverify";
const FORMAT: &str = "splunk-format";
const VERIFY: &str = "splunk-verify-connection";
const GZIP: &str = "splunk-gzip";
const GZIP_LEVEL: &str = "splunk-gzip-level";
const INDEX_ACK: &str = "splunk-index-acknowledgment";
const TAG: &str = "tag";
const OPTIONS: &[&str] = &[
    URL,
    TOKEN,
    SOURCE,
    SOURCE_TYPE,
    INDEX,
    CA_PATH,
    CA_NAME,
    SKIP_VERIFY,
    FORMAT,
    VERIFY,
    GZIP,
    GZIP_LEVEL,
    INDEX_ACK,
    TAG,
];

const PATH: &str = "/services/collector/event/1.0";
/// Events of one request.
const MAX_EVENTS: usize = 1000;
/// How long events are gathered: Docker's interval.
pub(crate) const GATHER: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Inline,
    Json,
    Raw,
}

pub(crate) fn check(options: Options<'_>) -> Result<(), Refused> {
    match options.unknown(&[OPTIONS, ATTRIBUTES]) {
        Some(name) => Err(Refused(format!(
            "unknown log opt '{name}' for splunk log driver"
        ))),
        None => Ok(()),
    }
}

pub(crate) struct Splunk {
    client: Client,
    headers: Vec<(&'static str, String)>,
    gzip: Option<Compression>,
    verify: bool,
    /// Unknown formats are told after the connection was tried, as Docker.
    format: Result<Format, Refused>,
    events: Events,
    portion: Portion,
}

/// What all events have.
struct Events {
    /// `,"host":...` and so on.
    tail: String,
    /// `,"tag":...` and so on.
    about: String,
    /// In front of raw lines.
    prefix: String,
}

fn truth(options: Options<'_>, name: &str, default: bool) -> Result<bool, Refused> {
    let given = options.find(name).map(go::parse_bool);
    Ok(given.transpose()?.unwrap_or(default))
}

fn url(options: Options<'_>) -> Result<Url, Refused> {
    let text = options
        .find(URL)
        .ok_or_else(|| Refused(format!("splunk: {URL} is expected")))?;
    let wrong = || format!("splunk: expected format scheme://dns_name_or_ip:port for {URL}");
    let url = Url::parse(text).map_err(|_| {
        Refused(format!(
            "splunk: failed to parse {text} as url value in {URL}"
        ))
    })?;
    let fine = matches!(url.scheme.as_str(), "http" | "https")
        && !url.host.is_empty()
        && matches!(url.path.as_str(), "" | "/")
        && url.query.is_empty()
        && url.fragment.is_empty();
    if fine { Ok(url) } else { Err(Refused(wrong())) }
}

fn gzip(options: Options<'_>) -> Result<Option<Compression>, Refused> {
    let wanted = truth(options, GZIP, false)?;
    let level = match options.find(GZIP_LEVEL) {
        None => Compression::default(),
        Some(text) => match go::parse_int("ParseInt", text)? {
            -1 => Compression::default(),
            level @ 0..=9 => Compression::new(level as u32),
            level => {
                return Err(Refused(format!(
                    "not supported level '{level}' for {GZIP_LEVEL} (supported values between -1 and 9)"
                )));
            }
        },
    };
    Ok(wanted.then_some(level))
}

fn format(options: Options<'_>) -> Result<Format, Refused> {
    match options.find(FORMAT) {
        None | Some("inline") => Ok(Format::Inline),
        Some("json") => Ok(Format::Json),
        Some("raw") => Ok(Format::Raw),
        Some(other) => Err(Refused(format!(
            "unknown format specified {other}, supported formats are inline, json and raw"
        ))),
    }
}

impl Splunk {
    pub(crate) fn new(info: &LogInfo) -> Result<Splunk, Refused> {
        let options = Options(&info.options);
        let url = url(options)?;
        let token = options
            .find(TOKEN)
            .ok_or_else(|| Refused(format!("splunk: {TOKEN} is expected")))?;
        let skip_verify = truth(options, SKIP_VERIFY, false)?;
        let ca = options.get(CA_PATH);
        if !ca.is_empty() {
            let missing = |e| Refused(format!("open {ca}: {}", crate::error::errno_text(&e)));
            std::fs::File::open(ca).map_err(missing)?;
        }
        let config = match url.scheme.as_str() {
            "https" => Some(tls::client(&tls::Files {
                ca,
                skip_verify,
                ..tls::Files::default()
            })?),
            _ => None,
        };
        let base = Base::with_tls(&url, config, options.get(CA_NAME))?;
        let gzip = gzip(options)?;
        let acknowledged = truth(options, INDEX_ACK, false)?;
        let mut headers = vec![("Authorization", format!("Splunk {token}"))];
        if gzip.is_some() {
            headers.push(("Content-Encoding", "gzip".to_owned()));
        }
        if acknowledged {
            headers.push(("X-Splunk-Request-Channel", channel()?));
        }
        let attributes = info.attributes(str::to_owned)?;
        // An empty template means no tag at all.
        let tag = match options.find(TAG) {
            Some("") => String::new(),
            _ => info.tag(DEFAULT_TAG)?,
        };
        Ok(Splunk {
            client: Client::new(base),
            headers,
            gzip,
            verify: truth(options, VERIFY, true)?,
            format: format(options),
            events: Events::new(options, &tag, &attributes),
            portion: Portion::new(MAX_EVENTS),
        })
    }

    pub(crate) async fn connect(&mut self) -> Result<(), SinkError> {
        if self.verify {
            let answer = self.client.send("OPTIONS", PATH, &[], Vec::new()).await?;
            if answer.status != 200 {
                let (status, text) = (answer.status, answer.text());
                return Err(SinkError::passing(format!(
                    "splunk: failed to verify connection - {status} - {text}"
                )));
            }
        }
        self.format
            .clone()
            .map(drop)
            .map_err(|e| SinkError::passing(e.0))
    }

    pub(crate) async fn deliver(&mut self, todo: &mut Todo<'_>) -> Result<(), SinkError> {
        let format = self.format.clone().map_err(|e| SinkError::passing(e.0))?;
        while !todo.left().is_empty() {
            let batch = todo.left();
            let batch = &batch[..batch.len().min(self.portion.records())];
            let mut body = Vec::new();
            for record in batch {
                self.events.encode(&mut body, record, format);
            }
            match self.post(body).await? {
                Taken::Yes => self.portion.taken(),
                Taken::Never(_) if self.portion.refused(batch.len()) => continue,
                Taken::Never(why) => return Err(SinkError::permanent(why, 1)),
            }
            todo.took(batch.len());
        }
        Ok(())
    }

    async fn post(&mut self, mut body: Vec<u8>) -> Result<Taken, SinkError> {
        if body.is_empty() {
            return Ok(Taken::Yes);
        }
        if let Some(level) = self.gzip {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), level);
            let packed = packer.write_all(&body).and_then(|()| packer.finish());
            body = packed.map_err(|e| SinkError::passing(e.to_string()))?;
        }
        let answer = self.client.send("POST", PATH, &self.headers, body).await?;
        let text = || {
            let (status, text) = (answer.status, answer.text());
            format!("splunk: failed to send event - {status} - {text}")
        };
        match answer.status.as_u16() {
            200 => Ok(Taken::Yes),
            413 => Ok(Taken::Never(text())),
            400 if blames_events(&answer.body) => Ok(Taken::Never(text())),
            _ => Err(SinkError::passing(text())),
        }
    }
}

/// What became of a request.
enum Taken {
    Yes,
    /// What it says of these events it will say again.
    Never(String),
}

/// Whether a refusal is for what is in a request. Of an index or a channel that is wrong, somebody may think better.
fn blames_events(answer: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Answer {
        code: u64,
    }
    match serde_json::from_slice(answer) {
        Ok(Answer { code }) => matches!(code, 5 | 6 | 12 | 13 | 15),
        Err(_) => true,
    }
}

/// A random UUID.
fn channel() -> Result<String, Refused> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| Refused(e.to_string()))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let (a, b, c) = (&hex[..8], &hex[8..12], &hex[12..16]);
    Ok(format!("{a}-{b}-{c}-{}-{}", &hex[16..20], &hex[20..]))
}

impl Events {
    fn new(options: Options<'_>, tag: &str, attributes: &BTreeMap<String, String>) -> Events {
        let mut tail = format!(",\"host\":{}", Value::from(hostname()));
        for (option, name) in [
            (SOURCE, "source"),
            (SOURCE_TYPE, "sourcetype"),
            (INDEX, "index"),
        ] {
            let value = options.get(option);
            if !value.is_empty() {
                tail.push_str(&format!(",\"{name}\":{}", Value::from(value)));
            }
        }
        tail.push('}');
        let mut about = String::new();
        let mut prefix = String::new();
        if !tag.is_empty() {
            about.push_str(&format!(",\"tag\":{}", Value::from(tag)));
            prefix.push_str(&format!("{tag} "));
        }
        if !attributes.is_empty() {
            let object: Value = attributes
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            about.push_str(&format!(",\"attrs\":{object}"));
            let pairs = attributes.iter().map(|(k, v)| format!("{k}={v} "));
            prefix.extend(pairs);
        }
        about.push('}');
        Events {
            tail,
            about,
            prefix,
        }
    }

    fn encode(&self, out: &mut Vec<u8>, record: &Record, format: Format) {
        let text = String::from_utf8_lossy(&record.bytes);
        let source = match record.stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let event = match format {
            Format::Raw if text.trim().is_empty() => return,
            Format::Raw => Value::from(format!("{}{text}", self.prefix)).to_string(),
            Format::Inline | Format::Json => {
                let json = match format {
                    Format::Json => serde_json::from_str::<&RawValue>(&text).ok(),
                    _ => None,
                };
                let line = json.map_or_else(
                    || Value::from(&*text).to_string(),
                    |json| json.get().to_owned(),
                );
                format!("{{\"line\":{line},\"source\":\"{source}\"{}", self.about)
            }
        };
        let micros = record.time_ns / 1000;
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        let head = format!(
            "{{\"event\":{event},\"time\":\"{seconds}.{micros:06}\"{}",
            self.tail
        );
        out.extend_from_slice(head.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{options, record, refused};

    fn open(pairs: &[(&str, &str)]) -> Result<Splunk, Refused> {
        Splunk::new(&LogInfo {
            options: options(pairs),
            id: "0123456789abcdef".to_owned(),
            labels: options(&[("a", "1")]),
            ..LogInfo::default()
        })
    }

    fn bad(pairs: &[(&str, &str)]) -> String {
        refused(open(pairs).map(drop))
    }

    #[test]
    fn options_as_dockerd() {
        let url = (URL, "http://127.0.0.1:1");
        let token = (TOKEN, "t");
        assert_eq!(bad(&[token]), "splunk: splunk-url is expected");
        assert_eq!(bad(&[url]), "splunk: splunk-token is expected");
        for text in [
            "foo",
            "http://h:1/x",
            "http://h?x=1",
            "http://h#x",
            "ftp://x",
            "//x",
            "",
        ] {
            assert_eq!(
                bad(&[(URL, text), token]),
                "splunk: expected format scheme://dns_name_or_ip:port for splunk-url"
            );
        }
        assert_eq!(
            bad(&[url, token, (GZIP_LEVEL, "10")]),
            "not supported level '10' for splunk-gzip-level (supported values between -1 and 9)"
        );
        assert_eq!(
            bad(&[url, token, (GZIP_LEVEL, "x")]),
            "strconv.ParseInt: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            bad(&[url, token, (INDEX_ACK, "x")]),
            "strconv.ParseBool: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            bad(&[url, token, (CA_PATH, "/nope")]),
            "open /nope: no such file or directory"
        );
        let splunk = open(&[url, token, (FORMAT, "x")]).unwrap();
        let unknown = "unknown format specified x, supported formats are inline, json and raw";
        assert_eq!(splunk.format, Err(unknown.into()));
    }

    fn event(pairs: &[(&str, &str)], format: Format, line: &str) -> String {
        let mut all = vec![(URL, "http://h"), (TOKEN, "t"), ("labels", "a")];
        all.extend(pairs);
        let splunk = open(&all).unwrap();
        let mut out = Vec::new();
        let record = record(1_795_613_228_902_153_999, Stream::Stdout, line);
        splunk.events.encode(&mut out, &record, format);
        let host = format!("\"host\":{}", Value::from(hostname()));
        String::from_utf8(out).unwrap().replace(&host, "HOST")
    }

    #[test]
    fn events_as_dockerd() {
        let about = "\"source\":\"stdout\",\"tag\":\"0123456789ab\",\"attrs\":{\"a\":\"1\"}}";
        let time = "\"time\":\"1795613228.902153\"";
        assert_eq!(
            event(&[], Format::Inline, "{}"),
            format!("{{\"event\":{{\"line\":\"{{}}\",{about},{time},HOST}}")
        );
        assert_eq!(
            event(&[], Format::Json, "{\"b\":[1]}"),
            format!("{{\"event\":{{\"line\":{{\"b\":[1]}},{about},{time},HOST}}")
        );
        assert_eq!(
            event(&[(INDEX, "i")], Format::Raw, "x y"),
            format!("{{\"event\":\"0123456789ab a=1 x y\",{time},HOST,\"index\":\"i\"}}")
        );
        assert_eq!(event(&[], Format::Raw, " "), "");
        let bare = event(&[(TAG, ""), ("labels", "")], Format::Json, "{");
        assert!(bare.starts_with("{\"event\":{\"line\":\"{\",\"source\":\"stdout\"},"));
    }
}
