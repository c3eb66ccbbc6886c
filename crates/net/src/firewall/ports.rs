//! Published ports as elements of maps.

use std::net::IpAddr;

use crate::nft::{Element, key};

/// What ports belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Transport {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

/// Ports of the host that lead to ports of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMapping {
    /// What they belong to.
    pub transport: Transport,
    /// Which of the host's addresses; the unspecified one is all of its family.
    pub host: IpAddr,
    /// The first port of the host.
    pub host_port: u16,
    /// The container's address, of the same family.
    pub container: IpAddr,
    /// The first port of the container.
    pub container_port: u16,
    /// How many, from 1: a range of more than one is one element if the numbers are the same on both sides.
    pub count: u16,
}

/// By family: maps for one address of the host, for all of them, and the same for ranges; the set of ports that are open.
pub(super) struct Names {
    pub(super) one: &'static str,
    pub(super) all: &'static str,
    pub(super) range_one: &'static str,
    pub(super) range_all: &'static str,
    pub(super) open: &'static str,
}

pub(super) const NAMES: [Names; 2] = [
    Names {
        one: "ports4",
        all: "any_ports4",
        range_one: "ranges4",
        range_all: "any_ranges4",
        open: "open4",
    },
    Names {
        one: "ports6",
        all: "any_ports6",
        range_one: "ranges6",
        range_all: "any_ranges6",
        open: "open6",
    },
];

impl PortMapping {
    fn names(&self) -> &'static Names {
        &NAMES[usize::from(self.container.is_ipv6())]
    }

    fn key(&self, port: u16) -> Vec<u8> {
        let (protocol, port) = ([self.transport as u8], port.to_be_bytes());
        if self.host.is_unspecified() {
            key(&[&protocol, &port])
        } else {
            key(&[&crate::address::bytes(&self.host), &protocol, &port])
        }
    }

    fn last(first: u16, count: u16) -> u16 {
        first.saturating_add(count.saturating_sub(1))
    }

    /// The elements, and the map that they are in.
    pub(super) fn elements(&self) -> Vec<(&'static str, Vec<Element>)> {
        let names = self.names();
        let to = crate::address::bytes(&self.container);
        let everywhere = self.host.is_unspecified();
        if self.count > 1 && self.host_port == self.container_port {
            let set = if everywhere {
                names.range_all
            } else {
                names.range_one
            };
            let element = Element {
                key: self.key(self.host_port),
                last: Some(self.key(Self::last(self.host_port, self.count))),
                value: Some(to),
                is_behind: false,
            };
            return vec![(set, vec![element])];
        }
        let set = if everywhere { names.all } else { names.one };
        let element = |n: u16| Element {
            key: self.key(self.host_port.saturating_add(n)),
            value: Some(key(&[
                &to,
                &self.container_port.saturating_add(n).to_be_bytes(),
            ])),
            ..Element::default()
        };
        vec![(set, (0..self.count).map(element).collect())]
    }

    /// What lets them be reached at the container's own address.
    pub(super) fn open_element(&self) -> (&'static str, Element) {
        let place = |port: u16| {
            let to = crate::address::bytes(&self.container);
            key(&[&to, &[self.transport as u8], &port.to_be_bytes()])
        };
        let element = Element {
            key: place(self.container_port),
            last: Some(place(Self::last(self.container_port, self.count))),
            ..Element::default()
        };
        (self.names().open, element)
    }
}
