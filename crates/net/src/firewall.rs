//! The packet filter of all bridge networks: one table, a constant number of rules, and an element for what differs.
//!
//! Which network a link belongs to is told by its group (`ip link ... group N`): a bridge has its network's, and so has the
//! host's end of an endpoint that is routed. Nobody else uses groups above [`FIRST_GROUP`]. So a rule needs to know neither
//! links nor addresses:
//!
//! - forwarding: `iifgroup . oifgroup` is looked up among the pairs that may talk; what goes to a network from elsewhere must
//!   have come by a published port, or the network's mode must let it through;
//! - published ports are elements of maps; ranges whose numbers are the same inside are elements of other ones, for sets of
//!   ranges are copied by the kernel at every change;
//! - users have the chain [`USER_CHAIN`], which is seen first and never changed.

mod ports;
mod rules;

pub use ports::{PortMapping, Transport};

use crate::error::NetError;
use crate::ipam::Network;
use crate::nft::{self, Element, Family, Table, Transaction, key};
use crate::socket::Socket;

/// Groups of links from here on are ours.
pub const FIRST_GROUP: u32 = 0x4000_0000;
/// Rules of users go here: it is looked at before ours, and what it drops is dropped.
pub const USER_CHAIN: &str = "user";

/// Groups of our networks.
const NETWORKS: &str = "networks";
/// Pairs of groups, from and to, that may talk.
const PAIRS: &str = "pairs";
/// Groups of networks that nothing leaves or enters.
const INTERNAL: &str = "internal";
/// Groups of networks that everything may enter.
const OPEN_NETWORKS: &str = "open_networks";
/// Networks whose addresses are not seen outside.
const MASQUERADED: [&str; 2] = ["masqueraded4", "masqueraded6"];

/// What the filter has to know of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRules {
    /// Of its links, from [`FIRST_GROUP`] on.
    pub group: u32,
    /// Its containers may talk to each other by the host (on a bridge they do it past the filter).
    pub may_talk: bool,
    /// Nothing goes in or out.
    pub internal: bool,
    /// Everything may come in (`nat-unprotected`).
    pub open: bool,
    /// Subnets that go out with the host's address.
    pub masqueraded: Vec<Network>,
}

/// The table of one engine.
#[derive(Clone, Debug)]
pub struct Firewall {
    name: String,
}

fn group(group: u32) -> Element {
    Element {
        key: group.to_ne_bytes().to_vec(),
        ..Element::default()
    }
}

impl Firewall {
    /// The table with this name.
    pub fn new(name: &str) -> Firewall {
        Firewall {
            name: name.to_owned(),
        }
    }

