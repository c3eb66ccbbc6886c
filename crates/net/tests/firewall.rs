//! What the packet filter lets through, with packets: a host, another machine and containers, each a namespace of the test's own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use gantry_net::address::{self, Prefixed};
use gantry_net::firewall::{
    FIRST_GROUP, Firewall, NetworkRules, PortMapping, Transport, USER_CHAIN,
};
use gantry_net::link::{self, NewLink};
use gantry_net::nft::{Expression, Family, Table, Transaction, Verdict};
use gantry_net::route::{self, Route};
use gantry_net::{Batch, Protocol, Socket, namespace};

/// A packet that is dropped gets no answer however long one waits; one that is not gets it at once.
const SILENCE: Duration = Duration::from_millis(700);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

fn prefixed(text: &str) -> Prefixed {
    let (address, bits) = text.split_once('/').expect("a prefix");
    Prefixed {
        address: address.parse().expect("an address"),
        prefix_bits: bits.parse().expect("bits"),
    }
}

fn index_of(socket: &mut Socket, name: &str) -> u32 {
    link::list(socket)
        .expect("links")
        .iter()
        .find(|l| l.name == name)
        .expect("the link")
        .index
}

/// A machine: its namespace, and a socket that tells about it.
struct Node {
    namespace: File,
    route: Socket,
}

impl Node {
    fn new() -> Node {
        let namespace = namespace::make().expect("a namespace");
        let mut route = namespace::socket_in(&namespace, Protocol::Route).expect("a socket");
        let mut batch = Batch::new();
        link::set_up(&mut batch, 1, true);
        route.send(&mut batch).expect("lo is up");
        Node { namespace, route }
    }

    fn set(&self, name: &str, value: &str) {
        let done = namespace::within(&self.namespace, || {
            Ok(std::fs::write(format!("/proc/sys/net/{name}"), value)?)
        });
        done.expect("a setting");
    }

    fn bridge(&mut self, name: &str, group: u32, own: &str) -> u32 {
        let mut batch = Batch::new();
        link::make_bridge(
            &mut batch,
            &NewLink {
                name,
                group,
                ..NewLink::default()
            },
        );
        self.route.send(&mut batch).expect("a bridge");
        let index = index_of(&mut self.route, name);
        self.set(&format!("ipv4/conf/{name}/route_localnet"), "1");
        let mut batch = Batch::new();
        address::add(&mut batch, index, prefixed(own), None);
        link::set_up(&mut batch, index, true);
        self.route.send(&mut batch).expect("an address");
        index
    }

    /// A machine at the other end of a new cable, which is plugged into `bridge` if that is given.
    fn connect(&mut self, name: &str, bridge: Option<u32>, own: &str, gateway: &str) -> Node {
        let mut other = Node::new();
        let mut batch = Batch::new();
        let near = NewLink {
            name,
            ..NewLink::default()
        };
        let far = NewLink {
            name: "eth0",
            namespace: Some(other.namespace.as_fd()),
            ..NewLink::default()
        };
        link::make_veth(&mut batch, &near, &far, bridge);
        link::set_up_named(&mut batch, name);
        self.route.send(&mut batch).expect("a pair");
        if let Some(bridge) = bridge {
            let port = index_of(&mut self.route, name);
            let mut batch = Batch::new();
            link::set_port(&mut batch, port, true, false);
            self.route.send(&mut batch).expect("a port");
            assert!(bridge > 0);
        }
        let eth0 = index_of(&mut other.route, "eth0");
        let mut batch = Batch::new();
        address::add(&mut batch, eth0, prefixed(own), None);
        link::set_up(&mut batch, eth0, true);
        let everything = Route {
            to: prefixed("0.0.0.0/0"),
            gateway: gateway.parse().ok(),
            link: 0,
            source: None,
        };
        route::add(&mut batch, &everything);
        other.route.send(&mut batch).expect("it is configured");
        other
    }

