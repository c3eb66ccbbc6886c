//! Graylog's format: JSON over UDP, compressed and in chunks, or over TCP, each message ended by a null byte.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use gantry_logs::{DEFAULT_TAG, LogInfo, Record};
use gantry_stream::Stream;
use serde_json::Value;

use crate::error::{Refused, SinkError};
use crate::go::{self, Url, split_host_port};
use crate::link::{Link, Socket};
use crate::net::{Address, StreamConn, WRITE_TIMEOUT};
use crate::options::{ATTRIBUTES, Options};
use crate::sink::{Todo, hostname, text_time};

const ADDRESS: &str = "gelf-address";
const COMPRESSION_TYPE: &str = "gelf-compression-type";
const COMPRESSION_LEVEL: &str = "gelf-compression-level";
const MAX_RECONNECT: &str = "gelf-tcp-max-reconnect";
const RECONNECT_DELAY: &str = "gelf-tcp-reconnect-delay";
const TAG: &[&str] = &["tag"];

/// A datagram, the chunk's header included.
const CHUNK_BYTES: usize = 1420;
const CHUNK_HEAD_BYTES: usize = 12;
const MAX_CHUNKS: usize = 128;
/// The wait before a connection is tried again, without the option.
const DEFAULT_DELAY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip(u32),
    Zlib(u32),
    Plain,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parsed {
    tcp: bool,
    host: String,
    port: u16,
    packing: Packing,
    delay: Duration,
}

pub(crate) fn check(options: Options<'_>) -> Result<(), Refused> {
    parse(options).map(drop)
}

fn parse(options: Options<'_>) -> Result<Parsed, Refused> {
    let (tcp, host, port) = address(options.get(ADDRESS))?;
    let known = [
        ADDRESS,
        COMPRESSION_TYPE,
        COMPRESSION_LEVEL,
        MAX_RECONNECT,
        RECONNECT_DELAY,
    ];
    if let Some(name) = options.unknown(&[&known, TAG, ATTRIBUTES]) {
        let name = go::quoted(name);
        return Err(Refused(format!(
            "unknown log opt {name} for gelf log driver"
        )));
    }
    let compressed = [COMPRESSION_LEVEL, COMPRESSION_TYPE];
    if tcp && compressed.iter().any(|name| options.find(name).is_some()) {
        return Err("compression is only supported on UDP".into());
    }
    let bad = |name: &str, value: &str| {
        let (name, value) = (go::quoted(name), go::quoted(value));
        Refused(format!(
            "unknown value {value} for log opt {name} for gelf log driver"
        ))
    };
    let level = match options.find(COMPRESSION_LEVEL) {
        None => 1,
        Some(text) => match text.parse::<i32>() {
            Ok(-1) => Compression::default().level(),
            Ok(level @ 0..=9) => level.unsigned_abs(),
            _ => return Err(bad(COMPRESSION_LEVEL, text)),
        },
    };
    let packing = match options.find(COMPRESSION_TYPE) {
        None | Some("gzip") => Packing::Gzip(level),
        Some("zlib") => Packing::Zlib(level),
        Some("none") => Packing::Plain,
        Some(other) => return Err(bad(COMPRESSION_TYPE, other)),
    };
    let seconds = |name: &str| -> Result<Option<u64>, Refused> {
        let Some(text) = options.find(name) else {
            return Ok(None);
        };
        if !tcp {
            return Err(Refused(format!(
                "{} is only valid for TCP",
                go::quoted(name)
            )));
        }
        let number = text.parse::<i32>().ok().and_then(|n| u64::try_from(n).ok());
        let bad = || Refused(format!("{} must be a positive integer", go::quoted(name)));
        number.map(Some).ok_or_else(bad)
    };
    // How often is not asked: a record is tried until the copy it comes from has rotated it away.
    seconds(MAX_RECONNECT)?;
    let delay = seconds(RECONNECT_DELAY)?.map_or(DEFAULT_DELAY, Duration::from_secs);
    Ok(Parsed {
        tcp,
        host,
        port,
        packing,
        delay,
    })
}

fn address(text: &str) -> Result<(bool, String, u16), Refused> {
    if text.is_empty() {
        return Err("gelf-address is a required parameter".into());
    }
    let url = Url::parse(text)?;
    let tcp = match url.scheme.as_str() {
        "tcp" => true,
        "udp" => false,
        _ => return Err("gelf: endpoint needs to be TCP or UDP".into()),
    };
    let (host, port) = split_host_port(&url.host)
        .map_err(|_| Refused::from("gelf: please provide gelf-address as proto://host:port"))?;
    let port = go::parse_uint(port, 65535)?;
    Ok((
        tcp,
        host.to_owned(),
        u16::try_from(port).unwrap_or_default(),
    ))
}

