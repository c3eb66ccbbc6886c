//! Neighbours: which hardware address an address has, and for whom a link answers.

use std::net::IpAddr;

use crate::address;
use crate::link::Mac;
use crate::message::{Batch, NLM_F_CREATE, NLM_F_REPLACE};

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_PROXY: u8 = 8;
const HEAD_BYTES: usize = 12;

/// `struct ndmsg`.
fn head(family: u8, link: u32, flags: u8) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[0] = family;
    head[4..8].copy_from_slice(&link.to_ne_bytes());
    head[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    head[10] = flags;
    head
}

/// Tells a link who has an address, for good: such entries are neither asked for nor counted against the host's limit of
/// 1,024 (`gc_thresh3`).
pub fn set(batch: &mut Batch, link: u32, who: IpAddr, mac: Mac) {
    let head = head(address::family(who), link, 0);
    let mut request = batch.request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &head);
    request.put(NDA_DST, &address::bytes(&who));
    request.put(NDA_LLADDR, &mac);
}

/// Forgets it.
pub fn remove(batch: &mut Batch, link: u32, who: IpAddr) {
    let head = head(address::family(who), link, 0);
    batch
        .request(RTM_DELNEIGH, 0, &head)
        .put(NDA_DST, &address::bytes(&who));
}

/// Has a link answer for an address that is behind another one.
pub fn answer_for(batch: &mut Batch, link: u32, who: IpAddr) {
    let head = head(address::family(who), link, NTF_PROXY);
    batch
        .request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &head)
        .put(NDA_DST, &address::bytes(&who));
}
