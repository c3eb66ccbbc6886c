//! The signal of STOPSIGNAL.

use super::invalid;
use crate::ImageError;

/// Names without `SIG`; besides them numbers and the real-time ones.
const NAMES: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];
/// Highest signal number.
const MAX_SIGNAL: u32 = 64;
/// Real-time signals above RTMIN or below RTMAX.
const MAX_OFFSET: u32 = 15;

/// The text, if it names a signal.
pub(super) fn checked(text: &str) -> Result<String, ImageError> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |prefix: &str| {
        name.strip_prefix(prefix)
            .and_then(|n| n.parse::<u32>().ok())
            .is_some_and(|n| (1..=MAX_OFFSET).contains(&n))
    };
    let known = NAMES.contains(&name)
        || offset("RTMIN+")
        || offset("RTMAX-")
        || text
            .parse::<u32>()
            .is_ok_and(|n| (1..=MAX_SIGNAL).contains(&n));
    if known {
        Ok(text.to_owned())
    } else {
        Err(invalid(format!("invalid signal: {text}")))
    }
}
