//! The one place where the engine asks for the time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, nanoseconds since 1970.
pub(crate) fn unix_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
