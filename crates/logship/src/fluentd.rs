//! Fluentd's forward protocol over TCP, TLS and Unix sockets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine;
use gantry_logs::{DEFAULT_TAG, LogInfo, Record};
use gantry_stream::Stream;
use tokio::io::AsyncReadExt;

use crate::error::{Refused, SinkError};
use crate::go::{self, Url};
use crate::msgpack::{self, Ack, read_ack};
use crate::net::{Address, StreamConn, WRITE_TIMEOUT, within};
use crate::options::{ATTRIBUTES, Options};
use crate::sink::{Todo, WRITE_BYTES};
use crate::tls;

const ADDRESS: &str = "fluentd-address";
const ASYNC: &str = "fluentd-async";
const RECONNECT_INTERVAL: &str = "fluentd-async-reconnect-interval";
const BUFFER_LIMIT: &str = "fluentd-buffer-limit";
const MAX_RETRIES: &str = "fluentd-max-retries";
const REQUEST_ACK: &str = "fluentd-request-ack";
const RETRY_WAIT: &str = "fluentd-retry-wait";
const SUB_SECOND: &str = "fluentd-sub-second-precision";
const WRITE_LIMIT: &str = "fluentd-write-timeout";
const OPTIONS: &[&str] = &[
    ADDRESS,
    ASYNC,
    RECONNECT_INTERVAL,
    BUFFER_LIMIT,
    MAX_RETRIES,
    REQUEST_ACK,
    RETRY_WAIT,
    SUB_SECOND,
    WRITE_LIMIT,
    "tag",
];

const DEFAULT_PORT: u16 = 24224;
const INTERVALS_NS: std::ops::RangeInclusive<i64> = 100_000_000..=10_000_000_000;
/// How long an acknowledgement may take.
const ACK_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest acknowledgement.
const MAX_ACK_BYTES: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Tcp(String, u16),
    Tls(String, u16),
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parsed {
    target: Target,
    asynchronous: bool,
    reconnect_after: Option<Duration>,
    retry_wait: Duration,
    sub_second: bool,
    request_ack: bool,
    write_timeout: Duration,
}

pub(crate) fn check(options: Options<'_>) -> Result<(), Refused> {
    if let Some(name) = options.unknown(&[OPTIONS, ATTRIBUTES]) {
        return Err(Refused(format!(
            "unknown log opt '{name}' for fluentd log driver"
        )));
    }
    parse(options).map(drop)
}

fn parse(options: Options<'_>) -> Result<Parsed, Refused> {
    let given = |name| Some(options.get(name)).filter(|text| !text.is_empty());
    let text = options.get(ADDRESS);
    let target =
        target(text).map_err(|why| Refused(format!("invalid fluentd-address ({text}): {why}")))?;
    if let Some(text) = given(BUFFER_LIMIT) {
        // The buffer is the copy that the daemon keeps; its size has options of its own.
        gantry_logs::parse_size(text, 1024.0)?;
    }
    let retry_wait = given(RETRY_WAIT).map_or(Ok(1_000_000_000), go::parse_duration)?;
    if let Some(text) = given(MAX_RETRIES) {
        go::parse_uint(text, u64::MAX)?;
    }
    let asynchronous = options.truth(ASYNC)?;
    let reconnect_after = given(RECONNECT_INTERVAL).map(interval).transpose()?;
    let sub_second = options.truth(SUB_SECOND)?;
    let request_ack = options.truth(REQUEST_ACK)?;
    let write_timeout = given(WRITE_LIMIT).map_or(Ok(WRITE_TIMEOUT), write_limit)?;
    Ok(Parsed {
        target,
        asynchronous,
        reconnect_after,
        retry_wait: Duration::from_nanos(u64::try_from(retry_wait).unwrap_or(0)),
        sub_second,
        request_ack,
        write_timeout,
    })
}

fn interval(text: &str) -> Result<Duration, Refused> {
    let bad = |why: String| Refused(format!("invalid value for {RECONNECT_INTERVAL}: {why}"));
    let nanos = go::parse_duration(text).map_err(bad)?;
    if nanos != 0 && !INTERVALS_NS.contains(&nanos) {
        let shown = go::quoted(&go::duration_text(nanos));
        return Err(bad(format!(
            "value ({shown}) must be between 100ms and 10s"
        )));
    }
    Ok(Duration::from_nanos(nanos.unsigned_abs()))
}