    /// A service that says its name and who asks. It runs as long as the test.
    fn serve(&self, port: u16, name: &'static str) {
        let listener = namespace::within(&self.namespace, || {
            Ok(TcpListener::bind(("0.0.0.0", port))?)
        });
        let listener = listener.expect("a port");
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(mut client) = client else { return };
                let from = client.peer_addr().expect("a client").ip();
                write!(client, "{name} {from}").expect("it takes the answer");
            }
        });
    }

    fn try_to_ask(&self, to: &str, timeout: Duration) -> std::io::Result<String> {
        let to: SocketAddr = to.parse().expect("an address and a port");
        let asked = namespace::within(&self.namespace, || {
            let mut stream = TcpStream::connect_timeout(&to, timeout)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        asked.map_err(std::io::Error::other)
    }

    /// What a service answers.
    fn ask(&self, to: &str) -> String {
        self.try_to_ask(to, ANSWER_TIMEOUT)
            .unwrap_or_else(|e| panic!("{to} does not answer: {e}"))
    }

    /// Whether a service cannot be reached.
    fn misses(&self, to: &str) -> bool {
        self.try_to_ask(to, SILENCE).is_err()
    }
}

fn mapping(
    host: &str,
    host_port: u16,
    container: &str,
    container_port: u16,
    count: u16,
) -> PortMapping {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    PortMapping {
        transport: Transport::Tcp,
        host: address(host),
        host_port,
        container: address(container),
        container_port,
        count,
    }
}

fn network(group: u32, subnet: &str) -> NetworkRules {
    NetworkRules {
        group,
        may_talk: true,
        internal: false,
        open: false,
        masqueraded: vec![subnet.parse().expect("a network")],
    }
}

/// A host with two networks, two containers on the first and one on the second, and a machine outside.
struct World {
    host: Node,
    outside: Node,
    first: Node,
    second: Node,
    other: Node,
    filter: Socket,
    firewall: Firewall,
}

const ONE: u32 = FIRST_GROUP + 1;
const TWO: u32 = FIRST_GROUP + 2;

impl World {
    fn new() -> Option<World> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not root: nothing is tested");
            return None;
        }
        let mut host = Node::new();
        host.set("ipv4/ip_forward", "1");
        let outside = host.connect("up0", None, "192.0.2.2/24", "192.0.2.1");
        let up = index_of(&mut host.route, "up0");
        let mut batch = Batch::new();
        address::add(&mut batch, up, prefixed("192.0.2.1/24"), None);
        host.route.send(&mut batch).expect("an address");
        let one = host.bridge("one", ONE, "10.1.0.1/24");
        let two = host.bridge("two", TWO, "10.2.0.1/24");
        let first = host.connect("v1", Some(one), "10.1.0.2/24", "10.1.0.1");
        let second = host.connect("v2", Some(one), "10.1.0.3/24", "10.1.0.1");
        let other = host.connect("v3", Some(two), "10.2.0.2/24", "10.2.0.1");
        first.serve(80, "first");
        for port in 7000..7003 {
            first.serve(port, "first");
        }
        other.serve(80, "other");
        outside.serve(80, "outside");
        let filter = namespace::socket_in(&host.namespace, Protocol::Netfilter).expect("a socket");
        Some(World {
            host,
            outside,
            first,
            second,
            other,
            filter,
            firewall: Firewall::new("gantry"),
        })
    }

    fn change(&mut self, f: impl FnOnce(&Firewall, &mut Transaction)) {
        let mut all = Transaction::new();
        f(&self.firewall, &mut all);
        all.commit(&mut self.filter).expect("the changes are made");
    }
}

/// Bridged packets pass the filters of IP, or they don't (`br_netfilter`): both are common.
#[test]
fn published_ports_with_bridged_packets_filtered() {
    published_ports_and_networks_that_are_apart("1");
}

#[test]
fn published_ports_with_bridged_packets_unfiltered() {
    published_ports_and_networks_that_are_apart("0");
}

fn published_ports_and_networks_that_are_apart(bridged_are_filtered: &str) {
    let Some(mut world) = World::new() else {
        return;
    };
    if std::path::Path::new("/proc/sys/net/bridge").exists() {
        world
            .host
            .set("bridge/bridge-nf-call-iptables", bridged_are_filtered);
    }
    world.firewall.set_up(&mut world.filter).expect("the table");
    assert!(world.firewall.is_whole(&mut world.filter).expect("rules"));
    let any = mapping("0.0.0.0", 8080, "10.1.0.2", 80, 1);
    let local = mapping("127.0.0.1", 8081, "10.1.0.2", 80, 1);
    let range = mapping("192.0.2.1", 7000, "10.1.0.2", 7000, 3);
    let shifted = mapping("0.0.0.0", 9000, "10.1.0.2", 7000, 3);
    world.change(|firewall, all| {
        firewall.add_network(all, &network(ONE, "10.1.0.0/24"));
        firewall.add_network(all, &network(TWO, "10.2.0.0/24"));
        for mapping in [&any, &local, &range, &shifted] {
            firewall.publish(all, mapping);
        }
    });
    let World {
        host,
        outside,
        first,
        second,
        other,
        ..
    } = &world;

    // Beside each other, and out with the host's address.
    assert_eq!(second.ask("10.1.0.2:80"), "first 10.1.0.3");
    assert_eq!(first.ask("192.0.2.2:80"), "outside 192.0.2.1");
    // By published ports: from outside, from the host by any of its addresses, from containers, from itself.
    assert_eq!(outside.ask("192.0.2.1:8080"), "first 192.0.2.2");
    assert_eq!(host.ask("192.0.2.1:8080"), "first 192.0.2.1");
    assert_eq!(host.ask("127.0.0.1:8080"), "first 10.1.0.1");
    assert_eq!(host.ask("127.0.0.1:8081"), "first 10.1.0.1");
    assert_eq!(other.ask("192.0.2.1:8080"), "first 10.1.0.1");
    assert_eq!(second.ask("192.0.2.1:8080"), "first 10.1.0.1");
    assert_eq!(first.ask("192.0.2.1:8080"), "first 10.1.0.1");
    assert_eq!(outside.ask("192.0.2.1:7002"), "first 192.0.2.2");
    assert_eq!(outside.ask("192.0.2.1:9001"), "first 192.0.2.2");
    assert!(host.misses("127.0.0.1:7002"), "of one address only");
    assert!(outside.misses("192.0.2.1:8081"), "of 127.0.0.1 only");
    assert!(outside.misses("192.0.2.1:7003"), "behind the range");
    // Nothing else comes in, neither from outside nor from another network.
    assert!(outside.misses("10.1.0.2:80"));
    assert!(other.misses("10.1.0.2:80"));
    assert!(first.misses("10.2.0.2:80"));
    // The host reaches its containers directly.
    assert_eq!(host.ask("10.2.0.2:80"), "other 10.2.0.1");

    world.change(|firewall, all| firewall.withdraw(all, &any));
    assert!(world.outside.misses("192.0.2.1:8080"));
    let mut twice = Transaction::new();
    world.firewall.publish(&mut twice, &any);
    world.firewall.publish(&mut twice, &local);
    let error = twice
        .commit(&mut world.filter)
        .expect_err("one is published");
    assert!(error.is_exists(), "{error}");
    assert!(
        world.outside.misses("192.0.2.1:8080"),
        "nothing of a refused change is there"
    );
}

