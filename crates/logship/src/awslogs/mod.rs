//! Amazon CloudWatch Logs.

mod credentials;
mod events;
mod sign;

use std::collections::VecDeque;
use std::time::Duration;

use gantry_logs::LogInfo;
use hyper::StatusCode;
use jiff::Timestamp;
use regex_lite::Regex;
use serde::Deserialize;
use serde_json::json;

use crate::error::{Refused, SinkError};
use crate::go;
use crate::http::{Answer, Base, Client, service_url};
use crate::options::Options;
use crate::sink::Todo;
use credentials::{Source, machine_region};
use events::{EVENT_OVERHEAD_BYTES, Event, Events, datetime_pattern};

const REGION: &str = "awslogs-region";
const ENDPOINT: &str = "awslogs-endpoint";
const GROUP: &str = "awslogs-group";
const STREAM: &str = "awslogs-stream";
const CREATE_GROUP: &str = "awslogs-create-group";
const DATETIME_FORMAT: &str = "awslogs-datetime-format";
const MULTILINE: &str = "awslogs-multiline-pattern";
const CREDENTIALS: &str = "awslogs-credentials-endpoint";
const FLUSH_SECONDS: &str = "awslogs-force-flush-interval-seconds";
const MAX_EVENTS: &str = "awslogs-max-buffered-events";
const FORMAT: &str = "awslogs-format";
const OPTIONS: &[&str] = &[
    REGION,
    ENDPOINT,
    GROUP,
    STREAM,
    CREATE_GROUP,
    DATETIME_FORMAT,
    MULTILINE,
    CREDENTIALS,
    FLUSH_SECONDS,
    MAX_EVENTS,
    FORMAT,
    "tag",
];
const EMF: &str = "json/emf";

/// Docker's interval.
const DEFAULT_FLUSH: Duration = Duration::from_secs(5);
/// Amazon's limits of one call.
const MAX_BATCH_EVENTS: usize = 10_000;
const MAX_BATCH_BYTES: usize = 1_048_576;
const MAX_BATCH_SPAN_MS: u64 = 24 * 3600 * 1000;

pub(crate) fn check(options: Options<'_>) -> Result<(), Refused> {
    if let Some(name) = options.unknown(&[OPTIONS]) {
        return Err(Refused(format!(
            "unknown log opt '{name}' for awslogs log driver"
        )));
    }
    if options.get(GROUP).is_empty() {
        return Err(Refused(format!(
            "must specify a value for log opt '{GROUP}'"
        )));
    }
    if let Some(Err(why)) = options.find(CREATE_GROUP).map(go::parse_bool) {
        return Err(Refused(format!(
            "must specify valid value for log opt '{CREATE_GROUP}': {why}"
        )));
    }
    for name in [FLUSH_SECONDS, MAX_EVENTS] {
        let Some(text) = options.find(name) else {
            continue;
        };
        if !go::parse_int("Atoi", text).is_ok_and(|n| n > 0) {
            return Err(Refused(format!(
                "must specify a positive integer for log opt '{name}': {text}"
            )));
        }
    }
    let (datetime, multiline) = (options.find(DATETIME_FORMAT), options.find(MULTILINE));
    if datetime.is_some() && multiline.is_some() {
        return Err(Refused(format!(
            "you cannot configure log opt '{DATETIME_FORMAT}' and '{MULTILINE}' at the same time"
        )));
    }
    match options.get(FORMAT) {
        "" => Ok(()),
        EMF if datetime.is_some() || multiline.is_some() => Err(Refused(format!(
            "you cannot configure log opt '{DATETIME_FORMAT}' or '{MULTILINE}' when log opt '{FORMAT}' is set to '{EMF}'"
        ))),
        EMF => Ok(()),
        other => Err(Refused(format!("unsupported log format '{other}'"))),
    }
}

fn pattern(options: Options<'_>) -> Result<Option<Regex>, Refused> {
    let text = match (options.get(DATETIME_FORMAT), options.get(MULTILINE)) {
        ("", "") => return Ok(None),
        ("", pattern) => pattern.to_owned(),
        (format, _) => datetime_pattern(format),
    };
    let bad = |e| {
        Refused(format!(
            "awslogs could not parse multiline pattern key <nil>: error parsing regexp: {e}: `{text}`"
        ))
    };
    Regex::new(&text).map(Some).map_err(bad)
}