fn write_limit(text: &str) -> Result<Duration, Refused> {
    let bad = |why: &str| {
        Refused(format!(
            "invalid value for {WRITE_LIMIT}: value must be a duration{why}"
        ))
    };
    let nanos = go::parse_duration(text).map_err(|why| bad(&format!(": {why}")))?;
    let nanos = u64::try_from(nanos).map_err(|_| bad(" that is non-negative"))?;
    // None would let a service that hangs keep its connection for ever.
    Ok(match nanos {
        0 => WRITE_TIMEOUT,
        nanos => Duration::from_nanos(nanos),
    })
}

fn target(text: &str) -> Result<Target, String> {
    let local = || "127.0.0.1".to_owned();
    if text.is_empty() {
        return Ok(Target::Tcp(local(), DEFAULT_PORT));
    }
    let url = if text.contains("://") {
        Url::parse(text)?
    } else {
        Url::parse(&format!("tcp://{text}"))?
    };
    match url.scheme.as_str() {
        "unix" if url.path.trim_start_matches('/').is_empty() => Err("path is empty".to_owned()),
        "unix" => Ok(Target::Unix(PathBuf::from(url.path))),
        "tcp" | "tls" if !url.path.is_empty() => {
            Err("should not contain a path element".to_owned())
        }
        scheme @ ("tcp" | "tls") => {
            let port = match url.port() {
                "" => DEFAULT_PORT,
                text => {
                    let port = go::parse_uint(text, 65535);
                    let port = port.map_err(|e| format!("invalid port: {e}"))?;
                    u16::try_from(port).unwrap_or_default()
                }
            };
            let host = match url.hostname() {
                "" => local(),
                host => host.to_owned(),
            };
            Ok(match scheme {
                "tcp" => Target::Tcp(host, port),
                _ => Target::Tls(host, port),
            })
        }
        scheme => Err(format!("unsupported scheme: '{scheme}'")),
    }
}

pub(crate) struct Fluentd {
    parsed: Parsed,
    conn: StreamConn,
    connected: Option<Instant>,
    tag: String,
    fields: Fields,
}

/// What every record says of its container.
struct Fields {
    /// The container's names, or what an attribute of that name says.
    fixed: BTreeMap<String, String>,
    sub_second: bool,
}

impl Fluentd {
    pub(crate) fn new(info: &LogInfo) -> Result<Fluentd, Refused> {
        let parsed = parse(Options(&info.options))?;
        let tag = info.tag(DEFAULT_TAG)?;
        let mut fixed = BTreeMap::from([
            ("container_id".to_owned(), info.id.clone()),
            ("container_name".to_owned(), format!("/{}", info.name)),
        ]);
        fixed.extend(info.attributes(str::to_owned)?);
        let address = match &parsed.target {
            Target::Tcp(host, port) => Address::Tcp(host.clone(), *port),
            Target::Unix(path) => Address::Unix(path.clone()),
            Target::Tls(host, port) => Address::Tls {
                host: host.clone(),
                port: *port,
                name: host.clone(),
                config: tls::client(&tls::Files::default())?,
            },
        };
        let fields = Fields {
            fixed,
            sub_second: parsed.sub_second,
        };
        Ok(Fluentd {
            conn: StreamConn::new(address, parsed.write_timeout),
            connected: None,
            tag,
            fields,
            parsed,
        })
    }

    /// Whether a service that is not there fails the start.
    pub(crate) fn connects_at_start(&self) -> bool {
        !self.parsed.asynchronous
    }

    pub(crate) fn first_wait(&self) -> Duration {
        self.parsed.retry_wait
    }

    pub(crate) async fn connect(&mut self) -> Result<(), SinkError> {
        let old = self.connected.zip(self.parsed.reconnect_after);
        if old.is_some_and(|(since, after)| !after.is_zero() && since.elapsed() > after) {
            self.conn.close();
            self.connected = None;
        }
        self.conn.get().await?;
        self.connected.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Whether the service says what it has taken.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.parsed.request_ack
    }

