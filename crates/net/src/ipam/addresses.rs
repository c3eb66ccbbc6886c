//! Addresses out of a network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::network::Network;

/// Bits of a word.
const WORD_BITS: u128 = 64;

/// Why an address is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Taken {
    /// Docker's words.
    #[error("Address already in use")]
    InUse,
    /// It is in no part of the network that may be given.
    #[error("requested address is out of range")]
    OutOfRange,
    /// Docker's words.
    #[error("no available IPv4 addresses on this network's address pools")]
    None,
}

/// The addresses of a network that are in use. The first and, of IPv4, the last one are never given. Takes 12 bytes for each 64
/// addresses of which one is in use.
#[derive(Clone, Debug)]
pub struct Addresses {
    network: Network,
    /// Where addresses come from that nobody names.
    range: Network,
    /// Which addresses are in use, by the number of their word; words without any are left out.
    words: BTreeMap<u128, u64>,
    /// Behind the last one that was given: an address is not given again before all others were.
    next: u128,
}

impl Addresses {
    /// Of a network; those that nobody names come out of `range`, which lies in it.
    pub fn new(network: Network, range: Option<Network>) -> Addresses {
        let range = range.filter(|r| network.covers(r)).unwrap_or(network);
        let mut addresses = Addresses {
            network,
            range,
            words: BTreeMap::new(),
            next: 0,
        };
        // A network of one or two addresses has no others.
        if network.host_bits() > 1 {
            addresses.mark(0);
            if network.first().is_ipv4() {
                addresses.mark(network.len() - 1);
            }
        }
        addresses
    }

    /// The network.
    pub fn network(&self) -> Network {
        self.network
    }

    fn is_marked(&self, place: u128) -> bool {
        let word = self.words.get(&(place / WORD_BITS)).copied().unwrap_or(0);
        word >> (place % WORD_BITS) & 1 == 1
    }

    fn mark(&mut self, place: u128) {
        *self.words.entry(place / WORD_BITS).or_default() |= 1 << (place % WORD_BITS);
    }

    /// Takes this address.
    pub fn take(&mut self, address: IpAddr) -> Result<(), Taken> {
        let place = self.network.place_of(address).ok_or(Taken::OutOfRange)?;
        if self.is_marked(place) {
            return Err(Taken::InUse);
        }
        self.mark(place);
        Ok(())
    }

    /// Takes the next free address behind the last one that was given.
    pub fn take_next(&mut self) -> Result<IpAddr, Taken> {
        let begin = self
            .network
            .place_of(self.range.first())
            .ok_or(Taken::None)?;
        let end = begin.saturating_add(self.range.len());
        let from = self.next.clamp(begin, end);
        let place = self
            .free_in(from, end)
            .or_else(|| self.free_in(begin, from));
        let place = place.ok_or(Taken::None)?;
        self.mark(place);
        self.next = place + 1;
        self.network.nth(place).ok_or(Taken::None)
    }

    /// The first free place of `[from, to)`.
    fn free_in(&self, from: u128, to: u128) -> Option<u128> {
        let mut place = from;
        while place < to {
            let word = self.words.get(&(place / WORD_BITS)).copied().unwrap_or(0);
            // Those before `place` count as in use.
            let in_use = word | ((1u64 << (place % WORD_BITS)) - 1);
            let free = u128::from(in_use.trailing_ones());
            if free < WORD_BITS {
                let found = place / WORD_BITS * WORD_BITS + free;
                return (found < to).then_some(found);
            }
            place = (place / WORD_BITS + 1).checked_mul(WORD_BITS)?;
        }
        None
    }

    /// Gives an address back. One that is not in use stays so.
    pub fn give_back(&mut self, address: IpAddr) {
        let Some(place) = self.network.place_of(address) else {
            return;
        };
        if let Some(word) = self.words.get_mut(&(place / WORD_BITS)) {
            *word &= !(1 << (place % WORD_BITS));
            if *word == 0 {
                self.words.remove(&(place / WORD_BITS));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(network: &str, range: Option<&str>) -> Addresses {
        let parse = |text: &str| text.parse::<Network>().expect("a network");
        Addresses::new(parse(network), range.map(parse))
    }

    fn next(addresses: &mut Addresses) -> Result<String, Taken> {
        addresses.take_next().map(|a| a.to_string())
    }

    #[test]
    fn addresses_come_in_order_and_not_again_at_once() {
        let mut all = of("10.0.0.0/29", None);
        for n in 1..=3 {
            assert_eq!(next(&mut all), Ok(format!("10.0.0.{n}")));
        }
        all.give_back([10, 0, 0, 1].into());
        assert_eq!(all.take([10, 0, 0, 4].into()), Ok(()));
        assert_eq!(all.take([10, 0, 0, 4].into()), Err(Taken::InUse));
        assert_eq!(all.take([10, 0, 0, 7].into()), Err(Taken::InUse));
        assert_eq!(all.take([10, 0, 1, 1].into()), Err(Taken::OutOfRange));
        for n in [5, 6, 1] {
            assert_eq!(next(&mut all), Ok(format!("10.0.0.{n}")));
        }
        assert_eq!(next(&mut all), Err(Taken::None));
    }

    #[test]
    fn ranges_bound_only_what_nobody_names() {
        let mut all = of("10.0.0.0/16", Some("10.0.128.0/30"));
        assert_eq!(next(&mut all).as_deref(), Ok("10.0.128.0"));
        assert_eq!(all.take([10, 0, 0, 9].into()), Ok(()));
        for n in 1..4 {
            assert_eq!(next(&mut all), Ok(format!("10.0.128.{n}")));
        }
        assert_eq!(next(&mut all), Err(Taken::None));
    }

    #[test]
    fn large_networks_take_little() {
        let mut all = of("fd00::/64", None);
        for n in 1..=1000 {
            assert_eq!(next(&mut all), Ok(format!("fd00::{n:x}")));
        }
        assert_eq!(
            all.take("fd00::ffff:ffff:ffff:ffff".parse().expect("an address")),
            Ok(())
        );
        assert!(all.words.len() < 20);
        let mut one = of("10.1.1.1/32", None);
        assert_eq!(next(&mut one).as_deref(), Ok("10.1.1.1"));
        assert_eq!(next(&mut one), Err(Taken::None));
    }

    proptest! {
        /// What a set of addresses would do.
        #[test]
        fn as_a_set(steps in proptest::collection::vec((any::<bool>(), 0u8..64), 0..300)) {
            let mut all = of("10.0.0.0/26", None);
            let mut used = std::collections::BTreeSet::from([0u8, 63]);
            for (take, n) in steps {
                let address: IpAddr = [10, 0, 0, n].into();
                if take && n % 3 == 0 {
                    match all.take_next() {
                        Ok(IpAddr::V4(given)) => prop_assert!(used.insert(given.octets()[3])),
                        other => prop_assert_eq!((other, used.len()), (Err(Taken::None), 64)),
                    }
                } else if take {
                    prop_assert_eq!(all.take(address).is_ok(), used.insert(n));
                } else if n != 0 && n != 63 {
                    all.give_back(address);
                    used.remove(&n);
                }
            }
        }
    }
}
