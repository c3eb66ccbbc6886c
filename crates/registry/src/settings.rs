//! What the daemon is told about registries.

use std::net::IpAddr;
use std::path::PathBuf;

/// Downloads at once in the daemon, as Docker's default.
pub const DEFAULT_MAX_CONCURRENT_DOWNLOADS: usize = 3;
/// Uploads at once in the daemon, as Docker's default.
pub const DEFAULT_MAX_CONCURRENT_UPLOADS: usize = 5;
/// Tries of one download, as Docker's default.
pub const DEFAULT_MAX_DOWNLOAD_ATTEMPTS: u32 = 5;
/// Where certificates of registries are, as Docker's.
pub const DEFAULT_CERTS_DIR: &str = "/etc/docker/certs.d";

/// What the daemon is told about registries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Hosts (with their port) and networks (`10.0.0.0/8`) that may speak plain HTTP or have any certificate. This
    /// machine always may.
    pub insecure: Vec<String>,
    /// URLs that are asked before Docker's own registry.
    pub mirrors: Vec<String>,
    /// A directory per registry with `*.crt`, and `*.cert` with `*.key`.
    pub certs_dir: PathBuf,
    /// Ways out.
    pub proxies: Proxies,
    /// Downloads at once.
    pub max_concurrent_downloads: usize,
    /// Uploads at once.
    pub max_concurrent_uploads: usize,
    /// Tries of one download.
    pub max_download_attempts: u32,
}

/// Proxies, by the scheme of what is asked for. Empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// URL, for `http`.
    pub http: String,
    /// URL, for `https`.
    pub https: String,
    /// Hosts that are asked directly: names, `.suffixes`, addresses, networks, `*`; with commas between.
    pub none: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            certs_dir: DEFAULT_CERTS_DIR.into(),
            proxies: Proxies::default(),
            max_concurrent_downloads: DEFAULT_MAX_CONCURRENT_DOWNLOADS,
            max_concurrent_uploads: DEFAULT_MAX_CONCURRENT_UPLOADS,
            max_download_attempts: DEFAULT_MAX_DOWNLOAD_ATTEMPTS,
        }
    }
}

/// Whether an address is in a network (`10.0.0.0/8`); false if the text is no network.
pub fn in_network(address: IpAddr, network: &str) -> bool {
    let Some((base, bits)) = network.split_once('/') else {
        return false;
    };
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    match (address.to_canonical(), base) {
        (IpAddr::V4(a), IpAddr::V4(b)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            (u32::from(a) & mask) == (u32::from(b) & mask)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            (u128::from(a) & mask) == (u128::from(b) & mask)
        }
        _ => false,
    }
}

impl Settings {
    /// Whether a registry at one of these addresses may do without a certificate.
    pub(crate) fn is_insecure(&self, authority: &str, addresses: &[IpAddr]) -> bool {
        let named = |entry: &String| entry == authority;
        let local = |a: &IpAddr| a.to_canonical().is_loopback();
        let inside = |a: &IpAddr| self.insecure.iter().any(|n| in_network(*a, n));
        self.insecure.iter().any(named) || addresses.iter().any(|a| local(a) || inside(a))
    }
}

impl Proxies {
    /// The proxy for a host, if there is one. This machine is always asked directly, as Go does.
    pub(crate) fn of(&self, https: bool, host: &str, port: u16) -> Option<&str> {
        let proxy = if https { &self.https } else { &self.http };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address: Option<IpAddr> = bare.parse().ok();
        if proxy.is_empty()
            || bare == "localhost"
            || address.is_some_and(|a| a.is_loopback())
            || self
                .none
                .split(',')
                .any(|entry| excludes(entry.trim(), bare, address, port))
        {
            return None;
        }
        Some(proxy)
    }
}

fn excludes(entry: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some(address) = address
        && in_network(address, entry)
    {
        return true;
    }
    let entry = match entry.rsplit_once(':') {
        Some((name, number)) if number.parse::<u16>().is_ok() && !name.contains(':') => {
            if number.parse() != Ok(port) {
                return false;
            }
            name
        }
        _ => entry,
    };
    if entry.is_empty() {
        return false;
    }
    let suffix = entry.strip_prefix('*').unwrap_or(entry);
    match suffix.strip_prefix('.') {
        Some(_) => host.ends_with(suffix),
        None => {
            host.eq_ignore_ascii_case(suffix)
                || host
                    .strip_suffix(suffix)
                    .is_some_and(|front| front.ends_with('.'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let yes = |a: &str, n: &str| in_network(a.parse().unwrap(), n);
        assert!(yes("10.1.2.3", "10.0.0.0/8") && yes("::1", "::1/128"));
        assert!(yes("1.2.3.4", "0.0.0.0/0") && yes("::ffff:10.0.0.1", "10.0.0.0/8"));
        assert!(!yes("11.1.2.3", "10.0.0.0/8") && !yes("10.1.2.3", "10.0.0.0/99"));
        assert!(!yes("10.1.2.3", "nonsense"));
    }

    #[test]
    fn this_machine_and_what_is_named_may_do_without_certificates() {
        let settings = Settings {
            insecure: vec!["reg:5000".into(), "10.0.0.0/8".into()],
            ..Settings::default()
        };
        let at = |a: &str| vec![a.parse().unwrap()];
        assert!(settings.is_insecure("x", &at("127.3.2.1")));
        assert!(settings.is_insecure("x", &at("::1")));
        assert!(settings.is_insecure("x", &at("10.3.2.1")));
        assert!(settings.is_insecure("reg:5000", &[]));
        assert!(!settings.is_insecure("reg", &at("192.0.2.1")));
    }

    #[test]
    fn proxies_and_who_is_asked_directly() {
        let proxies = Proxies {
            http: "http://p:1".into(),
            https: "http://q:2".into(),
            none: "a.example, .b.example,10.0.0.0/8,c.example:99".into(),
        };
        let of = |https, host| proxies.of(https, host, 443);
        assert_eq!(of(true, "x.example"), Some("http://q:2"));
        assert_eq!(of(false, "x.example"), Some("http://p:1"));
        for direct in [
            "a.example",
            "z.a.example",
            "z.b.example",
            "10.9.9.9",
            "localhost",
            "127.0.0.1",
            "[::1]",
        ] {
            assert_eq!(of(true, direct), None, "{direct}");
        }
        assert!(of(true, "c.example").is_some() && of(true, "b.example").is_some());
        assert_eq!(proxies.of(true, "c.example", 99), None);
        assert!(Proxies::default().of(true, "x", 1).is_none());
    }
}