    pub(crate) async fn deliver(&mut self, todo: &mut Todo<'_>) -> Result<(), SinkError> {
        while !todo.left().is_empty() {
            self.connect().await?;
            let (out, taken, chunk) = self.encode(todo.left())?;
            let mut sent = self.conn.write(&out).await;
            if let (Ok(()), Some(chunk)) = (&sent, chunk) {
                sent = self.wait_for_ack(chunk.as_bytes()).await;
            }
            if sent.is_err() {
                self.conn.close();
                self.connected = None;
                return sent;
            }
            todo.took(taken);
        }
        Ok(())
    }

    /// Messages one by one as Docker's; with acknowledgements one message with many entries, so that each answer is for
    /// all of them. Gives how many records they are, and what the answer has to name.
    fn encode(&self, records: &[Record]) -> Result<(Vec<u8>, usize, Option<String>), SinkError> {
        let mut out = Vec::new();
        let mut taken = 0;
        if !self.parsed.request_ack {
            for record in records {
                if out.len() >= WRITE_BYTES {
                    break;
                }
                msgpack::array(&mut out, 4);
                msgpack::string(&mut out, self.tag.as_bytes());
                self.fields.time(&mut out, record);
                self.fields.encode(&mut out, record);
                msgpack::map(&mut out, 0);
                taken += 1;
            }
            return Ok((out, taken, None));
        }
        let mut entries = Vec::new();
        for record in records {
            if entries.len() >= WRITE_BYTES {
                break;
            }
            msgpack::array(&mut entries, 2);
            self.fields.time(&mut entries, record);
            self.fields.encode(&mut entries, record);
            taken += 1;
        }
        let mut name = [0u8; 16];
        getrandom::fill(&mut name).map_err(|e| SinkError::passing(e.to_string()))?;
        let chunk = base64::engine::general_purpose::STANDARD.encode(name);
        msgpack::array(&mut out, 3);
        msgpack::string(&mut out, self.tag.as_bytes());
        msgpack::array(&mut out, taken);
        out.extend_from_slice(&entries);
        msgpack::map(&mut out, 1);
        msgpack::string(&mut out, b"chunk");
        msgpack::string(&mut out, chunk.as_bytes());
        Ok((out, taken, Some(chunk)))
    }

    async fn wait_for_ack(&mut self, chunk: &[u8]) -> Result<(), SinkError> {
        let conn = self.conn.get().await?;
        let mut answer = Vec::new();
        loop {
            match read_ack(&answer) {
                Ack::Chunk(found, len) if found == chunk && len == answer.len() => return Ok(()),
                Ack::More if answer.len() < MAX_ACK_BYTES => {}
                _ => {
                    return Err(SinkError::passing(
                        "fluentd: the answer is not for what was sent",
                    ));
                }
            }
            let mut piece = [0u8; 512];
            let read = within(ACK_TIMEOUT, conn.read(&mut piece)).await;
            let read = read.map_err(|e| SinkError::io("read", &e))?;
            if read == 0 {
                return Err(SinkError::passing("read: EOF"));
            }
            answer.extend_from_slice(&piece[..read]);
        }
    }
}

impl Fields {
    fn time(&self, out: &mut Vec<u8>, record: &Record) {
        if self.sub_second {
            msgpack::event_time(out, record.time_ns);
        } else {
            msgpack::number(out, record.time_ns / 1_000_000_000);
        }
    }

