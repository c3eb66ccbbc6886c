//! Signals by name and number.

use crate::EngineError;

const NAMES: &[(&str, i32)] = &[
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("UNUSED", 31),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
];

/// The kernel's lowest real-time signal that C libraries leave to programs.
const RT_MIN: i32 = 34;
/// The first signal that C libraries keep for themselves.
const RT_USABLE: i32 = 32;
/// The kernel's highest signal.
const RT_MAX: i32 = 64;

/// SIGTERM.
pub const TERM: i32 = 15;
/// SIGKILL.
pub const KILL: i32 = 9;

/// The number of a signal given as number, name, or name with `SIG` in front, in any case.
pub fn parse(text: &str) -> Result<i32, EngineError> {
    let invalid = || EngineError::InvalidParameter(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RT_MAX).contains(&number) {
            Ok(number)
        } else {
            Err(invalid())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(n, _)| *n == name) {
        return Ok(*number);
    }
    real_time(name).ok_or_else(invalid)
}

/// As [`parse`], with Docker's text for a number that is no signal. Two real-time signals belong to C libraries.
pub fn parse_supported(text: &str) -> Result<i32, EngineError> {
    match text.parse::<i32>() {
        Ok(number) if number != 0 && !matches!(number, 1..RT_USABLE | RT_MIN..=RT_MAX) => {
            Err(EngineError::InvalidParameter(format!(
                "the linux daemon does not support signal {number}"
            )))
        }
        _ => parse(text),
    }
}

fn real_time(name: &str) -> Option<i32> {
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RT_MIN + offset(rest, '+')?
    } else {
        RT_MAX - offset(name.strip_prefix("RTMAX")?, '-')?
    };
    (RT_MIN..=RT_MAX).contains(&number).then_some(number)
}

fn offset(rest: &str, sign: char) -> Option<i32> {
    if rest.is_empty() {
        return Some(0);
    }
    let digits = rest.strip_prefix(sign)?;
    if digits.len() > 2 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("sigterm", 15),
            ("SIGRTMIN+3", 37),
            ("RTMAX-14", 50),
            ("RTMIN", 34),
            ("winch", 28),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for bad in ["-1", "32", "33", "65"] {
            assert_eq!(
                parse_supported(bad).unwrap_err().to_string(),
                format!("the linux daemon does not support signal {bad}")
            );
        }
        assert_eq!(parse_supported("64").unwrap(), 64);
        assert_eq!(
            parse_supported("0").unwrap_err().to_string(),
            "invalid signal: 0"
        );
        for bad in [
            "", "0", "65", "-1", "SIG", "NOPE", "RTMIN-1", "RTMAX+1", "RTMIN+99", "RTMIN+",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
