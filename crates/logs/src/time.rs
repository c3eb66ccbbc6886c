//! Times of logs and events.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

const NS_PER_S: u64 = 1_000_000_000;

/// A time as `since` and `until` take it could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for \"since\" or \"until\": {0:?}")]
pub struct BadTime(pub String);

/// Appends a time as Go's RFC3339Nano (trailing zeros of the fraction cut) or, `fixed`, with nine digits.
pub fn format_into(out: &mut Vec<u8>, unix_ns: u64, fixed: bool) {
    let (seconds, nanos) = (unix_ns / NS_PER_S, unix_ns % NS_PER_S);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil from days: eras of 400 years that begin on the first of March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * m + 2) / 5 + 1;
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    put(out, year, 4);
    for (mark, value) in [(b'-', month), (b'-', day), (b'T', second / 3600)] {
        out.push(mark);
        put(out, value, 2);
    }
    for value in [second / 60 % 60, second % 60] {
        out.push(b':');
        put(out, value, 2);
    }
    put_fraction(out, nanos, fixed);
    out.push(b'Z');
}

/// Formats times that mostly lie in the same second as the one before, as Go's RFC3339Nano.
#[derive(Debug, Default)]
pub struct Stamp {
    text: Vec<u8>,
    /// The second whose first 19 bytes `text` begins with.
    second: Option<u64>,
}

impl Stamp {
    /// Bytes before the fraction.
    const SECONDS_LEN: usize = 19;

    /// The text of a time.
    pub fn format(&mut self, unix_ns: u64) -> &[u8] {
        let (second, nanos) = (unix_ns / NS_PER_S, unix_ns % NS_PER_S);
        if self.second != Some(second) {
            self.text.clear();
            format_into(&mut self.text, second * NS_PER_S, false);
            self.second = Some(second);
        }
        self.text.truncate(Self::SECONDS_LEN);
        put_fraction(&mut self.text, nanos, false);
        self.text.push(b'Z');
        &self.text
    }
}

fn put_fraction(out: &mut Vec<u8>, nanos: u64, fixed: bool) {
    if fixed || nanos != 0 {
        out.push(b'.');
        put(out, nanos, 9);
        while !fixed && out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

fn put(out: &mut Vec<u8>, mut value: u64, digits: usize) {
    let start = out.len();
    out.resize(start + digits, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Reads an RFC 3339 time with zone; times before 1970 become 0.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    text.parse::<Timestamp>().ok().map(clamp)
}

fn clamp(t: Timestamp) -> u64 {
    u64::try_from(t.as_nanosecond()).unwrap_or(0)
}

/// Reads a `since` or `until`: RFC 3339 (zone optional: UTC), `unix[.fraction]`, or a Go duration before `now_ns`.
pub fn parse(text: &str, now_ns: u64) -> Result<u64, BadTime> {
    parse_unix(text)
        .or_else(|| parse_rfc3339(text))
        .or_else(|| parse_civil(text))
        .or_else(|| {
            parse_go_duration(text).map(|d| u64::try_from(i128::from(now_ns) - d).unwrap_or(0))
        })
        .ok_or_else(|| BadTime(text.to_owned()))
}

/// A number of a timestamp could not be read; Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("strconv.ParseInt: parsing {}: {reason}", serde_json::Value::from(text.as_str()))]
pub struct BadTimestamp {
    text: String,
    reason: &'static str,
}

/// Reads `seconds[.fraction]` since 1970 as dockerd reads `since` and `until` of logs and events: both parts are decimal
/// numbers with an optional sign, digits below a nanosecond are cut off. Times before 1970 become 0.
pub fn parse_timestamp(text: &str) -> Result<u64, BadTimestamp> {
    let (seconds, fraction) = match text.split_once('.') {
        Some((seconds, fraction)) => (seconds, Some(fraction)),
        None => (text, None),
    };
    let seconds = i128::from(parse_int(seconds)?);
    let mut nanos = 0;
    if let Some(fraction) = fraction {
        let value = i128::from(parse_int(fraction)?);
        nanos = match 9_i32.saturating_sub(i32::try_from(fraction.len()).unwrap_or(i32::MAX)) {
            up @ 0.. => value * 10_i128.pow(up.unsigned_abs()),
            // A number of 64 bits has 19 digits: past that many there is nothing left.
            down => value / 10_i128.pow(down.unsigned_abs().min(30)),
        };
    }
    let ns = seconds * i128::from(NS_PER_S) + nanos;
    Ok(u64::try_from(ns.max(0)).unwrap_or(u64::MAX))
}

/// Reads a bound of `logs`: as dockerd, and beyond that RFC 3339 and Go durations before `now_ns`, which its client turns
/// into numbers before it sends them.
pub fn parse_bound(text: &str, now_ns: u64) -> Result<u64, BadTimestamp> {
    parse_timestamp(text).or_else(|error| {
        let before = |span| u64::try_from(i128::from(now_ns) - span).unwrap_or(0);
        let span = || parse_go_duration(text).map(before);
        parse_rfc3339(text).or_else(span).ok_or(error)
    })
}

fn parse_int(text: &str) -> Result<i64, BadTimestamp> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse::<i64>().map_err(|e| BadTimestamp {
        text: text.to_owned(),
        reason: match e.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        },
    })
}

fn parse_unix(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    seconds
        .parse::<u64>()
        .ok()?
        .checked_mul(NS_PER_S)?
        .checked_add(nanos)
}

fn parse_civil(text: &str) -> Option<u64> {
    let civil = match text.parse::<DateTime>() {
        Ok(t) => t,
        Err(_) => text
            .strip_suffix('Z')
            .unwrap_or(text)
            .parse::<Date>()
            .ok()?
            .to_datetime(jiff::civil::Time::midnight()),
    };
    civil
        .to_zoned(TimeZone::UTC)
        .ok()
        .map(|z| clamp(z.timestamp()))
}

/// Reads a Go duration ("1h30m", "1.5s", "-10ms"), in nanoseconds.
pub fn parse_go_duration(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit_end = rest[number..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |n| number + n);
        let unit: i128 = match &rest[number..unit_end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(&rest[..number], unit)?)?;
        rest = &rest[unit_end..];
    }
    (total <= i128::from(i64::MAX)).then_some(sign * total)
}

fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
        return None;
    }
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    // More than 18 digits of a fraction are below a nanosecond of any unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let part: i128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    Some(whole * unit + part * unit / 10_i128.pow(fraction.len() as u32))
}