/// Empty if the environment names none.
fn env_region() -> String {
    let names = ["AWS_REGION", "AWS_DEFAULT_REGION"];
    let mut found = names.iter().filter_map(|name| std::env::var(name).ok());
    found.find(|region| !region.is_empty()).unwrap_or_default()
}

pub(crate) struct AwsLogs {
    region: String,
    endpoint: String,
    client: Option<Client>,
    credentials: Source,
    group: String,
    stream: String,
    create_group: bool,
    emf: bool,
    flush: Duration,
    created: bool,
    events: Events,
    /// Complete, and not sent.
    ready: VecDeque<Event>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(rename = "__type", default)]
    kind: String,
    #[serde(alias = "Message", default)]
    message: String,
}

/// Amazon's name of what is wrong, and a sentence.
fn problem(answer: &Answer) -> (String, String) {
    let found: Option<Problem> = serde_json::from_slice(&answer.body).ok();
    let (kind, message) = found.map_or_else(Default::default, |p| (p.kind, p.message));
    let kind = kind.rsplit('#').next().unwrap_or_default().to_owned();
    let text = format!(
        "https response error StatusCode: {}, {kind}: {message}",
        answer.status.as_u16()
    );
    (kind, text)
}

impl AwsLogs {
    pub(crate) fn new(info: &LogInfo) -> Result<AwsLogs, Refused> {
        let options = Options(&info.options);
        check(options)?;
        let stream = match options.get(STREAM) {
            "" => info.tag("{{.FullID}}")?,
            stream => stream.to_owned(),
        };
        let create_group = options.truth(CREATE_GROUP)?;
        let seconds = options.get(FLUSH_SECONDS).parse().map(Duration::from_secs);
        let pattern = pattern(options)?;
        let region = match options.get(REGION) {
            "" => env_region(),
            region => region.to_owned(),
        };
        Ok(AwsLogs {
            region,
            endpoint: options.get(ENDPOINT).to_owned(),
            client: None,
            credentials: Source::new(options.get(CREDENTIALS)),
            group: options.get(GROUP).to_owned(),
            stream,
            create_group,
            emf: options.get(FORMAT) == EMF,
            flush: seconds.unwrap_or(DEFAULT_FLUSH),
            created: false,
            events: Events::new(pattern),
            ready: VecDeque::new(),
        })
    }

    pub(crate) fn gather(&self) -> Duration {
        self.flush
    }

    /// Makes the stream, and the group if it may.
    pub(crate) async fn connect(&mut self) -> Result<(), SinkError> {
        if self.region.is_empty() {
            self.region = machine_region().await.map_err(|e| {
                SinkError::passing(format!(
                    "cannot determine region for awslogs driver: operation error ec2imds: GetRegion, {e}"
                ))
            })?;
        }
        if self.make_stream().await? == Made::NoGroup {
            if !self.create_group {
                return Err(stream_error(
                    "ResourceNotFoundException: The specified log group does not exist.",
                ));
            }
            self.make_group().await?;
            if self.make_stream().await? == Made::NoGroup {
                return Err(stream_error("the log group that was made is not there"));
            }
        }
        self.created = true;
        Ok(())
    }

    async fn make_stream(&mut self) -> Result<Made, SinkError> {
        let body = json!({ "logGroupName": self.group, "logStreamName": self.stream });
        let answer = self
            .call("CreateLogStream", &body)
            .await
            .map_err(|e| stream_error(&e.text))?;
        if answer.status == StatusCode::OK {
            return Ok(Made::Stream);
        }
        match problem(&answer) {
            (kind, _) if kind == "ResourceAlreadyExistsException" => Ok(Made::Stream),
            (kind, _) if kind == "ResourceNotFoundException" => Ok(Made::NoGroup),
            (_, text) => Err(stream_error(&text)),
        }
    }

