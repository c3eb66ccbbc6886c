//! Packet filters against the kernel, in namespaces of the test's own.

use gantry_net::nft::{
    self, ChainKind, Compare, Element, Expression as E, Family, Field, Hook, HookPoint, Meta,
    NatFamily, Part, Register, Set, SetFlags, Table, Transaction, Verdict, key,
};
use gantry_net::{NetError, Protocol, Socket, namespace};

const TABLE: Table<'static> = Table {
    family: Family::Inet,
    name: "gantry-test",
};

fn socket() -> Option<(std::fs::File, Socket)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: nothing is tested");
        return None;
    }
    let inside = namespace::make().expect("a namespace");
    let socket = namespace::socket_in(&inside, Protocol::Netfilter).expect("a socket");
    Some((inside, socket))
}

fn port_key(port: u16) -> Vec<u8> {
    key(&[&[6], &port.to_be_bytes()])
}

fn to(port: u16) -> Element {
    Element {
        key: port_key(port),
        value: Some(key(&[&[10, 0, 0, 2], &port.to_be_bytes()])),
        ..Element::default()
    }
}

/// A table with a map of ports and a set of networks, and a rule that uses each.
fn set_up(socket: &mut Socket) {
    let mut all = Transaction::new();
    all.add_table(TABLE);
    let map = Set {
        name: "ports",
        key: &[Field::Protocol, Field::Port],
        value: &[Field::Ipv4, Field::Port],
        flags: SetFlags::default(),
    };
    let ranges = Set {
        name: "ranges",
        flags: SetFlags { ranges: true },
        value: &[Field::Ipv4],
        ..map
    };
    let networks = Set {
        name: "networks",
        key: &[Field::Ipv4],
        value: &[],
        flags: SetFlags { ranges: true },
    };
    all.add_set(TABLE, &map);
    all.add_set(TABLE, &ranges);
    all.add_set(TABLE, &networks);
    let hook = |kind, point| {
        Some(Hook {
            kind,
            point,
            priority: -100,
            drops: false,
        })
    };
    all.add_chain(TABLE, "in", hook(ChainKind::Nat, HookPoint::Prerouting));
    all.add_chain(TABLE, "out", hook(ChainKind::Nat, HookPoint::Postrouting));
    all.add_chain(TABLE, "user", None);
    let (zero, one, two) = (Register(0), Register(1), Register(2));
    let v4 = [
        E::Meta(Meta::NfProto, zero),
        E::Compare(zero, Compare::Is, &[2]),
    ];
    let proto_port = [
        E::Meta(Meta::L4Proto, zero),
        E::Bytes(Part::Transport, 2, 2, one),
    ];
    let dnat = [
        &v4[..],
        &proto_port,
        &[
            E::Map("ports", zero, one),
            E::Dnat(NatFamily::V4, one, Some(two)),
        ],
    ]
    .concat();
    all.add_rule(TABLE, "in", &dnat);
    let range = [
        &v4[..],
        &proto_port,
        &[
            E::Map("ranges", zero, one),
            E::Dnat(NatFamily::V4, one, None),
        ],
    ]
    .concat();
    all.add_rule(TABLE, "in", &range);
    let masquerade = [
        &v4[..],
        &[
            E::Bytes(Part::Network, 12, 4, zero),
            E::Lookup("networks", zero, false),
            E::Masquerade,
        ],
    ]
    .concat();
    all.add_rule(TABLE, "out", &masquerade);
    all.add_rule(
        TABLE,
        "out",
        &[E::Counter, E::Verdict(Verdict::Jump("user"))],
    );
    all.commit(socket).expect("the tables are made");
}

#[test]
fn tables_maps_and_rules_are_made_as_asked() {
    let Some((inside, mut socket)) = socket() else {
        return;
    };
    set_up(&mut socket);
    // A second time nothing happens to what is there, but for the rules.
    let counts = nft::rule_counts(&mut socket, TABLE).expect("counts");
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [("in".into(), 2), ("out".into(), 2), ("user".into(), 0)]
    );

    let mut some = Transaction::new();
    some.add_new_elements(TABLE, "ports", &[to(80), to(443)]);
    let range = Element {
        key: port_key(8000),
        last: Some(port_key(17_999)),
        value: Some(vec![10, 0, 0, 3]),
        ..Element::default()
    };
    some.add_elements(TABLE, "ranges", std::slice::from_ref(&range));
    some.add_elements(
        TABLE,
        "networks",
        &Element::network([10, 0, 0, 0].into(), 8),
    );
    some.commit(&mut socket).expect("elements");
    let mut found = nft::elements(&mut socket, TABLE, "ports").expect("elements");
    found.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(found, [to(80), to(443)]);
    assert_eq!(
        nft::elements(&mut socket, TABLE, "ranges").expect("elements"),
        [range]
    );

    // What is listed reads as it was meant.
    if let Ok(listed) = namespace::within(&inside, || {
        Ok(std::process::Command::new("nft")
            .args(["list", "ruleset"])
            .output()?)
    }) {
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        for wanted in [
            "tcp . 443 : 10.0.0.2 . 443",
            "tcp . 8000-17999 : 10.0.0.3",
            "ip saddr @networks masquerade",
            "10.0.0.0/8",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing in {text}");
        }
    }

    // One change that cannot be made, and none is.
    let mut mixed = Transaction::new();
    mixed.add_elements(TABLE, "ports", &[to(22)]);
    mixed.add_new_elements(TABLE, "ports", &[to(80)]);
    let error = mixed.commit(&mut socket).expect_err("80 is taken");
    assert!(error.is_exists(), "{error}");
    let mut none = Transaction::new();
    none.remove_elements(TABLE, "ports", &[to(22)]);
    let error = none.commit(&mut socket).expect_err("22 is not there");
    assert!(error.is_missing(), "{error}");

    let mut gone = Transaction::new();
    gone.clear_set(TABLE, "ports");
    gone.clear_chain(TABLE, "in");
    gone.commit(&mut socket).expect("cleared");
    assert_eq!(
        nft::elements(&mut socket, TABLE, "ports").expect("elements"),
        []
    );
    assert_eq!(
        nft::rule_counts(&mut socket, TABLE).expect("counts")["in"],
        0
    );
    let mut last = Transaction::new();
    last.remove_table(TABLE);
    last.commit(&mut socket).expect("removed");
    assert!(
        nft::rule_counts(&mut socket, TABLE)
            .expect("counts")
            .is_empty()
    );
}

#[test]
fn many_elements_take_several_transactions() {
    let Some((_inside, mut socket)) = socket() else {
        return;
    };
    set_up(&mut socket);
    let all: Vec<Element> = (1..=5000).map(to).collect();
    let mut large = Transaction::new();
    for chunk in all.chunks(500) {
        large.add_elements(TABLE, "ports", chunk);
    }
    assert!(!large.has_room(0));
    assert!(matches!(large.commit(&mut socket), Err(NetError::TooLarge)));
    for chunk in all.chunks(500) {
        let mut some = Transaction::new();
        some.add_elements(TABLE, "ports", chunk);
        assert!(some.has_room(0));
        some.commit(&mut socket).expect("elements");
    }
    assert_eq!(
        nft::elements(&mut socket, TABLE, "ports")
            .expect("elements")
            .len(),
        5000
    );
}
