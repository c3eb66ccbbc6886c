//! syslog: RFC 3164 and RFC 5424 over datagrams, streams and TLS.

use std::path::{Path, PathBuf};

use gantry_logs::{DEFAULT_TAG, LogInfo, Record};
use gantry_stream::Stream;
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use crate::error::{Refused, SinkError};
use crate::go::{self, Url, split_host_port};
use crate::link::{Link, Socket};
use crate::net::{Address, StreamConn, WRITE_TIMEOUT};
use crate::options::{ATTRIBUTES, Options};
use crate::sink::{Todo, hostname};
use crate::tls;

const OPTIONS: &[&str] = &[
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
    "tag",
];

const FACILITIES: &[(&str, u8)] = &[
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// Where the local syslog may listen.
const LOCAL: &[&str] = &["/dev/log", "/var/run/syslog", "/var/run/log"];

const ERR: u8 = 3;
const INFO: u8 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// RFC 3164 without a host: what the local syslog expects, and Docker's default for every address.
    Local,
    Rfc3164,
    Rfc5424,
    Rfc5424Micro,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Local,
    Udp(String, u16),
    Tcp(String, u16),
    Tls(String, u16),
    Unix(PathBuf),
    Unixgram(PathBuf),
}

pub(crate) fn check(options: Options<'_>) -> Result<(), Refused> {
    if let Some(name) = options.unknown(&[OPTIONS, ATTRIBUTES]) {
        return Err(Refused(format!(
            "unknown log opt '{name}' for syslog log driver"
        )));
    }
    target(options.get("syslog-address"))?;
    facility(options.get("syslog-facility"))?;
    format(options.get("syslog-format")).map(drop)
}

fn target(address: &str) -> Result<Target, Refused> {
    if address.is_empty() {
        return Ok(Target::Local);
    }
    let url = Url::parse(address)?;
    match url.scheme.as_str() {
        "unix" | "unixgram" => {
            let path = PathBuf::from(&url.path);
            // A look at it, as Docker takes one; whether anybody listens is found out later.
            std::fs::metadata(&path).map_err(|e| {
                Refused(format!(
                    "stat {}: {}",
                    url.path,
                    crate::error::errno_text(&e)
                ))
            })?;
            Ok(if url.scheme == "unix" {
                Target::Unix(path)
            } else {
                Target::Unixgram(path)
            })
        }
        "udp" | "tcp" | "tcp+tls" => {
            let (host, port) = match split_host_port(&url.host) {
                Ok((host, port)) => (host, port),
                Err(e) if e.contains("missing port") => (url.hostname(), "514"),
                Err(e) => return Err(Refused(e)),
            };
            let port = go::parse_uint(port, 65535)?;
            let port = u16::try_from(port).unwrap_or_default();
            Ok(match url.scheme.as_str() {
                "udp" => Target::Udp(host.to_owned(), port),
                "tcp" => Target::Tcp(host.to_owned(), port),
                _ => Target::Tls(host.to_owned(), port),
            })
        }
        scheme => Err(Refused(format!("unsupported scheme: '{scheme}'"))),
    }
}

fn facility(text: &str) -> Result<u8, Refused> {
    if text.is_empty() {
        return Ok(3);
    }
    let named = FACILITIES.iter().find(|(name, _)| *name == text);
    let number = || text.parse().ok().filter(|n: &u8| *n <= 23);
    named
        .map(|(_, n)| *n)
        .or_else(number)
        .ok_or_else(|| "invalid syslog facility".into())
}

fn format(text: &str) -> Result<Format, Refused> {
    match text {
        "" => Ok(Format::Local),
        "rfc3164" => Ok(Format::Rfc3164),
        "rfc5424" => Ok(Format::Rfc5424),
        "rfc5424micro" => Ok(Format::Rfc5424Micro),
        _ => Err("Invalid syslog format".into()),
    }
}

pub(crate) struct Syslog {
    /// `None`: the local syslog, not looked for yet.
    link: Option<Link>,
    encoder: Encoder,
}

