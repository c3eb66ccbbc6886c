//! Addresses of links.

use std::net::IpAddr;

use crate::error::NetError;
use crate::message::{Attributes, Batch, NLM_F_CREATE, NLM_F_EXCL};
use crate::socket::Socket;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// An IPv6 address that is used without asking whether somebody has it.
const IFA_F_NODAD: u32 = 2;
const HEAD_BYTES: usize = 8;

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

pub(crate) fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// The bytes of an address.
pub(crate) fn bytes(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An address from its bytes.
pub(crate) fn from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// An address and how many of its bits are the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefixed {
    /// The address.
    pub address: IpAddr,
    /// At most 32 or 128.
    pub prefix_bits: u8,
}

/// `struct ifaddrmsg`.
fn head(family: u8, prefix_bits: u8, link: u32) -> [u8; HEAD_BYTES] {
    let mut head = [family, prefix_bits, 0, 0, 0, 0, 0, 0];
    head[4..].copy_from_slice(&link.to_ne_bytes());
    head
}

/// Gives a link an address; with the broadcast address if that is given.
pub fn add(batch: &mut Batch, link: u32, own: Prefixed, broadcast: Option<IpAddr>) {
    let head = head(family(own.address), own.prefix_bits, link);
    let mut request = batch.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &head);
    request.put(IFA_LOCAL, &bytes(&own.address));
    request.put(IFA_ADDRESS, &bytes(&own.address));
    if let Some(broadcast) = broadcast {
        request.put(IFA_BROADCAST, &bytes(&broadcast));
    }
    if own.address.is_ipv6() {
        request.put_u32(IFA_FLAGS, IFA_F_NODAD);
    }
}

/// Takes an address away.
pub fn remove(batch: &mut Batch, link: u32, own: Prefixed) {
    let head = head(family(own.address), own.prefix_bits, link);
    let mut request = batch.request(RTM_DELADDR, 0, &head);
    request.put(IFA_LOCAL, &bytes(&own.address));
}

/// All addresses of the socket's namespace: the link's number and the address.
pub fn list(socket: &mut Socket) -> Result<Vec<(u32, Prefixed)>, NetError> {
    let mut found = Vec::new();
    socket.dump(RTM_GETADDR, &head(0, 0, 0), |kind, payload| {
        if kind == RTM_NEWADDR {
            found.extend(parse(payload));
        }
    })?;
    Ok(found)
}

fn parse(payload: &[u8]) -> Option<(u32, Prefixed)> {
    let head = payload.first_chunk::<HEAD_BYTES>()?;
    let attributes = Attributes::new(&payload[HEAD_BYTES..]);
    // Of a point-to-point link IFA_ADDRESS is the other end.
    let own = attributes
        .find(IFA_LOCAL)
        .or(attributes.find(IFA_ADDRESS))?;
    let address = from_bytes(own)?;
    let link = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
    Some((
        link,
        Prefixed {
            address,
            prefix_bits: head[1],
        },
    ))
}
