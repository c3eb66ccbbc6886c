//! Routes.

use std::net::IpAddr;

use crate::address::{self, Prefixed};
use crate::error::NetError;
use crate::message::{Attributes, Batch, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use crate::socket::Socket;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const HEAD_BYTES: usize = 12;

/// The table that everything looks at.
const TABLE_MAIN: u8 = 254;
/// Who made it: somebody at boot.
const PROTOCOL_BOOT: u8 = 3;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const TYPE_UNICAST: u8 = 1;

/// A way to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to. The unspecified address with 0 bits is everything.
    pub to: Prefixed,
    /// The next station; none if the network is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Out of which link; 0: the one that the gateway is on.
    pub link: u32,
    /// The address that packets get.
    pub source: Option<IpAddr>,
}

/// `struct rtmsg`.
fn head(route: &Route) -> [u8; HEAD_BYTES] {
    let scope = match route.gateway {
        None if route.to.address.is_ipv4() => SCOPE_LINK,
        _ => SCOPE_UNIVERSE,
    };
    let family = address::family(route.to.address);
    let prefix = route.to.prefix_bits;
    [
        family,
        prefix,
        0,
        0,
        TABLE_MAIN,
        PROTOCOL_BOOT,
        scope,
        TYPE_UNICAST,
        0,
        0,
        0,
        0,
    ]
}

fn put(batch: &mut Batch, kind: u16, flags: u16, route: &Route) {
    let mut request = batch.request(kind, flags, &head(route));
    if route.to.prefix_bits > 0 {
        request.put(RTA_DST, &address::bytes(&route.to.address));
    }
    if let Some(gateway) = route.gateway {
        request.put(RTA_GATEWAY, &address::bytes(&gateway));
    }
    if route.link != 0 {
        request.put_u32(RTA_OIF, route.link);
    }
    if let Some(source) = route.source {
        request.put(RTA_PREFSRC, &address::bytes(&source));
    }
}

/// Adds a route; one that is there already is refused.
pub fn add(batch: &mut Batch, route: &Route) {
    put(batch, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route);
}

/// Adds a route, or puts it in the place of the one to the same network.
pub fn replace(batch: &mut Batch, route: &Route) {
    put(batch, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route);
}

/// Removes a route.
pub fn remove(batch: &mut Batch, route: &Route) {
    put(batch, RTM_DELROUTE, 0, route);
}

/// The unicast routes of the main table.
pub fn list(socket: &mut Socket) -> Result<Vec<Route>, NetError> {
    let mut found = Vec::new();
    socket.dump(RTM_GETROUTE, &[0; HEAD_BYTES], |kind, payload| {
        if kind == RTM_NEWROUTE {
            found.extend(parse(payload));
        }
    })?;
    Ok(found)
}

fn parse(payload: &[u8]) -> Option<Route> {
    let head = payload.first_chunk::<HEAD_BYTES>()?;
    let attributes = Attributes::new(&payload[HEAD_BYTES..]);
    let table = attributes.u32(RTA_TABLE).unwrap_or(u32::from(head[4]));
    if table != u32::from(TABLE_MAIN) || head[7] != TYPE_UNICAST {
        return None;
    }
    let anywhere = match head[0] {
        address::AF_INET => IpAddr::from([0; 4]),
        address::AF_INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let found = |kind| attributes.find(kind).and_then(address::from_bytes);
    Some(Route {
        to: Prefixed {
            address: found(RTA_DST).unwrap_or(anywhere),
            prefix_bits: head[1],
        },
        gateway: found(RTA_GATEWAY),
        link: attributes.u32(RTA_OIF).unwrap_or(0),
        source: found(RTA_PREFSRC),
    })
}