struct Encoder {
    format: Format,
    /// The facility, times eight.
    facility: u8,
    tag: String,
    hostname: String,
    zone: TimeZone,
    /// Messages are counted, not only ended by a newline (RFC 5425).
    counted: bool,
}

impl Syslog {
    /// Reads the certificates, if there are any.
    pub(crate) fn new(info: &LogInfo) -> Result<Syslog, Refused> {
        let options = Options(&info.options);
        let tag = info.tag(DEFAULT_TAG)?;
        let target = target(options.get("syslog-address"))?;
        let format = format(options.get("syslog-format"))?;
        let encoder = Encoder {
            format,
            facility: facility(options.get("syslog-facility"))? * 8,
            tag,
            hostname: hostname(),
            zone: TimeZone::system(),
            counted: matches!(target, Target::Tls(..))
                && matches!(format, Format::Rfc5424 | Format::Rfc5424Micro),
        };
        let stream = |address| Link::stream(StreamConn::new(address, WRITE_TIMEOUT));
        let link = match target {
            Target::Local => None,
            Target::Udp(host, port) => Some(Link::datagrams(Socket::Udp(host, port))),
            Target::Unixgram(path) => Some(Link::datagrams(Socket::Unix(path))),
            Target::Tcp(host, port) => Some(stream(Address::Tcp(host, port))),
            Target::Unix(path) => Some(stream(Address::Unix(path))),
            Target::Tls(host, port) => Some(stream(Address::Tls {
                config: tls::client(&tls::Files {
                    ca: options.get("syslog-tls-ca-cert"),
                    machine: true,
                    cert: options.get("syslog-tls-cert"),
                    key: options.get("syslog-tls-key"),
                    skip_verify: options.find("syslog-tls-skip-verify").is_some(),
                })?,
                name: host.clone(),
                host,
                port,
            })),
        };
        Ok(Syslog { link, encoder })
    }

    pub(crate) async fn connect(&mut self) -> Result<(), SinkError> {
        self.link().await.map(drop)
    }

    async fn link(&mut self) -> Result<&mut Link, SinkError> {
        let link = match &mut self.link {
            Some(link) => link,
            none => none.insert(local().await?),
        };
        link.connect().await?;
        Ok(link)
    }

    pub(crate) async fn deliver(&mut self, todo: &mut Todo<'_>) -> Result<(), SinkError> {
        self.link().await?;
        let Some(link) = &mut self.link else {
            return Err(SinkError::passing("no connection"));
        };
        let encode = |out: &mut Vec<u8>, record: &Record| self.encoder.encode(out, record);
        link.deliver(todo, encode, |message| Ok(vec![message]))
            .await
    }
}

/// The first socket of the local syslog that takes a connection.
async fn local() -> Result<Link, SinkError> {
    for path in LOCAL.iter().map(Path::new) {
        let mut link = Link::datagrams(Socket::Unix(path.to_owned()));
        if link.connect().await.is_ok() {
            return Ok(link);
        }
        // A socket that is there and is none for datagrams.
        let conn = StreamConn::new(Address::Unix(path.to_owned()), WRITE_TIMEOUT);
        let mut link = Link::stream(conn);
        if link.connect().await.is_ok() {
            return Ok(link);
        }
    }
    Err(SinkError::passing("Unix syslog delivery error"))
}

impl Encoder {
    /// Appends a message; nothing for an empty line, as Docker.
    fn encode(&self, out: &mut Vec<u8>, record: &Record) {
        if record.bytes.is_empty() {
            return;
        }
        let severity = match record.stream {
            Stream::Stdout => INFO,
            Stream::Stderr => ERR,
        };
        let pid = std::process::id();
        let (tag, host) = (&self.tag, &self.hostname);
        let priority = self.facility + severity;
        let time = self.time(record.time_ns);
        let head = match self.format {
            Format::Local => format!("<{priority}>{time} {tag}[{pid}]: "),
            Format::Rfc3164 => format!("<{priority}>{time} {host} {tag}[{pid}]: "),
            Format::Rfc5424 | Format::Rfc5424Micro => {
                format!("<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
            }
        };
        if self.counted {
            let len = head.len() + record.bytes.len() + 1;
            out.extend_from_slice(format!("{len} ").as_bytes());
        }
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&record.bytes);
        out.push(b'\n');
    }

