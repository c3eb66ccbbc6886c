//! What clients know of Go: its readings of numbers, truths, spans and addresses, with its words for what is wrong.

/// Text in Go's quotes.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn syntax(function: &str, text: &str, numeric: Numeric) -> String {
    let why = match numeric {
        Numeric::Wrong => "invalid syntax",
        Numeric::TooLarge => "value out of range",
    };
    format!("strconv.{function}: parsing {}: {why}", quoted(text))
}

enum Numeric {
    Wrong,
    TooLarge,
}

fn digits(text: &str, signed: bool) -> bool {
    let text = match signed {
        true => text.strip_prefix(['-', '+']).unwrap_or(text),
        false => text,
    };
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(syntax("ParseBool", text, Numeric::Wrong)),
    }
}

/// `strconv.Atoi` and `ParseInt`, by name.
pub(crate) fn parse_int(function: &str, text: &str) -> Result<i64, String> {
    if !digits(text, true) {
        return Err(syntax(function, text, Numeric::Wrong));
    }
    let number = text.parse();
    number.map_err(|_| syntax(function, text, Numeric::TooLarge))
}

/// `strconv.ParseUint` up to `max`.
pub(crate) fn parse_uint(text: &str, max: u64) -> Result<u64, String> {
    if !digits(text, false) {
        return Err(syntax("ParseUint", text, Numeric::Wrong));
    }
    let number = text.parse().ok().filter(|n| *n <= max);
    number.ok_or_else(|| syntax("ParseUint", text, Numeric::TooLarge))
}

/// `time.ParseDuration`, in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    gantry_logs::time::parse_go_duration(text)
        .and_then(|nanos| i64::try_from(nanos).ok())
        .ok_or_else(|| bad_duration(text))
}

fn bad_duration(text: &str) -> String {
    let whole = quoted(text);
    let number = |c: char| c.is_ascii_digit() || c == '.';
    let unit = text
        .trim_start_matches(['-', '+'])
        .trim_start_matches(number)
        .split(number)
        .next()
        .unwrap_or_default();
    if !text.starts_with(|c| number(c) || c == '-' || c == '+') {
        format!("time: invalid duration {whole}")
    } else if unit.is_empty() && text.ends_with(number) {
        format!("time: missing unit in duration {whole}")
    } else if !["ns", "us", "µs", "ms", "s", "m", "h", ""].contains(&unit) {
        format!("time: unknown unit {} in duration {whole}", quoted(unit))
    } else {
        format!("time: invalid duration {whole}")
    }
}

/// Go's text of a span.
pub(crate) fn duration_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64, name: &str| {
        let text = format!(
            "{}.{:09}",
            value / unit,
            value % unit * (1_000_000_000 / unit)
        );
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text}{name}")
    };
    let text = match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => fraction(n, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(n, 1_000_000, "ms"),
        _ => {
            let minutes = n / 60_000_000_000;
            let seconds = fraction(n % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

/// The parts of a URL, as `net/url` takes it apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Url {
    /// Lower case.
    pub(crate) scheme: String,
    /// `name:password`, if there is an `@`.
    pub(crate) user: Option<String>,
    /// With the port.
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) fragment: String,
}

impl Url {
    /// `url.Parse`.
    pub(crate) fn parse(text: &str) -> Result<Url, String> {
        let bad = |why: &str| format!("parse {}: {why}", quoted(text));
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err(bad("net/url: invalid control character in URL"));
        }
        let mut url = Url::default();
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        url.fragment = fragment.to_owned();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        url.query = query.to_owned();
        let mut rest = rest;
        if let Some((scheme, after)) = rest.split_once(':')
            && !scheme.contains('/')
        {
            let mut letters = scheme.bytes();
            match letters.next() {
                None => return Err(bad("missing protocol scheme")),
                Some(first) if first.is_ascii_alphabetic() => {
                    if letters.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
                        url.scheme = scheme.to_ascii_lowercase();
                        rest = after;
                    }
                }
                Some(_) => return Err(bad("first path segment in URL cannot contain colon")),
            }
        }
        let Some(authority) = rest.strip_prefix("//") else {
            url.path = rest.to_owned();
            return Ok(url);
        };
        let slash = authority.find('/').unwrap_or(authority.len());
        let (authority, path) = authority.split_at(slash);
        url.path = path.to_owned();
        let host = match authority.rsplit_once('@') {
            Some((user, host)) => {
                url.user = Some(user.to_owned());
                host
            }
            None => authority,
        };
        check_host(host).map_err(|why| bad(&why))?;
        url.host = host.to_owned();
        Ok(url)
    }

    /// The host without port and brackets.
    pub(crate) fn hostname(&self) -> &str {
        match split_host_port(&self.host) {
            Ok((host, _)) => host,
            Err(_) => self.host.trim_start_matches('[').trim_end_matches(']'),
        }
    }

    /// The port; empty without one.
    pub(crate) fn port(&self) -> &str {
        split_host_port(&self.host).map_or("", |(_, port)| port)
    }
}