    fn encode(&self, out: &mut Vec<u8>, record: &Record) {
        let source: &[u8] = match record.stream {
            Stream::Stdout => b"stdout",
            Stream::Stderr => b"stderr",
        };
        let mut own: Vec<(&str, Vec<u8>)> = Vec::new();
        // An attribute of the container wins over these two, as with Docker; what tells parts apart wins over all.
        if !self.fixed.contains_key("source") {
            own.push(("source", source.to_vec()));
        }
        if !self.fixed.contains_key("log") {
            own.push(("log", record.bytes.to_vec()));
        }
        if let Some(part) = record.partial {
            own.push(("partial_message", b"true".to_vec()));
            own.push(("partial_id", record.partial_id().into_bytes()));
            own.push(("partial_ordinal", part.ordinal.to_string().into_bytes()));
            own.push(("partial_last", part.last.to_string().into_bytes()));
        }
        let fixed = || {
            let others = self.fixed.iter();
            others.filter(|(name, _)| own.iter().all(|(o, _)| *o != name.as_str()))
        };
        msgpack::map(out, fixed().count() + own.len());
        for (name, value) in fixed() {
            msgpack::string(out, name.as_bytes());
            msgpack::string(out, value.as_bytes());
        }
        for (name, value) in &own {
            msgpack::string(out, name.as_bytes());
            msgpack::string(out, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{options, record, refused};

    fn bad(pairs: &[(&str, &str)]) -> String {
        refused(check(Options(&options(pairs))))
    }

    #[test]
    fn addresses_as_dockerd() {
        let tcp = |host: &str, port| Ok(Target::Tcp(host.to_owned(), port));
        assert_eq!(target(""), tcp("127.0.0.1", 24224));
        assert_eq!(target("tcp://:1"), tcp("127.0.0.1", 1));
        assert_eq!(target("foo"), tcp("foo", 24224));
        assert_eq!(target("unix://foo/bar"), Ok(Target::Unix("/bar".into())));
        for (address, why) in [
            (
                "foo:abc",
                "parse \"tcp://foo:abc\": invalid port \":abc\" after host",
            ),
            ("udp://127.0.0.1:1", "unsupported scheme: 'udp'"),
            ("unix://", "path is empty"),
            ("tcp://127.0.0.1:1/x", "should not contain a path element"),
            ("tcp://[::1", "parse \"tcp://[::1\": missing ']' in host"),
            (
                "127.0.0.1:99999",
                "invalid port: strconv.ParseUint: parsing \"99999\": value out of range",
            ),
        ] {
            assert_eq!(
                bad(&[(ADDRESS, address)]),
                format!("invalid fluentd-address ({address}): {why}")
            );
        }
    }

    #[test]
    fn options_as_dockerd() {
        assert_eq!(
            bad(&[("fluentd-async-connect", "true")]),
            "unknown log opt 'fluentd-async-connect' for fluentd log driver"
        );
        assert_eq!(bad(&[(BUFFER_LIMIT, "-1")]), "invalid size: '-1'");
        assert_eq!(bad(&[(RETRY_WAIT, "x")]), "time: invalid duration \"x\"");
        assert_eq!(
            bad(&[(MAX_RETRIES, "-1")]),
            "strconv.ParseUint: parsing \"-1\": invalid syntax"
        );
        let interval = "invalid value for fluentd-async-reconnect-interval: ";
        assert_eq!(
            bad(&[(RECONNECT_INTERVAL, "1h")]),
            format!("{interval}value (\"1h0m0s\") must be between 100ms and 10s")
        );
        assert_eq!(
            bad(&[(WRITE_LIMIT, "-1s")]),
            "invalid value for fluentd-write-timeout: value must be a duration that is non-negative"
        );
        assert_eq!(
            bad(&[(WRITE_LIMIT, "x")]),
            "invalid value for fluentd-write-timeout: value must be a duration: time: invalid duration \"x\""
        );
    }

    #[test]
    fn messages() {
        let info = LogInfo {
            options: options(&[("tag", "t"), ("labels", "source")]),
            id: "i".to_owned(),
            name: "n".to_owned(),
            labels: options(&[("source", "label")]),
            ..LogInfo::default()
        };
        let fluentd = Fluentd::new(&info).unwrap();
        let record = record(
            1_795_613_221_000_000_000,
            Stream::Stdout,
            b"\xff".as_slice(),
        );
        let (out, taken, chunk) = fluentd.encode(&[record]).unwrap();
        assert_eq!((taken, chunk), (1, None));
        let mut expected = b"\x94\xa1t\xd2\x6b\x06\xe2\x25\x84".to_vec();
        expected.extend_from_slice(b"\xaccontainer_id\xa1i\xaecontainer_name\xa2/n");
        expected.extend_from_slice(b"\xa6source\xa5label\xa3log\xa1\xff\x80");
        assert_eq!(out, expected);
    }
}