pub(crate) struct Gelf {
    parsed: Parsed,
    link: Link,
    hostname: String,
    /// The fields that all messages have, as JSON without the braces.
    extra: String,
}

impl Gelf {
    pub(crate) fn new(info: &LogInfo) -> Result<Gelf, Refused> {
        let parsed = parse(Options(&info.options))?;
        let mut extra: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in [
            ("_container_id", info.id.clone()),
            ("_container_name", info.name.clone()),
            ("_image_id", info.image_id.clone()),
            ("_image_name", info.image_name.clone()),
            ("_command", info.command()),
            ("_tag", info.tag(DEFAULT_TAG)?),
            (
                "_created",
                text_time(u64::try_from(info.created_unix_ns).unwrap_or(0)),
            ),
        ] {
            extra.insert(name.to_owned(), value);
        }
        extra.extend(info.attributes(|name| {
            let underscored = name.starts_with('_');
            format!("{}{name}", if underscored { "" } else { "_" })
        })?);
        let extra: String = extra
            .into_iter()
            .map(|(k, v)| format!(",{}:{}", Value::from(k), Value::from(v)))
            .collect();
        let (host, port) = (parsed.host.clone(), parsed.port);
        let link = match parsed.tcp {
            true => Link::stream(StreamConn::new(Address::Tcp(host, port), WRITE_TIMEOUT)),
            false => Link::datagrams(Socket::Udp(host, port)),
        };
        Ok(Gelf {
            parsed,
            link,
            hostname: Value::from(hostname()).to_string(),
            extra,
        })
    }

    pub(crate) async fn connect(&mut self) -> Result<(), SinkError> {
        let made = self.link.connect().await;
        made.map_err(|e| {
            let (host, port) = (&self.parsed.host, self.parsed.port);
            let text = format!("gelf: cannot connect to GELF endpoint: {host}:{port} {e}");
            SinkError::passing(text)
        })
    }

    /// The wait before a failed connection is tried again.
    pub(crate) fn first_wait(&self) -> Duration {
        self.parsed.delay
    }

    pub(crate) async fn deliver(&mut self, todo: &mut Todo<'_>) -> Result<(), SinkError> {
        self.connect().await?;
        let (hostname, extra, parsed) = (&self.hostname, &self.extra, &self.parsed);
        let encode = |out: &mut Vec<u8>, record: &Record| {
            if encode(out, record, hostname, extra) && parsed.tcp {
                out.push(0);
            }
        };
        let datagrams = |message: Vec<u8>| {
            let packed = pack(&message, parsed.packing);
            let packed = packed.map_err(|e| SinkError::permanent(e.to_string(), 1))?;
            let mut name = [0u8; 8];
            getrandom::fill(&mut name).map_err(|e| SinkError::passing(e.to_string()))?;
            chunks(&packed, name)
        };
        let sent = self.link.deliver(todo, encode, datagrams).await;
        sent.map_err(|e| SinkError {
            text: format!("gelf: cannot send GELF message: {e}"),
            ..e
        })
    }
}

/// Appends a message; none for an empty line, as Docker.
fn encode(out: &mut Vec<u8>, record: &Record, hostname: &str, extra: &str) -> bool {
    if record.bytes.is_empty() {
        return false;
    }
    let level = match record.stream {
        Stream::Stdout => 6,
        Stream::Stderr => 3,
    };
    let text = Value::from(String::from_utf8_lossy(&record.bytes));
    let millis = record.time_ns / 1_000_000;
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let message = format!(
        "{{\"version\":\"1.1\",\"host\":{hostname},\"short_message\":{text},\
         \"timestamp\":{seconds}.{millis:03},\"level\":{level}{extra}}}"
    );
    out.extend_from_slice(message.as_bytes());
    true
}

fn pack(message: &[u8], packing: Packing) -> std::io::Result<Vec<u8>> {
    match packing {
        Packing::Plain => Ok(message.to_vec()),
        Packing::Gzip(level) => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), Compression::new(level));
            out.write_all(message)?;
            out.finish()
        }
        Packing::Zlib(level) => {
            let mut out = flate2::write::ZlibEncoder::new(Vec::new(), Compression::new(level));
            out.write_all(message)?;
            out.finish()
        }
    }
}

