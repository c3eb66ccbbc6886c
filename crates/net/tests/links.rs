//! Against the kernel, in namespaces of the test's own.

use std::os::fd::AsFd;

use gantry_net::address::{self, Prefixed};
use gantry_net::link::{self, NewLink};
use gantry_net::route::{self, Route};
use gantry_net::{Batch, NetError, Protocol, Socket, namespace, neighbour};

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not root: nothing is tested");
    }
    root
}

fn prefixed(text: &str) -> Prefixed {
    let (address, bits) = text.split_once('/').expect("a prefix");
    Prefixed {
        address: address.parse().expect("an address"),
        prefix_bits: bits.parse().expect("bits"),
    }
}

fn index_of(socket: &mut Socket, name: &str) -> u32 {
    let links = link::list(socket).expect("links");
    let found = links.iter().find(|l| l.name == name);
    found
        .unwrap_or_else(|| panic!("{name} is missing in {links:?}"))
        .index
}

#[test]
fn two_namespaces_on_a_bridge_reach_each_other() {
    if !is_root() {
        return;
    }
    let host = namespace::make().expect("a namespace");
    let mut outer = namespace::socket_in(&host, Protocol::Route).expect("a socket");
    let mut batch = Batch::new();
    link::make_bridge(
        &mut batch,
        &NewLink {
            name: "gty0",
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu_bytes: Some(1400),
            ..NewLink::default()
        },
    );
    outer.send(&mut batch).expect("a bridge");
    let bridge = index_of(&mut outer, "gty0");
    let mut batch = Batch::new();
    address::add(
        &mut batch,
        bridge,
        prefixed("10.9.0.1/16"),
        Some("10.9.255.255".parse().expect("an address")),
    );
    link::set_up(&mut batch, bridge, true);
    outer.send(&mut batch).expect("it has an address");

    let mut insides = Vec::new();
    for n in 2u8..4 {
        let inside = namespace::make().expect("a namespace");
        let mac = [2, 0x42, 10, 9, 0, n];
        let name = format!("veth{n}");
        let mut batch = Batch::new();
        let host_end = NewLink {
            name: &name,
            mtu_bytes: Some(1400),
            ..NewLink::default()
        };
        let peer = NewLink {
            name: "eth0",
            mac: Some(mac),
            namespace: Some(inside.as_fd()),
            group: 0,
            mtu_bytes: Some(1400),
        };
        link::make_veth(&mut batch, &host_end, &peer, Some(bridge));
        link::set_up_named(&mut batch, &name);
        outer.send(&mut batch).expect("a pair");
        let mut inner = namespace::socket_in(&inside, Protocol::Route).expect("a socket");
        let eth0 = index_of(&mut inner, "eth0");
        let mut batch = Batch::new();
        link::set_up(&mut batch, 1, true);
        link::set_up(&mut batch, eth0, true);
        address::add(&mut batch, eth0, prefixed(&format!("10.9.0.{n}/16")), None);
        let way = Route {
            to: prefixed("0.0.0.0/0"),
            gateway: Some("10.9.0.1".parse().expect("an address")),
            link: 0,
            source: None,
        };
        route::add(&mut batch, &way);
        neighbour::set(
            &mut batch,
            eth0,
            "10.9.0.1".parse().expect("an address"),
            [2, 0, 0, 0, 0, 1],
        );
        inner.send(&mut batch).expect("it is configured");
        let found = link::list(&mut inner).expect("links");
        let eth0 = found.iter().find(|l| l.name == "eth0").expect("eth0");
        assert_eq!(
            (eth0.mac, eth0.mtu_bytes, eth0.up, &*eth0.kind),
            (Some(mac), 1400, true, "veth")
        );
        let routes = route::list(&mut inner).expect("routes");
        assert!(
            routes
                .iter()
                .any(|r| r.to == way.to && r.gateway == way.gateway),
            "{routes:?}"
        );
        insides.push(inside);
    }
    let receiver = namespace::within(&insides[0], || {
        Ok(std::net::UdpSocket::bind("10.9.0.2:7000")?)
    });
    let receiver = receiver.expect("an address to listen at");
    receiver
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .expect("a timeout");
    let sender = namespace::within(&insides[1], || Ok(std::net::UdpSocket::bind("0.0.0.0:0")?))
        .expect("a socket");
    // Before its port forwards a bridge may wait, and a packet that finds no neighbour yet may be lost.
    let mut got = Err(std::io::ErrorKind::TimedOut.into());
    receiver
        .set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .expect("a timeout");
    for _ in 0..20 {
        sender
            .send_to(b"hello", "10.9.0.2:7000")
            .expect("it is sent");
        got = receiver.recv_from(&mut [0; 16]);
        if got.is_ok() {
            break;
        }
    }
    let (bytes, from) = got.expect("it arrives");
    assert_eq!((bytes, from.ip().to_string().as_str()), (5, "10.9.0.3"));

    // The namespaces' ends take the pairs with them.
    let ports = |outer: &mut Socket| {
        link::list(outer)
            .expect("links")
            .iter()
            .filter(|l| l.master == bridge)
            .count()
    };
    assert_eq!(ports(&mut outer), 2);
    drop((insides, receiver, sender));
    for _ in 0..200 {
        if ports(&mut outer) == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("the pairs stay");
}

#[test]
fn refusals_name_the_message_and_say_why() {
    if !is_root() {
        return;
    }
    let host = namespace::make().expect("a namespace");
    let mut socket = namespace::socket_in(&host, Protocol::Route).expect("a socket");
    let mut batch = Batch::new();
    link::make_bridge(
        &mut batch,
        &NewLink {
            name: "one",
            ..NewLink::default()
        },
    );
    link::make_bridge(
        &mut batch,
        &NewLink {
            name: "one",
            ..NewLink::default()
        },
    );
    link::make_bridge(
        &mut batch,
        &NewLink {
            name: "two",
            ..NewLink::default()
        },
    );
    match socket.send(&mut batch) {
        Err(NetError::Refused {
            index: 1, errno, ..
        }) => assert_eq!(errno, rustix::io::Errno::EXIST),
        other => panic!("{other:?}"),
    }
    // What came after the refused one was done.
    assert!(index_of(&mut socket, "two") > 0);
    let mut batch = Batch::new();
    link::set_up(&mut batch, 4711, true);
    let error = socket.send(&mut batch).expect_err("there is no such link");
    assert!(error.is_missing(), "{error}");
    let mut batch = Batch::new();
    let unknown = Prefixed {
        address: [10, 0, 0, 1].into(),
        prefix_bits: 77,
    };
    address::add(&mut batch, index_of(&mut socket, "one"), unknown, None);
    let error = socket
        .send(&mut batch)
        .expect_err("there is no such prefix");
    assert!(error.to_string().starts_with("invalid argument"), "{error}");
}
