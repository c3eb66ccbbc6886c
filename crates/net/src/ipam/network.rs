//! Networks: an address with the bits behind its prefix cleared.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: all addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    first: IpAddr,
    prefix_bits: u8,
}

/// a text is no network
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct BadNetwork(pub String);

/// An address as a number, whose lowest bit is the address's last one.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Network {
    /// The network that an address is in. `None` if there are no so long prefixes.
    pub fn of(address: IpAddr, prefix_bits: u8) -> Option<Network> {
        let whole = Network {
            first: address,
            prefix_bits,
        };
        let host_bits = whole.width().checked_sub(prefix_bits)?;
        let number = number(address);
        // Of a prefix of 0 bits all are cleared, which a shift alone does not do.
        let cleared = number.checked_shr(host_bits.into()).unwrap_or(0);
        let cleared = cleared.checked_shl(host_bits.into()).unwrap_or(0);
        Some(Network {
            first: whole.address(cleared),
            prefix_bits,
        })
    }

    fn width(&self) -> u8 {
        if self.first.is_ipv4() { 32 } else { 128 }
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.first {
            // What is behind 32 bits is none of a network's own numbers.
            IpAddr::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
        }
    }

    /// Its first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// Its last address; of an IPv4 network that is the broadcast address.
    pub fn last(&self) -> IpAddr {
        let spread = u128::MAX.checked_shr(128 - u32::from(self.host_bits()));
        self.address(number(self.first) | spread.unwrap_or(0))
    }

    /// Bits that all its addresses share.
    pub fn prefix_bits(&self) -> u8 {
        self.prefix_bits
    }

    /// Bits that they don't.
    pub fn host_bits(&self) -> u8 {
        self.width() - self.prefix_bits
    }

    /// How many addresses; of all of IPv6 the most that can be said.
    pub fn len(&self) -> u128 {
        1u128
            .checked_shl(self.host_bits().into())
            .unwrap_or(u128::MAX)
    }

    /// Never: it has at least one address.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its address number `n`, from 0.
    pub fn nth(&self, n: u128) -> Option<IpAddr> {
        (n < self.len()).then(|| self.address(number(self.first) | n))
    }

    /// Which of its addresses this is.
    pub fn place_of(&self, address: IpAddr) -> Option<u128> {
        self.contains(address)
            .then(|| number(address) - number(self.first))
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4()
            && Network::of(address, self.prefix_bits).is_some_and(|n| n.first == self.first)
    }

    /// Whether all of another network is in it.
    pub fn covers(&self, other: &Network) -> bool {
        self.prefix_bits <= other.prefix_bits && self.contains(other.first)
    }

    /// Whether an address is in both.
    pub fn overlaps(&self, other: &Network) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_bits)
    }
}

/// Takes an address of the network, too, as Go's `net.ParseCIDR`.
impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Network, BadNetwork> {
        let parsed = || {
            let (address, bits) = text.split_once('/')?;
            if bits.is_empty() || bits.len() > 3 || !bits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            Network::of(address.parse().ok()?, bits.parse().ok()?)
        };
        parsed().ok_or_else(|| BadNetwork(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Network {
        text.parse().expect("a network")
    }

    #[test]
    fn texts() {
        assert_eq!(net("10.1.2.3/16").to_string(), "10.1.0.0/16");
        assert_eq!(net("fd00::1:2:3/64").to_string(), "fd00::/64");
        assert_eq!(net("1.2.3.4/0").to_string(), "0.0.0.0/0");
        assert_eq!(net("::1/0").to_string(), "::/0");
        assert_eq!(net("1.2.3.4/32").last(), net("1.2.3.4/32").first());
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/+8",
            "/8",
            "10.0.0.0/",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_in_what() {
        let (large, small) = (net("10.0.0.0/8"), net("10.255.255.0/24"));
        assert!(large.covers(&small) && !small.covers(&large) && small.overlaps(&large));
        assert!(!large.overlaps(&net("11.0.0.0/8")) && !large.overlaps(&net("::/0")));
        assert_eq!(small.last().to_string(), "10.255.255.255");
        assert_eq!(small.nth(255), Some(small.last()));
        assert_eq!(small.nth(256), None);
        assert_eq!(small.place_of([10, 255, 255, 7].into()), Some(7));
        assert_eq!(
            net("::/0").last().to_string(),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
    }
}
