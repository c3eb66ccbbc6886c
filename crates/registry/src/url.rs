//! URLs of registries: what requests are sent to, and where redirects lead.

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

use crate::error::RegistryError;

/// An absolute URL of `http` or `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) https: bool,
    /// Host and perhaps port, as written; without user and password.
    pub(crate) authority: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `user:password`, if the URL has them.
    pub(crate) user: Option<String>,
    pub(crate) path_and_query: String,
}

fn bad(text: &str) -> RegistryError {
    RegistryError::Protocol(format!("invalid URL {text:?}"))
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self, RegistryError> {
        let text = text.split('#').next().unwrap_or_default();
        let uri: Uri = text.parse().map_err(|_| bad(text))?;
        let https = match uri.scheme() {
            Some(s) if *s == Scheme::HTTPS => true,
            Some(s) if *s == Scheme::HTTP => false,
            _ => return Err(bad(text)),
        };
        let full: &Authority = uri.authority().ok_or_else(|| bad(text))?;
        let (user, authority) = match full.as_str().rsplit_once('@') {
            Some((user, rest)) => (Some(user.to_owned()), rest.to_owned()),
            None => (None, full.as_str().to_owned()),
        };
        if full.host().is_empty() {
            return Err(bad(text));
        }
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            https,
            host: full.host().to_owned(),
            port: full.port_u16().unwrap_or(if https { 443 } else { 80 }),
            user,
            authority,
            path_and_query: format!("{slash}{path}"),
        })
    }

    /// The same server, another path.
    pub(crate) fn at(&self, path_and_query: &str) -> Self {
        Self {
            path_and_query: path_and_query.to_owned(),
            ..self.clone()
        }
    }

    /// Where a `Location` leads from here.
    pub(crate) fn join(&self, location: &str) -> Result<Self, RegistryError> {
        if location.starts_with("http://") || location.starts_with("https://") {
            return Self::parse(location);
        }
        let scheme = if self.https { "https" } else { "http" };
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            let base = self.path_and_query.split('?').next().unwrap_or_default();
            let dir = base.rsplit_once('/').map_or("", |(dir, _)| dir);
            format!("{dir}/{location}")
        };
        let joined = Self::parse(&format!("{scheme}://{}{path}", self.authority))?;
        Ok(joined)
    }

    /// The same scheme, host and port.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        self.https == other.https && self.host == other.host && self.port == other.port
    }

    /// With one more parameter.
    pub(crate) fn with_parameter(&self, name: &str, value: &str) -> Self {
        let sign = if self.path_and_query.contains('?') {
            '&'
        } else {
            '?'
        };
        self.at(&format!(
            "{}{sign}{name}={}",
            self.path_and_query,
            escape(value)
        ))
    }
}

/// For a parameter of a query.
pub(crate) fn escape(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEEP: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    utf8_percent_encode(text, KEEP).to_string()
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path_and_query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let url = Url::parse("https://me:secret@reg.example/v2/?a=b#c").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("reg.example", 443));
        assert_eq!(url.user.as_deref(), Some("me:secret"));
        assert_eq!(url.to_string(), "https://reg.example/v2/?a=b");
        let v6 = Url::parse("http://[::1]:5000").unwrap();
        assert_eq!((v6.host.as_str(), v6.port), ("[::1]", 5000));
        for bad in ["", "/x", "ftp://x/", "http://", "http:///x", "x"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirects() {
        let base = Url::parse("http://a:1/v2/x/blobs/y?q=1").unwrap();
        let to = |l: &str| base.join(l).unwrap().to_string();
        assert_eq!(to("/z?k=v"), "http://a:1/z?k=v");
        assert_eq!(to("z"), "http://a:1/v2/x/blobs/z");
        assert_eq!(to("//b/z"), "http://b/z");
        assert_eq!(to("https://c/z"), "https://c/z");
        assert!(base.join("https://").is_err());
        let more = base.with_parameter("digest", "sha256:1");
        assert_eq!(
            more.to_string(),
            "http://a:1/v2/x/blobs/y?q=1&digest=sha256%3A1"
        );
        assert!(base.same_origin(&more) && !base.same_origin(&Url::parse("http://a:2/").unwrap()));
    }
}
