//! Docker's reference grammar and its short ("familiar") names.

use crate::ImageError;
use crate::digest::{is_digest, is_hex64};

/// Longest repository name (with its domain), in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest tag, in bytes.
pub const MAX_TAG_BYTES: usize = 128;
const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// A normalised reference: domain, path, and perhaps a tag and a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// What a user can name an image by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyReference {
    /// `sha256:<64 hex>`
    Id(String),
    /// A repository, perhaps with tag or digest.
    Named(Reference),
}

fn invalid() -> ImageError {
    ImageError::InvalidReference("invalid reference format".into())
}

/// An id (64 hex digits with or without `sha256:`) or a name.
pub fn parse_any(s: &str) -> Result<AnyReference, ImageError> {
    if is_hex64(s) {
        return Ok(AnyReference::Id(format!("sha256:{s}")));
    }
    if is_digest(s) {
        return Ok(AnyReference::Id(s.to_owned()));
    }
    Reference::parse(s).map(AnyReference::Named)
}

impl Reference {
    /// Parses and normalises a name as a user writes it (`busybox` is `docker.io/library/busybox`).
    pub fn parse(s: &str) -> Result<Self, ImageError> {
        if is_hex64(s) {
            return Err(ImageError::InvalidReference(format!(
                "invalid repository name ({s}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (domain, rest) = split_domain(s);
        let (named, digest) = match rest.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (rest.as_str(), None),
        };
        let (path, tag) = match named.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (named, None),
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ImageError::InvalidReference(format!(
                "invalid reference format: repository name ({path}) must be lowercase"
            )));
        }
        if !valid_domain(&domain) || !path.split('/').all(valid_component) {
            return Err(invalid());
        }
        if domain.len() + 1 + path.len() > MAX_NAME_BYTES {
            let text = format!("repository name must not be more than {MAX_NAME_BYTES} characters");
            return Err(ImageError::InvalidReference(text));
        }
        if tag.is_some_and(|t| !valid_tag(t)) || digest.is_some_and(|d| !is_digest(d)) {
            return Err(invalid());
        }
        Ok(Self {
            domain,
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// What the parameters `repo` and `tag` of tag, import and commit mean; an empty `repo` is none.
    pub fn of_repo_and_tag(repo: &str, tag: &str) -> Result<Option<Self>, ImageError> {
        if repo.is_empty() {
            return Ok(None);
        }
        let reference = Self::parse(repo)?;
        if reference.digest.is_some() {
            return Err(ImageError::InvalidReference(
                "cannot import digest reference".into(),
            ));
        }
        if reference.familiar_name() == "sha256" {
            return Err(ImageError::InvalidReference(
                "refusing to create an ambiguous tag using digest algorithm as name".into(),
            ));
        }
        if tag.is_empty() {
            return Ok(Some(reference.or_latest()));
        }
        reference.with_tag(tag).map(Some)
    }

    /// The same with tag `latest` if it has neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.into());
        }
        self
    }

    /// The same with this tag (checked) in place of its own.
    pub fn with_tag(mut self, tag: &str) -> Result<Self, ImageError> {
        if !valid_tag(tag) {
            return Err(ImageError::InvalidReference("invalid tag format".into()));
        }
        self.tag = Some(tag.to_owned());
        self.digest = None;
        Ok(self)
    }

    /// Full repository name: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Short repository name: `busybox`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            // `library/a/b` would read as another repository once it is shortened.
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The same repository by this digest, without a tag.
    pub fn with_digest(&self, digest: &str) -> Result<Self, ImageError> {
        if !is_digest(digest) {
            return Err(invalid());
        }
        Ok(Self {
            tag: None,
            digest: Some(digest.to_owned()),
            ..self.clone()
        })
    }

    /// The repository's path below its domain: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The domain: `docker.io`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The whole reference, normalised.
    pub fn full(&self) -> String {
        self.suffixed(self.name())
    }

    /// The whole reference as Docker shows it.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(digest);
        }
        name
    }
}

fn split_domain(s: &str) -> (String, String) {
    let (domain, mut rest) = match s.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.to_lowercase() != first =>
        {
            (first, rest.to_owned())
        }
        _ => (DEFAULT_DOMAIN, s.to_owned()),
    };
    let domain = if domain == "index.docker.io" {
        DEFAULT_DOMAIN
    } else {
        domain
    };
    if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        rest.insert_str(0, OFFICIAL_PREFIX);
    }
    (domain.to_owned(), rest)
}

/// `[a-z0-9]+` runs joined by one of `.`, `_`, `__`, `-+`.
fn valid_component(c: &str) -> bool {
    let bytes = c.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().is_some_and(alnum) || !bytes.last().is_some_and(alnum) {
        return false;
    }
    bytes.split(alnum).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

fn valid_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                if address.is_empty()
                    || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
                {
                    return false;
                }
                (None, port)
            }
            None => return false,
        },
        None => {
            let at = domain.find(':').unwrap_or(domain.len());
            (Some(&domain[..at]), &domain[at..])
        }
    };
    let port_ok = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let label_ok = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    port_ok && host.is_none_or(|h| h.split('.').all(label_ok))
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=MAX_TAG_BYTES).contains(&tag.len())
        && tag
            .bytes()
            .enumerate()
            .all(|(i, b)| word(b) || (i > 0 && (b == b'.' || b == b'-')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_shortened() {
        let cases = [
            (
                "busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "docker.io/busybox:1",
                "docker.io/library/busybox:1",
                "busybox:1",
            ),
            ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            (
                "LOCAL:5000/x:Y_1.-",
                "LOCAL:5000/x:Y_1.-",
                "LOCAL:5000/x:Y_1.-",
            ),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            (
                "a--b/c__d.e",
                "docker.io/a--b/c__d.e:latest",
                "a--b/c__d.e:latest",
            ),
        ];
        for (given, full, familiar) in cases {
            let reference = Reference::parse(given).unwrap().or_latest();
            assert_eq!(
                (reference.full().as_str(), reference.familiar().as_str()),
                (full, familiar),
                "{given}"
            );
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        let reference = Reference::parse(&format!("x@{digest}"))
            .unwrap()
            .or_latest();
        assert_eq!(
            (reference.tag(), reference.digest()),
            (None, Some(digest.as_str()))
        );
    }

    #[test]
    fn nonsense_is_refused_with_dockers_words() {
        for bad in [
            "",
            ":",
            "a:",
            "a//b",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a:b:c ",
            "a b",
            "a@sha256:12",
            "a/",
            "x:-a",
        ] {
            assert_eq!(
                Reference::parse(bad).unwrap_err().to_string(),
                "invalid reference format",
                "{bad:?}"
            );
        }
        assert_eq!(
            Reference::parse("Foo").unwrap_err().to_string(),
            "invalid reference format: repository name (library/Foo) must be lowercase"
        );
        assert!(Reference::parse(&"a".repeat(64)).is_err());
        assert!(matches!(
            parse_any(&"a".repeat(64)),
            Ok(AnyReference::Id(_))
        ));
    }
}
