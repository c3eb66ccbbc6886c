//! The sets, chains and rules.

use super::ports::NAMES;
use super::{INTERNAL, MASQUERADED, NETWORKS, OPEN_NETWORKS, PAIRS, USER_CHAIN};
use crate::nft::{
    ChainKind, Compare, Ct, Expression as E, Fib, Field, Hook, HookPoint, Meta, NatFamily, Part,
    Register, Set, SetFlags, Table, Transaction, Verdict,
};

const V4: [u8; 1] = [2];
const V6: [u8; 1] = [10];
/// 127.0.0.0/8.
const LOOPBACK: [u8; 4] = [127, 0, 0, 0];
const LOOPBACK_MASK: [u8; 4] = [255, 0, 0, 0];
const ZERO: [u8; 4] = [0; 4];
const LOCAL: [u8; 4] = Fib::LOCAL.to_ne_bytes();
const GOING_ON: [u8; 4] = (Ct::ESTABLISHED | Ct::RELATED).to_ne_bytes();
const DNAT: [u8; 4] = Ct::DNAT.to_ne_bytes();

const R0: Register = Register(0);
const R1: Register = Register(1);

/// Sees packets before they are routed, and before connections are known (`raw`).
const EARLY: &str = "early";
const PORTS: &str = "ports";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const FORWARD: &str = "forward";
const POSTROUTING: &str = "postrouting";

/// Offsets and lengths of a header's addresses, and in which registers things come to lie behind one.
struct Layout {
    family: &'static [u8; 1],
    nat: NatFamily,
    source: (u32, u32),
    destination: (u32, u32),
    /// Registers that an address takes.
    words: u8,
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        family: &V4,
        nat: NatFamily::V4,
        source: (12, 4),
        destination: (16, 4),
        words: 1,
    },
    Layout {
        family: &V6,
        nat: NatFamily::V6,
        source: (8, 16),
        destination: (24, 16),
        words: 4,
    },
];

/// All sets.
pub(super) fn sets() -> impl Iterator<Item = Set<'static>> {
    const GROUP: &[Field] = &[Field::Group];
    const ADDRESSES: [Field; 2] = [Field::Ipv4, Field::Ipv6];
    const ONE: [&[Field]; 2] = [
        &[Field::Ipv4, Field::Protocol, Field::Port],
        &[Field::Ipv6, Field::Protocol, Field::Port],
    ];
    const ALL: &[Field] = &[Field::Protocol, Field::Port];
    const TO: [&[Field]; 2] = [&[Field::Ipv4, Field::Port], &[Field::Ipv6, Field::Port]];
    const TO_ADDRESS: [&[Field]; 2] = [&[ADDRESSES[0]], &[ADDRESSES[1]]];
    let set = |name, key, value, ranges| Set {
        name,
        key,
        value,
        flags: SetFlags { ranges },
    };
    let mut all = vec![
        set(NETWORKS, GROUP, &[], false),
        set(INTERNAL, GROUP, &[], false),
        set(OPEN_NETWORKS, GROUP, &[], false),
        set(PAIRS, &[Field::Group, Field::Group], &[], false),
    ];
    for (n, names) in NAMES.iter().enumerate() {
        all.extend([
            set(MASQUERADED[n], TO_ADDRESS[n], &[], true),
            set(names.one, ONE[n], TO[n], false),
            set(names.all, ALL, TO[n], false),
            set(names.range_one, ONE[n], TO_ADDRESS[n], true),
            set(names.range_all, ALL, TO_ADDRESS[n], true),
            set(names.open, ONE[n], &[], true),
        ]);
    }
    all.into_iter()
}

type Rule = Vec<E<'static>>;

fn family(layout: &Layout) -> [E<'static>; 2] {
    [
        E::Meta(Meta::NfProto, R0),
        E::Compare(R0, Compare::Is, layout.family),
    ]
}

/// Protocol and destination port, from this register on.
fn port(at: Register) -> [E<'static>; 2] {
    [
        E::Meta(Meta::L4Proto, at),
        E::Bytes(Part::Transport, 2, 2, Register(at.0 + 1)),
    ]
}

fn in_set(meta: Meta, set: &'static str) -> [E<'static>; 2] {
    [E::Meta(meta, R0), E::Lookup(set, R0, false)]
}

fn has_bits(key: Ct, bits: &'static [u8; 4]) -> [E<'static>; 3] {
    [
        E::Ct(key, R0),
        E::Mask(R0, bits),
        E::Compare(R0, Compare::IsNot, &ZERO),
    ]
}