    async fn make_group(&mut self) -> Result<(), SinkError> {
        let failed = |why: &str| {
            SinkError::passing(format!(
                "failed to create Cloudwatch log group: operation error CloudWatch Logs: CreateLogGroup, {why}"
            ))
        };
        let body = json!({ "logGroupName": self.group });
        let answer = self
            .call("CreateLogGroup", &body)
            .await
            .map_err(|e| failed(&e.text))?;
        match problem(&answer) {
            _ if answer.status == StatusCode::OK => Ok(()),
            (kind, _) if kind == "ResourceAlreadyExistsException" => Ok(()),
            (_, text) => Err(failed(&text)),
        }
    }

    async fn call(&mut self, action: &str, body: &serde_json::Value) -> Result<Answer, SinkError> {
        let client = match &mut self.client {
            Some(client) => client,
            None => {
                let endpoint = match self.endpoint.as_str() {
                    "" if self.region.starts_with("cn-") => {
                        format!("https://logs.{}.amazonaws.com.cn", self.region)
                    }
                    "" => format!("https://logs.{}.amazonaws.com", self.region),
                    endpoint => endpoint.to_owned(),
                };
                let url = service_url(&endpoint).map_err(SinkError::passing)?;
                let base = Base::new(&url).map_err(|e| SinkError::passing(e.0))?;
                self.client.insert(Client::new(base))
            }
        };
        let credentials = self.credentials.get().await?;
        let body = body.to_string().into_bytes();
        let date = sign::date_header(Timestamp::now());
        let target = format!("Logs_20140328.{action}");
        let host = client.host().to_owned();
        let mut signed = vec![
            ("content-type", "application/x-amz-json-1.1"),
            ("host", &host),
            ("x-amz-date", &date),
        ];
        if !credentials.token.is_empty() {
            signed.push(("x-amz-security-token", &credentials.token));
        }
        signed.push(("x-amz-target", &target));
        if self.emf {
            signed.push(("x-amzn-logs-format", EMF));
        }
        let place = (self.region.as_str(), "logs");
        let authorization = sign::authorization(&credentials, place, &date, &signed, &body);
        // The client adds the host.
        let sent = signed.iter().filter(|(name, _)| *name != "host");
        let mut headers: Vec<(&str, String)> = sent.map(|(n, v)| (*n, (*v).to_owned())).collect();
        headers.push(("authorization", authorization));
        client.send("POST", "/", &headers, body).await
    }

    pub(crate) fn held_jobs(&self) -> u64 {
        self.events.held_jobs()
    }

    /// Takes all records at once; what is sent of them is kept until it is.
    pub(crate) async fn deliver(&mut self, todo: &mut Todo<'_>) -> Result<(), SinkError> {
        let mut complete = Vec::new();
        if !todo.left().is_empty() {
            self.events.next_job();
        }
        for record in todo.left() {
            self.events.take(record, &mut complete);
        }
        todo.took(todo.left().len());
        if todo.flush {
            self.events.flush(&mut complete);
        }
        self.events.end_older_than(self.flush, &mut complete);
        self.ready.extend(complete);
        if !self.created {
            self.connect().await?;
        }
        while !self.ready.is_empty() {
            self.put().await?;
        }
        Ok(())
    }

