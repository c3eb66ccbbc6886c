//! Links: bridges, veth pairs, macvlan and ipvlan; their names, addresses and states.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::NetError;
use crate::message::{Attributes, Batch, NLM_F_CREATE, NLM_F_EXCL, Request};
use crate::socket::Socket;

/// Longest name of a link, without the zero byte.
pub const MAX_NAME_BYTES: usize = 15;
/// Ports of a bridge (`BR_MAX_PORTS`, less the one that is never given); the next one is refused with EXFULL.
pub const MAX_BRIDGE_PORTS: usize = 1023;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;

const IFF_UP: u32 = 1;
const HEAD_BYTES: usize = 16;

/// `struct ifinfomsg`.
fn head(index: u32, flags: u32, change: u32) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&change.to_ne_bytes());
    head
}

/// A hardware address.
pub type Mac = [u8; 6];

/// What a link has of its own when it is made. Empty: what the kernel gives it.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewLink<'a> {
    /// At most [`MAX_NAME_BYTES`].
    pub name: &'a str,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Largest packet, in bytes.
    pub mtu_bytes: Option<u32>,
    /// Its group; 0 is everybody's.
    pub group: u32,
    /// It is made in this namespace.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl NewLink<'_> {
    fn put(&self, request: &mut Request<'_>) {
        request.put_text(IFLA_IFNAME, self.name);
        if let Some(mac) = self.mac {
            request.put(IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = self.mtu_bytes {
            request.put_u32(IFLA_MTU, mtu);
        }
        if self.group != 0 {
            request.put_u32(IFLA_GROUP, self.group);
        }
        if let Some(namespace) = self.namespace {
            request.put_u32(IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
        }
    }
}

/// How the links on one parent reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MacvlanMode {
    /// Not at all, but by a switch outside that sends back.
    Private = 1,
    /// By a switch outside.
    Vepa = 2,
    /// Directly.
    Bridge = 4,
    /// One child gets all of the parent.
    Passthru = 8,
}

/// What an ipvlan looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum IpvlanMode {
    /// Hardware addresses.
    L2 = 0,
    /// IP addresses.
    L3 = 1,
    /// IP addresses, and the host's packet filters see it.
    L3s = 2,
}

/// Who may talk to whom on an ipvlan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum IpvlanFlag {
    /// Everybody.
    Bridge = 0,
    /// Nobody.
    Private = 1,
    /// By a switch outside.
    Vepa = 2,
}

/// Makes a bridge.
pub fn make_bridge(batch: &mut Batch, link: &NewLink<'_>) {
    let mut request = batch.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &head(0, 0, 0));
    link.put(&mut request);
    request.nest(IFLA_LINKINFO, |r| {
        r.put_text(IFLA_INFO_KIND, "bridge");
    });
}

/// Makes a pair of links: `host` here and on `bridge`, if that is given (its index), `peer` in its namespace. The peer is down:
/// to make it up across namespaces the kernel answers ENOTCONN.
pub fn make_veth(batch: &mut Batch, host: &NewLink<'_>, peer: &NewLink<'_>, bridge: Option<u32>) {
    let mut request = batch.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &head(0, 0, 0));
    host.put(&mut request);
    if let Some(index) = bridge {
        request.put_u32(IFLA_MASTER, index);
    }
    request.nest(IFLA_LINKINFO, |r| {
        r.put_text(IFLA_INFO_KIND, "veth");
        r.nest(IFLA_INFO_DATA, |r| {
            r.nest(VETH_INFO_PEER, |r| {
                r.raw(&head(0, 0, 0));
                peer.put(r);
            });
        });
    });
}

/// Makes a macvlan on a parent link.
pub fn make_macvlan(batch: &mut Batch, link: &NewLink<'_>, parent: u32, mode: MacvlanMode) {
    let mut request = batch.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &head(0, 0, 0));
    link.put(&mut request);
    request.put_u32(IFLA_LINK, parent);
    request.nest(IFLA_LINKINFO, |r| {
        r.put_text(IFLA_INFO_KIND, "macvlan");
        r.nest(IFLA_INFO_DATA, |r| {
            r.put_u32(IFLA_MACVLAN_MODE, mode as u32);
        });
    });
}

/// Makes an ipvlan on a parent link.
pub fn make_ipvlan(
    batch: &mut Batch,
    link: &NewLink<'_>,
    parent: u32,
    mode: IpvlanMode,
    flag: IpvlanFlag,
) {
    let mut request = batch.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &head(0, 0, 0));
    link.put(&mut request);
    request.put_u32(IFLA_LINK, parent);
    request.nest(IFLA_LINKINFO, |r| {
        r.put_text(IFLA_INFO_KIND, "ipvlan");
        r.nest(IFLA_INFO_DATA, |r| {
            r.put_u16(IFLA_IPVLAN_MODE, mode as u16);
            r.put_u16(IFLA_IPVLAN_FLAGS, flag as u16);
        });
    });
}