    fn table(&self) -> Table<'_> {
        Table {
            family: Family::Inet,
            name: &self.name,
        }
    }

    /// Makes the table, sets and chains, or puts the rules of those that are there in place again: in one transaction, so that no
    /// packet meets half of them. Elements and the users' chain stay as they are.
    pub fn set_up(&self, socket: &mut Socket) -> Result<(), NetError> {
        let mut all = Transaction::new();
        rules::put(&mut all, self.table());
        all.commit(socket)
    }

    /// Whether all rules are there: somebody may have flushed them.
    pub fn is_whole(&self, socket: &mut Socket) -> Result<bool, NetError> {
        let counts = nft::rule_counts(socket, self.table())?;
        let whole = |(chain, rules): &(&str, usize)| counts.get(*chain) == Some(rules);
        Ok(rules::counts().iter().all(whole) && counts.contains_key(USER_CHAIN))
    }

    /// Removes the table and all that is in it.
    pub fn remove(&self, socket: &mut Socket) -> Result<(), NetError> {
        let mut all = Transaction::new();
        all.remove_table(self.table());
        match all.commit(socket) {
            Err(e) if e.is_missing() => Ok(()),
            other => other,
        }
    }

    /// Adds a network, or changes nothing if it is there.
    pub fn add_network(&self, all: &mut Transaction, rules: &NetworkRules) {
        for (set, element) in self.elements_of(rules) {
            all.add_elements(self.table(), set, &element);
        }
    }

    /// Removes a network that was added so.
    pub fn remove_network(&self, all: &mut Transaction, rules: &NetworkRules) {
        for (set, element) in self.elements_of(rules) {
            all.remove_elements(self.table(), set, &element);
        }
    }

    fn elements_of(&self, rules: &NetworkRules) -> Vec<(&'static str, Vec<Element>)> {
        let own = vec![group(rules.group)];
        let mut found = vec![(NETWORKS, own.clone())];
        if rules.may_talk {
            let bytes = rules.group.to_ne_bytes();
            let pair = Element {
                key: key(&[&bytes, &bytes]),
                ..Element::default()
            };
            found.push((PAIRS, vec![pair]));
        }
        if rules.internal {
            found.push((INTERNAL, own.clone()));
        }
        if rules.open {
            found.push((OPEN_NETWORKS, own));
        }
        for network in &rules.masqueraded {
            let set = MASQUERADED[usize::from(network.first().is_ipv6())];
            found.push((
                set,
                Element::network(network.first(), network.prefix_bits()),
            ));
        }
        found
    }

    /// Publishes ports. One that is published already fails the transaction with EEXIST.
    pub fn publish(&self, all: &mut Transaction, mapping: &PortMapping) {
        for (set, elements) in mapping.elements() {
            all.add_new_elements(self.table(), set, &elements);
        }
    }

    /// Takes published ports back.
    pub fn withdraw(&self, all: &mut Transaction, mapping: &PortMapping) {
        for (set, elements) in mapping.elements() {
            all.remove_elements(self.table(), set, &elements);
        }
    }

    /// Lets ports of a container be reached at its own address, where that is routed.
    pub fn open(&self, all: &mut Transaction, mapping: &PortMapping) {
        let (set, element) = mapping.open_element();
        all.add_elements(self.table(), set, &[element]);
    }

    /// Ends that.
    pub fn close(&self, all: &mut Transaction, mapping: &PortMapping) {
        let (set, element) = mapping.open_element();
        all.remove_elements(self.table(), set, &[element]);
    }

    /// Makes the elements of the table those of these networks and ports: adds what is missing, removes what is too much, and
    /// touches nothing else. After a crash, while packets flow.
    pub fn reconcile(
        &self,
        socket: &mut Socket,
        networks: &[NetworkRules],
        published: &[PortMapping],
        opened: &[PortMapping],
    ) -> Result<(), NetError> {
        let mut wanted: std::collections::BTreeMap<&str, Vec<Element>> =
            rules::sets().map(|s| (s.name, Vec::new())).collect();
        let elements = networks.iter().flat_map(|n| self.elements_of(n));
        let elements = elements.chain(published.iter().flat_map(PortMapping::elements));
        let opened = opened.iter().map(|m| {
            let (set, element) = m.open_element();
            (set, vec![element])
        });
        for (set, mut elements) in elements.chain(opened) {
            wanted.entry(set).or_default().append(&mut elements);
        }
        for (set, wanted) in wanted {
            self.reconcile_set(socket, set, &wanted)?;
        }
        Ok(())
    }

    fn reconcile_set(
        &self,
        socket: &mut Socket,
        set: &str,
        wanted: &[Element],
    ) -> Result<(), NetError> {
        /// Elements of one transaction: each takes less than 200 bytes.
        const MOST: usize = 400;
        use std::collections::HashSet;
        let table = self.table();
        let there: HashSet<Element> = nft::elements(socket, table, set)?.into_iter().collect();
        let wanted: HashSet<&Element> = wanted.iter().collect();
        let too_much: Vec<Element> = there
            .iter()
            .filter(|e| !wanted.contains(e))
            .cloned()
            .collect();
        let missing: Vec<Element> = wanted
            .into_iter()
            .filter(|e| !there.contains(e))
            .cloned()
            .collect();
        if too_much.len() + missing.len() > MOST {
            for some in too_much.chunks(MOST) {
                let mut all = Transaction::new();
                all.remove_elements(table, set, some);
                all.commit(socket)?;
            }
            for some in missing.chunks(MOST) {
                let mut all = Transaction::new();
                all.add_elements(table, set, some);
                all.commit(socket)?;
            }
            return Ok(());
        }
        let mut all = Transaction::new();
        if !too_much.is_empty() {
            all.remove_elements(table, set, &too_much);
        }
        if !missing.is_empty() {
            all.add_elements(table, set, &missing);
        }
        all.commit(socket)
    }
}