    /// One call with as many events as it takes.
    async fn put(&mut self) -> Result<(), SinkError> {
        let first_ms = self.ready.front().map_or(0, |e| e.time_ms);
        let (mut bytes, mut oldest_ms, mut newest_ms) = (0, first_ms, first_ms);
        let fit = self.ready.iter().take(MAX_BATCH_EVENTS);
        let fit = fit.take_while(|event| {
            bytes += event.text.len() + EVENT_OVERHEAD_BYTES;
            oldest_ms = oldest_ms.min(event.time_ms);
            newest_ms = newest_ms.max(event.time_ms);
            bytes <= MAX_BATCH_BYTES && newest_ms - oldest_ms < MAX_BATCH_SPAN_MS
        });
        let count = fit.count().max(1);
        let mut events: Vec<&Event> = self.ready.iter().take(count).collect();
        events.sort_by_key(|event| event.time_ms);
        let events: Vec<_> = events
            .iter()
            .map(|e| json!({ "message": e.text, "timestamp": e.time_ms }))
            .collect();
        let body = json!({
            "logEvents": events,
            "logGroupName": self.group,
            "logStreamName": self.stream,
        });
        let answer = self.call("PutLogEvents", &body).await?;
        if answer.status == StatusCode::OK {
            self.ready.drain(..count);
            return match rejected(&answer, count) {
                0 => Ok(()),
                some => Err(SinkError::permanent(
                    format!("CloudWatch takes no events of that age: {}", answer.text()),
                    some,
                )),
            };
        }
        let (kind, text) = problem(&answer);
        match kind.as_str() {
            "DataAlreadyAcceptedException" => {
                self.ready.drain(..count);
                Ok(())
            }
            "InvalidParameterException" => {
                self.ready.drain(..count);
                Err(SinkError::permanent(text, count))
            }
            "ExpiredTokenException"
            | "UnrecognizedClientException"
            | "InvalidSignatureException" => {
                // Others may have come in their place.
                self.credentials.forget();
                Err(SinkError::passing(text))
            }
            "ResourceNotFoundException" => {
                // Somebody has removed the stream: it is made again.
                self.created = false;
                Err(SinkError::passing(text))
            }
            _ => Err(SinkError::passing(text)),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Made {
    Stream,
    NoGroup,
}

fn stream_error(why: &str) -> SinkError {
    SinkError::passing(format!(
        "failed to create Cloudwatch log stream: operation error CloudWatch Logs: CreateLogStream, {why}"
    ))
}

/// How many events of a batch are too old or too new: they are named by where they begin and end.
fn rejected(answer: &Answer, events: usize) -> usize {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Taken {
        rejected_log_events_info: Info,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Info {
        too_new_log_event_start_index: Option<usize>,
        too_old_log_event_end_index: Option<usize>,
        expired_log_event_end_index: Option<usize>,
    }
    let taken: Taken = serde_json::from_slice(&answer.body).unwrap_or_default();
    let info = taken.rejected_log_events_info;
    let old = info
        .too_old_log_event_end_index
        .max(info.expired_log_event_end_index);
    let old = old.unwrap_or(0).min(events);
    let new = info.too_new_log_event_start_index.unwrap_or(events);
    old + (events - new.clamp(old, events))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{options, refused};

    fn bad(pairs: &[(&str, &str)]) -> String {
        let mut all = vec![(GROUP, "g")];
        all.extend(pairs);
        refused(check(Options(&options(&all))))
    }

    #[test]
    fn options_as_dockerd() {
        assert_eq!(
            refused(check(Options(&options(&[])))),
            "must specify a value for log opt 'awslogs-group'"
        );
        assert_eq!(
            bad(&[("env", "x")]),
            "unknown log opt 'env' for awslogs log driver"
        );
        assert_eq!(
            bad(&[(CREATE_GROUP, "x")]),
            "must specify valid value for log opt 'awslogs-create-group': strconv.ParseBool: parsing \"x\": invalid syntax"
        );
        for value in ["x", "0", "-1"] {
            assert_eq!(
                bad(&[(FLUSH_SECONDS, value)]),
                format!(
                    "must specify a positive integer for log opt 'awslogs-force-flush-interval-seconds': {value}"
                )
            );
        }
        // As dockerd, although its driver knows it.
        assert_eq!(
            bad(&[("awslogs-create-stream", "true")]),
            "unknown log opt 'awslogs-create-stream' for awslogs log driver"
        );
        assert_eq!(bad(&[(FORMAT, "x")]), "unsupported log format 'x'");
        assert!(bad(&[(FORMAT, EMF), (MULTILINE, "x")]).starts_with("you cannot configure"));
    }
    #[test]
    fn events_of_a_wrong_age_are_counted() {
        let count = |body: &'static str| {
            let answer = Answer {
                status: StatusCode::OK,
                body: body.into(),
            };
            rejected(&answer, 10)
        };
        assert_eq!(count("{}"), 0);
        assert_eq!(count("no json"), 0);
        let info = |rest: &str| format!("{{\"rejectedLogEventsInfo\":{{{rest}}}}}").leak() as &str;
        assert_eq!(count(info("\"tooOldLogEventEndIndex\":3")), 3);
        assert_eq!(count(info("\"tooNewLogEventStartIndex\":8")), 2);
        assert_eq!(
            count(info(
                "\"tooNewLogEventStartIndex\":9,\"expiredLogEventEndIndex\":2"
            )),
            3
        );
        assert_eq!(count(info("\"tooOldLogEventEndIndex\":99")), 10);
    }
}