/// Makes a link that goes nowhere: the parent of networks that have none.
pub fn make_dummy(batch: &mut Batch, link: &NewLink<'_>) {
    let mut request = batch.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &head(0, 0, 0));
    link.put(&mut request);
    request.nest(IFLA_LINKINFO, |r| {
        r.put_text(IFLA_INFO_KIND, "dummy");
    });
}

/// Puts a link into use or out of it.
pub fn set_up(batch: &mut Batch, index: u32, up: bool) {
    let flags = if up { IFF_UP } else { 0 };
    batch.request(RTM_NEWLINK, 0, &head(index, flags, IFF_UP));
}

/// The same by name, for one that the batch has just made.
pub fn set_up_named(batch: &mut Batch, name: &str) {
    let mut request = batch.request(RTM_NEWLINK, 0, &head(0, IFF_UP, IFF_UP));
    request.put_text(IFLA_IFNAME, name);
}

/// Changes a link's largest packet.
pub fn set_mtu(batch: &mut Batch, index: u32, mtu_bytes: u32) {
    let mut request = batch.request(RTM_NEWLINK, 0, &head(index, 0, 0));
    request.put_u32(IFLA_MTU, mtu_bytes);
}

/// Gives a link a name; it must be down.
pub fn rename(batch: &mut Batch, index: u32, name: &str) {
    let mut request = batch.request(RTM_NEWLINK, 0, &head(index, 0, 0));
    request.put_text(IFLA_IFNAME, name);
}

/// How a bridge's port behaves: sends back what came in by it (for a container that reaches itself by a published port),
/// and talks to no other such port if `isolated`.
pub fn set_port(batch: &mut Batch, index: u32, hairpin: bool, isolated: bool) {
    /// `AF_BRIDGE`: the message is about a port.
    const AF_BRIDGE: u8 = 7;
    let mut head = head(index, 0, 0);
    head[0] = AF_BRIDGE;
    let mut request = batch.request(RTM_SETLINK, 0, &head);
    request.nest(IFLA_PROTINFO, |r| {
        r.put_u8(IFLA_BRPORT_MODE, u8::from(hairpin));
        r.put_u8(IFLA_BRPORT_ISOLATED, u8::from(isolated));
    });
}

/// Removes a link, and its peer. One alone takes the kernel 24 to 28 ms: not where somebody waits.
pub fn remove(batch: &mut Batch, index: u32) {
    batch.request(RTM_DELLINK, 0, &head(index, 0, 0));
}

/// A link that there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is in use.
    pub up: bool,
    /// Hardware address, if it has one of six bytes.
    pub mac: Option<Mac>,
    /// Largest packet, in bytes.
    pub mtu_bytes: u32,
    /// What it is: `veth`, `bridge`, …; empty for devices.
    pub kind: String,
    /// The bridge it is a port of; 0 for none.
    pub master: u32,
    /// Its parent or peer; 0 for none.
    pub parent: u32,
    /// Its group.
    pub group: u32,
}

impl Link {
    fn parse(payload: &[u8]) -> Option<Link> {
        let head = payload.first_chunk::<HEAD_BYTES>()?;
        let attributes = Attributes::new(&payload[HEAD_BYTES..]);
        let number =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mac = attributes.find(IFLA_ADDRESS);
        Some(Link {
            index: number(4),
            name: attributes.text(IFLA_IFNAME)?.to_owned(),
            up: number(8) & IFF_UP != 0,
            mac: mac.and_then(|m| m.try_into().ok()),
            mtu_bytes: attributes.u32(IFLA_MTU).unwrap_or(0),
            kind: attributes
                .inside(IFLA_LINKINFO)
                .text(IFLA_INFO_KIND)
                .unwrap_or_default()
                .to_owned(),
            master: attributes.u32(IFLA_MASTER).unwrap_or(0),
            parent: attributes.u32(IFLA_LINK).unwrap_or(0),
            group: attributes.u32(IFLA_GROUP).unwrap_or(0),
        })
    }
}

/// All links of the socket's namespace.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>, NetError> {
    let mut links = Vec::new();
    socket.dump(RTM_GETLINK, &head(0, 0, 0), |kind, payload| {
        if kind == RTM_NEWLINK {
            links.extend(Link::parse(payload));
        }
    })?;
    Ok(links)
}
