//! Operating system, architecture and variant.

use std::fmt;

use serde::Deserialize;

use crate::ImageError;

pub(crate) const HOST_OS: &str = "linux";
/// The highest architecture level that stands for "no variant".
const AMD64_BASE: &str = "v1";
const ARM64_BASE: &str = "v8";

/// A platform; what is empty is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`.
    pub architecture: String,
    /// `v8`.
    pub variant: String,
}

/// Docker's name of this machine's architecture.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// What a variant means where none is written.
fn variant<'a>(architecture: &str, variant: &'a str) -> &'a str {
    match (architecture, variant) {
        ("arm64", "") => ARM64_BASE,
        ("amd64", "") => AMD64_BASE,
        (_, variant) => variant,
    }
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        Self {
            os: HOST_OS.into(),
            architecture: host_architecture().into(),
            variant: String::new(),
        }
    }

    /// What `os/architecture[/variant]` means; an operating system or an architecture alone is completed by this
    /// machine's.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let parts: Vec<&str> = text.split('/').collect();
        let good = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        if parts.len() > 3 || !parts.iter().all(good) {
            return Err(ImageError::InvalidReference(format!(
                "{text:?}: cannot parse platform specifier: invalid argument"
            )));
        }
        let host = Self::host();
        let (os, architecture) = match parts.as_slice() {
            [one] if is_os(one) => (*one, host.architecture.as_str()),
            [one] => (HOST_OS, *one),
            [os, architecture, ..] => (*os, *architecture),
            [] => (HOST_OS, host.architecture.as_str()),
        };
        Ok(Self {
            os: os.to_ascii_lowercase(),
            architecture: normal_architecture(&architecture.to_ascii_lowercase()).to_owned(),
            variant: parts.get(2).copied().unwrap_or_default().to_owned(),
        })
    }

    /// An image of `other` is what one of this platform wants.
    pub fn fits(&self, other: &Self) -> bool {
        let architecture = normal_architecture(&self.architecture);
        let same = |mine: &str, theirs: &str| mine.is_empty() || mine == theirs;
        same(&self.os, &other.os)
            && same(architecture, normal_architecture(&other.architecture))
            && (self.variant.is_empty()
                || variant(architecture, &self.variant) == variant(architecture, &other.variant))
    }
}

fn is_os(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "linux" | "windows" | "darwin" | "freebsd"
    )
}

fn normal_architecture(text: &str) -> &str {
    match text {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" => "386",
        other => other,
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_fits() {
        let arm = Platform::parse("linux/arm64").unwrap();
        assert_eq!(Platform::parse("aarch64").unwrap(), arm);
        assert_eq!(Platform::parse("linux").unwrap(), Platform::host());
        let v8 = Platform::parse("linux/arm64/v8").unwrap();
        assert!(v8.fits(&arm) && arm.fits(&v8));
        assert!(!arm.fits(&Platform::parse("linux/amd64").unwrap()));
        assert_eq!(v8.to_string(), "linux/arm64/v8");
        for bad in ["a/b/c/d", "", "linux/", "a b"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }
}