#[test]
fn modes_of_networks() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.firewall.set_up(&mut world.filter).expect("the table");
    let internal = NetworkRules {
        internal: true,
        masqueraded: Vec::new(),
        ..network(ONE, "10.1.0.0/24")
    };
    let routed = NetworkRules {
        masqueraded: Vec::new(),
        ..network(TWO, "10.2.0.0/24")
    };
    let opened = mapping("0.0.0.0", 0, "10.2.0.2", 80, 1);
    world.change(|firewall, all| {
        firewall.add_network(all, &internal);
        firewall.add_network(all, &routed);
    });
    assert!(world.first.misses("192.0.2.2:80"), "internal");
    assert_eq!(world.second.ask("10.1.0.2:80"), "first 10.1.0.3");
    assert!(world.outside.misses("10.2.0.2:80"), "not opened");
    world.change(|firewall, all| firewall.open(all, &opened));
    assert_eq!(world.outside.ask("10.2.0.2:80"), "other 192.0.2.2");
    world.change(|firewall, all| {
        firewall.close(all, &opened);
        firewall.remove_network(all, &routed);
        firewall.add_network(
            all,
            &NetworkRules {
                open: true,
                ..routed.clone()
            },
        );
    });
    assert_eq!(
        world.outside.ask("10.2.0.2:80"),
        "other 192.0.2.2",
        "everything is open"
    );
}

#[test]
fn what_is_wrong_is_put_right() {
    let Some(mut world) = World::new() else {
        return;
    };
    let table = Table {
        family: Family::Inet,
        name: "gantry",
    };
    assert!(
        !world
            .firewall
            .is_whole(&mut world.filter)
            .expect("no rules")
    );
    world.firewall.set_up(&mut world.filter).expect("the table");
    let old = mapping("0.0.0.0", 8080, "10.1.0.9", 80, 1);
    let gone = mapping("0.0.0.0", 6000, "10.1.0.9", 6000, 9);
    let any = mapping("0.0.0.0", 8080, "10.1.0.2", 80, 1);
    world.change(|firewall, all| {
        firewall.add_network(all, &network(TWO, "10.2.0.0/24"));
        firewall.publish(all, &old);
        firewall.publish(all, &gone);
        // A rule of the user's, which stays.
        all.add_rule(table, USER_CHAIN, &[Expression::Counter]);
        // Somebody removes ours.
        all.clear_chain(table, "forward");
    });
    assert!(!world.firewall.is_whole(&mut world.filter).expect("rules"));
    world.firewall.set_up(&mut world.filter).expect("the table");
    assert!(world.firewall.is_whole(&mut world.filter).expect("rules"));
    let networks = [network(ONE, "10.1.0.0/24"), network(TWO, "10.2.0.0/24")];
    for _ in 0..2 {
        world
            .firewall
            .reconcile(&mut world.filter, &networks, &[any], &[])
            .expect("elements");
    }
    assert_eq!(world.outside.ask("192.0.2.1:8080"), "first 192.0.2.2");
    let counts = gantry_net::nft::rule_counts(&mut world.filter, table).expect("counts");
    assert_eq!(counts[USER_CHAIN], 1, "the user's rule is there");
    let mut user = Transaction::new();
    user.add_rule(table, USER_CHAIN, &[Expression::Verdict(Verdict::Drop)]);
    user.commit(&mut world.filter).expect("a rule");
    assert!(
        world.outside.misses("192.0.2.1:8080"),
        "the user's rules come first"
    );
    world.firewall.remove(&mut world.filter).expect("removed");
    world
        .firewall
        .remove(&mut world.filter)
        .expect("a second time");
}
