//! API versions: which are served, and how others are refused.

/// Oldest minor version served (1.24).
pub const MIN_MINOR: u32 = 24;
/// Newest minor version served (1.48).
pub const MAX_MINOR: u32 = 48;
/// Oldest version, as text.
pub const MIN_VERSION: &str = "1.24";
/// Newest version, as text.
pub const MAX_VERSION: &str = "1.48";

/// An API version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// The number after `1.`.
    pub minor: u32,
}

impl ApiVersion {
    /// The version that requests without prefix get.
    pub const CURRENT: ApiVersion = ApiVersion { minor: MAX_MINOR };

    /// Whether this version is at least 1.`minor`.
    pub fn at_least(self, minor: u32) -> bool {
        self.minor >= minor
    }
}

/// Why a version is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionError {
    /// Below [`MIN_VERSION`]; holds the message.
    TooOld(String),
    /// Above [`MAX_VERSION`]; holds the message.
    TooNew(String),
}

/// Checks the version of a prefix, given without the `v`.
pub fn check(text: &str) -> Result<ApiVersion, VersionError> {
    let mut parts = text.splitn(2, '.');
    let number = |s: Option<&str>| {
        s.and_then(|s| s.split('.').next())
            .map_or(0, saturating_number)
    };
    let (major, minor) = (number(parts.next()), number(parts.next()));
    if (major, minor) < (1, MIN_MINOR) {
        return Err(VersionError::TooOld(format!(
            "client version {text} is too old. Minimum supported API version is {MIN_VERSION}, please upgrade your client to a newer version"
        )));
    }
    if (major, minor) > (1, MAX_MINOR) {
        return Err(VersionError::TooNew(format!(
            "client version {text} is too new. Maximum supported API version is {MAX_VERSION}"
        )));
    }
    Ok(ApiVersion { minor })
}

fn saturating_number(digits: &str) -> u32 {
    digits.bytes().fold(0u32, |n, b| {
        n.saturating_mul(10)
            .saturating_add(u32::from(b.saturating_sub(b'0')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert_eq!(check("1.24"), Ok(ApiVersion { minor: 24 }));
        assert_eq!(check("1.48"), Ok(ApiVersion { minor: 48 }));
        assert!(
            matches!(check("1.10"), Err(VersionError::TooOld(m)) if m == "client version 1.10 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version")
        );
        assert!(
            matches!(check("1.99"), Err(VersionError::TooNew(m)) if m == "client version 1.99 is too new. Maximum supported API version is 1.48")
        );
        assert!(matches!(check("2.0"), Err(VersionError::TooNew(_))));
        assert!(matches!(check("0"), Err(VersionError::TooOld(_))));
        assert!(matches!(
            check("1.99999999999999999999"),
            Err(VersionError::TooNew(_))
        ));
    }
}