/// The datagrams of a message: itself, or chunks that name it by eight bytes.
fn chunks(message: &[u8], name: [u8; 8]) -> Result<Vec<Vec<u8>>, SinkError> {
    if message.len() <= CHUNK_BYTES {
        return Ok(vec![message.to_vec()]);
    }
    let pieces: Vec<&[u8]> = message.chunks(CHUNK_BYTES - CHUNK_HEAD_BYTES).collect();
    let count = match u8::try_from(pieces.len()) {
        Ok(count) if pieces.len() <= MAX_CHUNKS => count,
        _ => {
            let text = format!("msg too large, would need {} chunks", pieces.len());
            return Err(SinkError::permanent(text, 1));
        }
    };
    let numbered = (0..count).zip(pieces);
    Ok(numbered
        .map(|(number, piece)| {
            let mut out = vec![0x1e, 0x0f];
            out.extend_from_slice(&name);
            out.extend_from_slice(&[number, count]);
            out.extend_from_slice(piece);
            out
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::testing::{options, record, refused};

    #[test]
    fn options_as_dockerd() {
        let bad = |o: &[(&str, &str)]| refused(parse(Options(&options(o))));
        let udp = (ADDRESS, "udp://127.0.0.1:1");
        let tcp = (ADDRESS, "tcp://127.0.0.1:1");
        assert_eq!(
            bad(&[("bogus", "1")]),
            "gelf-address is a required parameter"
        );
        assert_eq!(
            bad(&[(ADDRESS, "foo:1")]),
            "gelf: endpoint needs to be TCP or UDP"
        );
        let no_port = "gelf: please provide gelf-address as proto://host:port";
        assert_eq!(bad(&[(ADDRESS, "udp://127.0.0.1")]), no_port);
        assert_eq!(
            bad(&[udp, ("bogus", "1")]),
            "unknown log opt \"bogus\" for gelf log driver"
        );
        assert_eq!(
            bad(&[tcp, (COMPRESSION_LEVEL, "x")]),
            "compression is only supported on UDP"
        );
        assert_eq!(
            bad(&[udp, (COMPRESSION_LEVEL, "10")]),
            "unknown value \"10\" for log opt \"gelf-compression-level\" for gelf log driver"
        );
        assert_eq!(
            bad(&[udp, (MAX_RECONNECT, "3")]),
            "\"gelf-tcp-max-reconnect\" is only valid for TCP"
        );
        assert_eq!(
            bad(&[tcp, (RECONNECT_DELAY, "-1")]),
            "\"gelf-tcp-reconnect-delay\" must be a positive integer"
        );
        let parsed = parse(Options(&options(&[udp, (COMPRESSION_TYPE, "zlib")]))).unwrap();
        assert_eq!(parsed.packing, Packing::Zlib(1));
    }

    #[test]
    fn a_message_is_json_with_the_containers_fields() {
        let info = LogInfo {
            options: options(&[(ADDRESS, "tcp://h:1"), ("labels", "a,_b")]),
            id: "0123456789abcdef".to_owned(),
            name: "n".to_owned(),
            labels: options(&[("a", "1"), ("_b", "2")]),
            ..LogInfo::default()
        };
        let gelf = Gelf::new(&info).unwrap();
        let record = record(
            1_795_613_214_147_999_999,
            Stream::Stderr,
            b"a\t\"\xff".as_slice(),
        );
        let mut out = Vec::new();
        assert!(encode(&mut out, &record, &gelf.hostname, &gelf.extra));
        let json: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["short_message"], "a\t\"\u{fffd}");
        assert_eq!(json["timestamp"].to_string(), "1795613214.147");
        assert_eq!(
            (&json["level"], &json["version"]),
            (&3.into(), &"1.1".into())
        );
        assert_eq!((&json["_a"], &json["_b"]), (&"1".into(), &"2".into()));
        assert_eq!(json["_tag"], "0123456789ab");
    }

    #[test]
    fn packed_and_chunked_messages_come_back() {
        let message: Vec<u8> = (0..20_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let name = [7; 8];
        let datagrams = chunks(&message, name).unwrap();
        assert!(datagrams.iter().all(|d| d.len() <= CHUNK_BYTES));
        let mut back = Vec::new();
        for (i, datagram) in datagrams.iter().enumerate() {
            assert_eq!(datagram[..2], [0x1e, 0x0f]);
            assert_eq!(datagram[2..10], name);
            assert_eq!(datagram[10..12], [i as u8, datagrams.len() as u8]);
            back.extend_from_slice(&datagram[12..]);
        }
        assert_eq!(back, message);
        assert!(chunks(&vec![0; 129 * 1408], name).unwrap_err().skip == 1);
        let mut plain = Vec::new();
        let packed = pack(&message, Packing::Gzip(1)).unwrap();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_end(&mut plain)
            .unwrap();
        assert_eq!(plain, message);
    }
}