fn rule(parts: &[&[E<'static>]]) -> Rule {
    parts.concat()
}

/// Published ports: the more exact maps first.
fn port_rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for (layout, names) in LAYOUTS.iter().zip(&NAMES) {
        let (offset, len) = layout.destination;
        let address = [E::Bytes(Part::Network, offset, len, R0)];
        let (behind, port_at) = (Register(layout.words), Register(layout.words));
        let to = E::Dnat(layout.nat, R0, Some(port_at));
        let to_range = E::Dnat(layout.nat, R0, None);
        rules.extend([
            rule(&[
                &family(layout),
                &address,
                &port(behind),
                &[E::Map(names.one, R0, R0), to],
            ]),
            rule(&[
                &family(layout),
                &address,
                &port(behind),
                &[E::Map(names.range_one, R0, R0), to_range],
            ]),
            rule(&[&family(layout), &port(R0), &[E::Map(names.all, R0, R0), to]]),
            rule(&[
                &family(layout),
                &port(R0),
                &[E::Map(names.range_all, R0, R0), to_range],
            ]),
        ]);
    }
    rules
}

fn to_local() -> Vec<Rule> {
    vec![vec![
        E::Fib(Fib::DestinationType, R0),
        E::Compare(R0, Compare::Is, &LOCAL),
        E::Verdict(Verdict::Jump(PORTS)),
    ]]
}

/// Links of containers let packets to the loopback network pass (published ports of 127.0.0.1 need that): none may come from
/// a container.
fn early_rules() -> Vec<Rule> {
    let (offset, len) = LAYOUTS[0].destination;
    let loopback = [
        E::Bytes(Part::Network, offset, len, R0),
        E::Mask(R0, &LOOPBACK_MASK),
        E::Compare(R0, Compare::Is, &LOOPBACK),
    ];
    let drop = [E::Verdict(Verdict::Drop)];
    vec![rule(&[
        &in_set(Meta::IifGroup, NETWORKS),
        &family(&LAYOUTS[0]),
        &loopback,
        &drop,
    ])]
}

fn forward_rules() -> Vec<Rule> {
    let accept = [E::Verdict(Verdict::Accept)];
    let drop = [E::Verdict(Verdict::Drop)];
    let pair = [
        E::Meta(Meta::IifGroup, R0),
        E::Meta(Meta::OifGroup, R1),
        E::Lookup(PAIRS, R0, false),
    ];
    let into = in_set(Meta::OifGroup, NETWORKS);
    let mut rules = vec![
        vec![E::Verdict(Verdict::Jump(USER_CHAIN))],
        rule(&[&has_bits(Ct::State, &GOING_ON), &accept]),
        rule(&[&pair, &accept]),
        rule(&[&in_set(Meta::IifGroup, INTERNAL), &drop]),
        rule(&[&in_set(Meta::OifGroup, INTERNAL), &drop]),
        rule(&[&into, &has_bits(Ct::Status, &DNAT), &accept]),
        rule(&[&in_set(Meta::OifGroup, OPEN_NETWORKS), &accept]),
    ];
    for (layout, names) in LAYOUTS.iter().zip(&NAMES) {
        let (offset, len) = layout.destination;
        let address = [E::Bytes(Part::Network, offset, len, R0)];
        let found = [E::Lookup(names.open, R0, false)];
        rules.push(rule(&[
            &into,
            &family(layout),
            &address,
            &port(Register(layout.words)),
            &found,
            &accept,
        ]));
    }
    rules.push(rule(&[&into, &drop]));
    rules
}

fn postrouting_rules() -> Vec<Rule> {
    let into = in_set(Meta::OifGroup, NETWORKS);
    let masquerade = [E::Masquerade];
    let source = |layout: &Layout| E::Bytes(Part::Network, layout.source.0, layout.source.1, R0);
    let mut rules = Vec::new();
    // By a published port from a container to one beside it: the answer has to come back by the host.
    for (layout, set) in LAYOUTS.iter().zip(MASQUERADED) {
        let ours = [source(layout), E::Lookup(set, R0, false)];
        rules.push(rule(&[
            &into,
            &has_bits(Ct::Status, &DNAT),
            &family(layout),
            &ours,
            &masquerade,
        ]));
    }
    let loopback = [
        source(&LAYOUTS[0]),
        E::Mask(R0, &LOOPBACK_MASK),
        E::Compare(R0, Compare::Is, &LOOPBACK),
    ];
    rules.push(rule(&[&into, &family(&LAYOUTS[0]), &loopback, &masquerade]));
    rules.push(rule(&[&into, &[E::Verdict(Verdict::Return)]]));
    for (layout, set) in LAYOUTS.iter().zip(MASQUERADED) {
        let ours = [source(layout), E::Lookup(set, R0, false)];
        rules.push(rule(&[&family(layout), &ours, &masquerade]));
    }
    rules
}

struct Chain {
    name: &'static str,
    hook: Option<Hook>,
    rules: Vec<Rule>,
}

/// All chains but the users'.
fn chains() -> [Chain; 6] {
    let hook = |kind, point, priority| {
        Some(Hook {
            kind,
            point,
            priority,
            drops: false,
        })
    };
    use ChainKind::{Filter, Nat};
    let chain = |name, hook, rules| Chain { name, hook, rules };
    [
        chain(PORTS, None, port_rules()),
        chain(
            EARLY,
            hook(Filter, HookPoint::Prerouting, -300),
            early_rules(),
        ),
        chain(
            PREROUTING,
            hook(Nat, HookPoint::Prerouting, -100),
            to_local(),
        ),
        chain(OUTPUT, hook(Nat, HookPoint::Output, -100), to_local()),
        chain(
            FORWARD,
            hook(Filter, HookPoint::Forward, 0),
            forward_rules(),
        ),
        chain(
            POSTROUTING,
            hook(Nat, HookPoint::Postrouting, 100),
            postrouting_rules(),
        ),
    ]
}

/// How many rules each chain has.
pub(super) fn counts() -> [(&'static str, usize); 6] {
    chains().map(|c| (c.name, c.rules.len()))
}

/// Everything, with the rules of what is there exchanged.
pub(super) fn put(all: &mut Transaction, table: Table<'_>) {
    all.add_table(table);
    for set in sets() {
        all.add_set(table, &set);
    }
    all.add_chain(table, USER_CHAIN, None);
    let chains = chains();
    for chain in &chains {
        all.add_chain(table, chain.name, chain.hook);
    }
    for chain in &chains {
        all.clear_chain(table, chain.name);
        for rule in &chain.rules {
            all.add_rule(table, chain.name, rule);
        }
    }
}