    /// The time in the machine's zone.
    fn time(&self, unix_ns: u64) -> String {
        let time = Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or_default();
        let local = time.to_zoned(self.zone.clone());
        let zone = match local.offset() {
            Offset::UTC => "Z".to_owned(),
            _ => local.strftime("%:z").to_string(),
        };
        match self.format {
            Format::Local | Format::Rfc3164 => local.strftime("%b %e %H:%M:%S").to_string(),
            Format::Rfc5424 => format!("{}{zone}", local.strftime("%Y-%m-%dT%H:%M:%S")),
            Format::Rfc5424Micro => format!("{}{zone}", local.strftime("%Y-%m-%dT%H:%M:%S.%6f")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{options, record, refused};

    #[test]
    fn addresses() {
        let udp = |host: &str, port| Ok(Target::Udp(host.to_owned(), port));
        assert_eq!(target("udp://127.0.0.1"), udp("127.0.0.1", 514));
        assert_eq!(target("UDP://[::1]:1"), udp("::1", 1));
        assert_eq!(target(""), Ok(Target::Local));
        assert_eq!(refused(target("foo:514")), "unsupported scheme: 'foo'");
        assert_eq!(refused(target("foo")), "unsupported scheme: ''");
        let nope = "stat /nope: no such file or directory";
        assert_eq!(refused(target("unixgram:///nope")), nope);
        assert_eq!(target("unix:///tmp"), Ok(Target::Unix("/tmp".into())));
    }

    #[test]
    fn options_as_dockerd() {
        let bad = |o: &[(&str, &str)]| refused(check(Options(&options(o))));
        assert_eq!(
            bad(&[("bogus", "1")]),
            "unknown log opt 'bogus' for syslog log driver"
        );
        assert_eq!(bad(&[("syslog-facility", "24")]), "invalid syslog facility");
        assert_eq!(bad(&[("syslog-facility", "-1")]), "invalid syslog facility");
        assert_eq!(bad(&[("syslog-format", "x")]), "Invalid syslog format");
        let fine = options(&[
            ("syslog-facility", "local7"),
            ("env", "a"),
            ("cache-max-size", "1m"),
        ]);
        assert_eq!(check(Options(&fine)), Ok(()));
    }

    fn encode(format: Format, counted: bool, line: &str, stream: Stream) -> String {
        let encoder = Encoder {
            format,
            facility: 19 * 8,
            tag: "t".to_owned(),
            hostname: "h".to_owned(),
            zone: TimeZone::UTC,
            counted,
        };
        let mut out = Vec::new();
        encoder.encode(&mut out, &record(1_795_613_285_331_814_000, stream, line));
        let pid = std::process::id().to_string();
        String::from_utf8(out).unwrap().replace(&pid, "PID")
    }

    #[test]
    fn messages_as_dockerd() {
        let (out, err) = (Stream::Stdout, Stream::Stderr);
        assert_eq!(
            encode(Format::Local, false, "a", out),
            "<158>Nov 25 13:28:05 t[PID]: a\n"
        );
        assert_eq!(
            encode(Format::Rfc3164, false, "a", err),
            "<155>Nov 25 13:28:05 h t[PID]: a\n"
        );
        assert_eq!(
            encode(Format::Rfc5424, false, "a", out),
            "<158>1 2026-11-25T13:28:05Z h t PID t - a\n"
        );
        let micro = "<158>1 2026-11-25T13:28:05.331814Z h t PID t - a\n";
        assert_eq!(encode(Format::Rfc5424Micro, false, "a", out), micro);
        let counted = encode(Format::Rfc5424, true, "a", out);
        let (len, rest) = counted.split_once(' ').unwrap();
        let pid_len = std::process::id().to_string().len();
        assert_eq!(len, (rest.len() - 3 + pid_len).to_string());
        assert_eq!(encode(Format::Local, false, "", out), "");
    }
}
