//! Networks out of pools.

use std::net::IpAddr;

use super::network::Network;

/// Networks of one size, out of a large one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// What they come out of.
    pub base: Network,
    /// How long their prefixes are; not shorter than the base's.
    pub size_bits: u8,
}

/// Where networks come from whose users name none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pools {
    pools: Vec<Pool>,
}

impl Default for Pools {
    /// Docker's: 172.17.0.0/16 to 172.31.0.0/16, then /20 networks of 192.168.0.0/16.
    fn default() -> Pools {
        let v4 = |a, b, bits| Network::of(IpAddr::from([a, b, 0, 0]), bits);
        let bases = (17..=31).filter_map(|b| v4(172, b, 16).map(|base| (base, 16)));
        let all = bases.chain(v4(192, 168, 16).map(|base| (base, 20)));
        Pools {
            pools: all
                .map(|(base, size_bits)| Pool { base, size_bits })
                .collect(),
        }
    }
}

impl Pools {
    /// Of these, in this order. `None` if a size is shorter than its base's prefix or longer than there are.
    pub fn new(pools: Vec<Pool>) -> Option<Pools> {
        let fits = |p: &Pool| {
            (p.base.prefix_bits()..=p.base.prefix_bits() + p.base.host_bits())
                .contains(&p.size_bits)
        };
        pools.iter().all(fits).then_some(Pools { pools })
    }

    /// The pools.
    pub fn list(&self) -> &[Pool] {
        &self.pools
    }

    /// The first network, of IPv4 or IPv6, that overlaps none of those that are taken. Takes as many steps as networks are taken, not
    /// as the pool has.
    pub fn first_free(&self, v6: bool, taken: &[Network]) -> Option<Network> {
        let of_family = self.pools.iter().filter(|p| p.base.first().is_ipv6() == v6);
        of_family.filter_map(|pool| first_free(pool, taken)).next()
    }
}

fn first_free(pool: &Pool, taken: &[Network]) -> Option<Network> {
    let mut candidate = Network::of(pool.base.first(), pool.size_bits)?;
    loop {
        let Some(hit) = taken.iter().find(|t| t.overlaps(&candidate)) else {
            return Some(candidate);
        };
        // Behind what is in the way, whichever of the two is larger.
        let end = hit.last().max(candidate.last());
        let place = pool.base.place_of(end)?.checked_add(1)?;
        candidate = Network::of(pool.base.nth(place)?, pool.size_bits)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<Network> {
        texts
            .iter()
            .map(|t| t.parse().expect("a network"))
            .collect()
    }

    #[test]
    fn pools_of_docker() {
        let free = |taken: &[&str]| {
            Pools::default()
                .first_free(false, &nets(taken))
                .map(|n| n.to_string())
        };
        assert_eq!(free(&[]).as_deref(), Some("172.17.0.0/16"));
        assert_eq!(
            free(&["172.17.0.0/16", "172.18.3.0/24"]).as_deref(),
            Some("172.19.0.0/16")
        );
        assert_eq!(free(&["172.16.0.0/12"]).as_deref(), Some("192.168.0.0/20"));
        assert_eq!(
            free(&["172.16.0.0/12", "192.168.1.0/24"]).as_deref(),
            Some("192.168.16.0/20")
        );
        assert_eq!(free(&["0.0.0.0/0"]), None);
        assert_eq!(Pools::default().first_free(true, &[]), None);
    }

    #[test]
    fn a_large_pool_takes_few_steps() {
        let base: Network = "fd00::/8".parse().expect("a network");
        let pools = Pools::new(vec![Pool {
            base,
            size_bits: 64,
        }])
        .expect("a pool");
        let taken = nets(&["fd00::/9"]);
        assert_eq!(
            pools
                .first_free(true, &taken)
                .map(|n| n.to_string())
                .as_deref(),
            Some("fd80::/64")
        );
        assert_eq!(Pools::new(vec![Pool { base, size_bits: 7 }]), None);
        assert_eq!(
            Pools::new(vec![Pool {
                base,
                size_bits: 129
            }]),
            None
        );
    }

    proptest! {
        #[test]
        fn what_is_given_is_free(taken in proptest::collection::vec((0u8..8, 20u8..30), 0..12), size in 24u8..28) {
            let taken: Vec<_> = taken.iter().filter_map(|(b, bits)| Network::of([10, 0, *b, 77].into(), *bits)).collect();
            let base: Network = "10.0.0.0/21".parse().expect("a network");
            let pools = Pools::new(vec![Pool { base, size_bits: size }]).expect("a pool");
            let all = (0..1u128 << (size - 21)).map(|n| base.nth(n << (32 - size)).expect("an address"));
            let mut all = all.map(|a| Network::of(a, size).expect("a network"));
            let first = all.find(|n| !taken.iter().any(|t| t.overlaps(n)));
            prop_assert_eq!(pools.first_free(false, &taken), first);
        }
    }
}