fn check_host(host: &str) -> Result<(), String> {
    let port = if host.starts_with('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        &host[end + 1..]
    } else {
        host.rfind(':').map_or("", |at| &host[at..])
    };
    let digits = port.strip_prefix(':');
    let fine = port.is_empty() || digits.is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit()));
    if !fine {
        return Err(format!("invalid port {} after host", quoted(port)));
    }
    if let Some(bad) = host.chars().find(|c| " <>\"\\^`{|}".contains(*c)) {
        return Err(format!(
            "invalid character {} in host name",
            quoted(&bad.to_string())
        ));
    }
    Ok(())
}

/// `net.SplitHostPort`; the error is Go's words after the address.
pub(crate) fn split_host_port(text: &str) -> Result<(&str, &str), String> {
    let err = |why: &str| format!("address {text}: {why}");
    if let Some(inner) = text.strip_prefix('[') {
        let (host, after) = inner
            .split_once(']')
            .ok_or_else(|| err("missing ']' in address"))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None => Err(err("missing port in address")),
        };
    }
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| err("missing port in address"))?;
    if host.contains(':') {
        return Err(err("too many colons in address"));
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        assert_eq!(parse_duration("1h2m3.5s"), Ok(3_723_500_000_000));
        assert_eq!(parse_duration("-1s"), Ok(-1_000_000_000));
        assert_eq!(parse_duration("0"), Ok(0));
        let bad = |t| parse_duration(t).unwrap_err();
        assert_eq!(bad("x"), "time: invalid duration \"x\"");
        assert_eq!(bad(""), "time: invalid duration \"\"");
        assert_eq!(bad("5"), "time: missing unit in duration \"5\"");
        assert_eq!(bad("5x"), "time: unknown unit \"x\" in duration \"5x\"");
        for (nanos, text) in [
            (3_600_000_000_000, "1h0m0s"),
            (11_000_000_000, "11s"),
            (1_500_000_000, "1.5s"),
            (1_000_000, "1ms"),
            (1_500, "1.5µs"),
            (90_000_000_000, "1m30s"),
        ] {
            assert_eq!(duration_text(nanos), text);
        }
    }

    #[test]
    fn numbers() {
        let bad = "strconv.ParseUint: parsing \"99999\": value out of range";
        assert_eq!(parse_uint("99999", 65535), Err(bad.to_owned()));
        assert_eq!(parse_int("Atoi", "-7"), Ok(-7));
        let bad = "strconv.Atoi: parsing \"\": invalid syntax";
        assert_eq!(parse_int("Atoi", ""), Err(bad.to_owned()));
        let bad = "strconv.ParseUint: parsing \"-1\": invalid syntax";
        assert_eq!(parse_uint("-1", 9), Err(bad.to_owned()));
    }

    #[test]
    fn urls() {
        let url = Url::parse("TCP://u:p@[::1]:5/x?q#f").unwrap();
        assert_eq!(url.scheme, "tcp");
        assert_eq!((url.hostname(), url.port()), ("::1", "5"));
        assert_eq!(url.user.as_deref(), Some("u:p"));
        assert_eq!((&*url.path, &*url.query, &*url.fragment), ("/x", "q", "f"));
        let bad = |t| Url::parse(t).unwrap_err();
        assert_eq!(
            bad("tcp://[::1"),
            "parse \"tcp://[::1\": missing ']' in host"
        );
        assert_eq!(
            bad("tcp://a:b:c"),
            "parse \"tcp://a:b:c\": invalid port \":c\" after host"
        );
        assert_eq!(Url::parse("foo:514").unwrap().scheme, "foo");
        assert_eq!(Url::parse("foo").unwrap().path, "foo");
        assert!(split_host_port("::1").unwrap_err().contains("too many"));
        assert_eq!(split_host_port("a:1"), Ok(("a", "1")));
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,40}") {
            let _ = Url::parse(&text).map(|u| (u.hostname().to_owned(), u.port().to_owned()));
            let _ = parse_duration(&text).map(duration_text);
            let _ = (parse_int("Atoi", &text), parse_uint(&text, 9), parse_bool(&text));
        }
    }
}
