//! Times and durations as Docker writes them.

use jiff::Timestamp;

const SECOND_NS: i64 = 1_000_000_000;

/// RFC 3339 with nanoseconds, trailing zeros removed; 0 is Go's zero time.
pub fn rfc3339(unix_ns: i64) -> String {
    if unix_ns == 0 {
        return "0001-01-01T00:00:00Z".to_owned();
    }
    match Timestamp::from_nanosecond(i128::from(unix_ns)) {
        Ok(stamp) => stamp.to_string(),
        Err(_) => "0001-01-01T00:00:00Z".to_owned(),
    }
}

/// Now, in nanoseconds since 1970.
pub fn now_unix_ns() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// A duration for people, as the `STATUS` column has it.
pub fn human(duration_ns: i64) -> String {
    let seconds = duration_ns / SECOND_NS;
    let minutes = seconds / 60;
    // Docker rounds hours.
    let hours = (duration_ns as f64 / (3600.0 * SECOND_NS as f64) + 0.5) as i64;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// The architecture of this machine, as in platforms of images.
pub fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An argument in the list's `COMMAND`: in quotes if it has a space, without regard to quotes in it.
pub fn listed_argument(word: &str) -> String {
    if word.contains(' ') {
        format!("'{word}'")
    } else {
        word.to_owned()
    }
}

/// A point in time of a query: unix seconds with an optional fraction. What is neither is the
/// client's mistake (400 with the text of Go's parser; dockerd answers the same text with a 500).
pub fn parse_unix(text: &str) -> Result<Option<i64>, crate::error::ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let bad = |part: &str| {
        crate::error::ApiError::invalid(format!(
            "strconv.ParseInt: parsing {}: invalid syntax",
            crate::query::quoted(part)
        ))
    };
    let seconds: i64 = whole.parse().map_err(|_| bad(whole))?;
    let nanos: i64 = if fraction.is_empty() {
        0
    } else {
        if !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad(fraction));
        }
        let mut digits: String = fraction.chars().take(9).collect();
        while digits.len() < 9 {
            digits.push('0');
        }
        digits.parse().map_err(|_| bad(fraction))?
    };
    Ok(Some(
        seconds.saturating_mul(SECOND_NS).saturating_add(nanos),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(rfc3339(0), "0001-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_704_067_200 * SECOND_NS), "2024-01-01T00:00:00Z");
        assert_eq!(
            rfc3339(1_795_434_032_024_766_070),
            "2026-11-23T11:40:32.02476607Z"
        );
        assert_eq!(parse_unix("12.5").unwrap(), Some(12_500_000_000));
        assert_eq!(parse_unix("").unwrap(), None);
        assert_eq!(
            parse_unix("abc").unwrap_err().message,
            "strconv.ParseInt: parsing \"abc\": invalid syntax"
        );
        assert!(parse_unix("1.x").is_err());
    }

    #[test]
    fn durations() {
        for (seconds, want) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (3 * 86400, "3 days"),
            (15 * 86400, "2 weeks"),
            (70 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(human(seconds * SECOND_NS), want, "{seconds}");
        }
    }

    #[test]
    fn words() {
        assert_eq!(listed_argument("sh"), "sh");
        assert_eq!(listed_argument("echo hi; exit 7"), "'echo hi; exit 7'");
        assert_eq!(listed_argument("it's"), "it's");
        assert_eq!(listed_argument(""), "");
    }
}
