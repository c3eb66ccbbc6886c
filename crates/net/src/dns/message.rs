//! Queries and answers.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::name::Name;

/// Bytes of a header.
const HEADER_BYTES: usize = 12;
/// What an asker takes by UDP that does not say more (RFC 1035).
pub const MIN_UDP_BYTES: usize = 512;
/// The most that we send by UDP, whatever the asker says: larger answers break into pieces on most links (RFC 9715).
pub const MAX_UDP_BYTES: usize = 1232;
/// Records behind the question that are looked at for an OPT record.
const MAX_EXTRA_RECORDS: u16 = 8;

const FLAG_RESPONSE: u8 = 0x80;
const OPCODE_MASK: u8 = 0x78;
const FLAG_TRUNCATED: u8 = 0x02;
const FLAG_RECURSION_DESIRED: u8 = 0x01;
const FLAG_RECURSION_AVAILABLE: u8 = 0x80;
const FLAG_CHECKING_DISABLED: u8 = 0x10;
const TYPE_OPT: u16 = 41;
/// Points at the first name of a message.
const POINTER_TO_QUESTION: [u8; 2] = [0xc0, HEADER_BYTES as u8];

/// Why bytes are no message that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends too early.
    #[error("a message ends too early")]
    Short,
    /// A name is too long, or points forward.
    #[error("a name is too long, or points forward")]
    Name,
    /// It is no query.
    #[error("a message is no query")]
    NoQuery,
    /// It does not ask one question.
    #[error("a message does not ask one question")]
    Questions,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub u16);

impl Kind {
    /// An IPv4 address.
    pub const A: Kind = Kind(1);
    /// A name for an address.
    pub const PTR: Kind = Kind(12);
    /// Who takes mail.
    pub const MX: Kind = Kind(15);
    /// An IPv6 address.
    pub const AAAA: Kind = Kind(28);
    /// Where a service is.
    pub const SRV: Kind = Kind(33);
}

/// Of which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(pub u16);

impl Class {
    /// The internet.
    pub const IN: Class = Class(1);
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rcode {
    /// Well.
    NoError = 0,
    /// The query is wrong.
    FormatError = 1,
    /// Nobody could say.
    ServerFailure = 2,
    /// There is no such name.
    NoSuchName = 3,
    /// Not done here.
    NotImplemented = 4,
    /// Not for this asker.
    Refused = 5,
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// What the asker knows it by.
    pub id: u16,
    /// The name that is asked about.
    pub name: Name,
    /// What about it.
    pub kind: Kind,
    /// Of which network.
    pub class: Class,
    /// The most that the asker takes by UDP, in bytes.
    pub udp_bytes: usize,
    /// Where the question ends.
    question_end: usize,
}

fn u16_at(message: &[u8], at: usize) -> Result<u16, Malformed> {
    let bytes = message.get(at..at + 2).ok_or(Malformed::Short)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

impl Query {
    /// Takes a query apart. What is behind the question is looked at for the asker's limit only.
    pub fn parse(message: &[u8]) -> Result<Query, Malformed> {
        let header = message.get(..HEADER_BYTES).ok_or(Malformed::Short)?;
        if header[2] & (FLAG_RESPONSE | OPCODE_MASK) != 0 {
            return Err(Malformed::NoQuery);
        }
        if u16_at(message, 4)? != 1 {
            return Err(Malformed::Questions);
        }
        let mut at = HEADER_BYTES;
        let name = Name::read(message, &mut at)?;
        let kind = Kind(u16_at(message, at)?);
        let class = Class(u16_at(message, at + 2)?);
        let question_end = at + 4;
        Ok(Query {
            id: u16_at(message, 0)?,
            name,
            kind,
            class,
            udp_bytes: udp_bytes(message, question_end).unwrap_or(MIN_UDP_BYTES),
            question_end,
        })
    }
}

/// What an OPT record says of the asker's limit (RFC 6891, section 6.2.3).
fn udp_bytes(message: &[u8], mut at: usize) -> Option<usize> {
    let others = u16_at(message, 6)
        .ok()?
        .checked_add(u16_at(message, 8).ok()?)?;
    let records = others.checked_add(u16_at(message, 10).ok()?)?;
    for _ in 0..records.min(MAX_EXTRA_RECORDS) {
        Name::read(message, &mut at).ok()?;
        let (kind, limit) = (u16_at(message, at).ok()?, u16_at(message, at + 2).ok()?);
        if kind == TYPE_OPT {
            return Some(usize::from(limit).clamp(MIN_UDP_BYTES, MAX_UDP_BYTES));
        }
        at += 10 + usize::from(u16_at(message, at + 8).ok()?);
    }
    None
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A name.
    Ptr(Name),
}

impl Record {
    fn put(&self, ttl_s: u32, out: &mut Vec<u8>) {
        let (kind, data): (Kind, &[u8]) = match self {
            Record::A(v4) => (Kind::A, &v4.octets()),
            Record::Aaaa(v6) => (Kind::AAAA, &v6.octets()),
            Record::Ptr(name) => (Kind::PTR, name.wire()),
        };
        out.extend_from_slice(&POINTER_TO_QUESTION);
        out.extend_from_slice(&kind.0.to_be_bytes());
        out.extend_from_slice(&Class::IN.0.to_be_bytes());
        out.extend_from_slice(&ttl_s.to_be_bytes());
        // Of a name at most 255, of an address 16.
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(data);
    }
}

/// The head of an answer, and the question again.
fn reply(message: &[u8], query: &Query, rcode: Rcode) -> Vec<u8> {
    let mut out = message[..query.question_end].to_vec();
    out[2] = FLAG_RESPONSE | (message[2] & FLAG_RECURSION_DESIRED);
    out[3] = FLAG_RECURSION_AVAILABLE | (message[3] & FLAG_CHECKING_DISABLED) | rcode as u8;
    out[6..HEADER_BYTES].fill(0);
    out
}

/// Answers a query; `message` is what it was parsed from. Records that do not fit in `limit_bytes` are left out, and the answer
/// says so: the asker comes again by TCP.
pub fn answer(
    message: &[u8],
    query: &Query,
    records: &[Record],
    ttl_s: u32,
    limit_bytes: usize,
) -> Vec<u8> {
    let mut out = reply(message, query, Rcode::NoError);
    let mut count = 0u16;
    for record in records {
        let before = out.len();
        record.put(ttl_s, &mut out);
        if out.len() > limit_bytes || count == u16::MAX {
            out.truncate(before);
            out[2] |= FLAG_TRUNCATED;
            break;
        }
        count += 1;
    }
    out[6..8].copy_from_slice(&count.to_be_bytes());
    out
}

/// Answers that it did not work.
pub fn failure(message: &[u8], query: &Query, rcode: Rcode) -> Vec<u8> {
    reply(message, query, rcode)
}

/// An answer without records that sends the asker to TCP, for one that is too long.
pub fn truncated(message: &[u8], query: &Query) -> Vec<u8> {
    let mut out = reply(message, query, Rcode::NoError);
    out[2] |= FLAG_TRUNCATED;
    out
}

/// Id and rcode of a message that answers the query `question` was parsed from; `None` if it does not: another id, question,
/// or no answer at all.
pub fn header_of(response: &[u8], id: u16, question: &Query) -> Option<Rcode> {
    let header = response.get(..HEADER_BYTES)?;
    if header[2] & FLAG_RESPONSE == 0 || u16_at(response, 0).ok()? != id {
        return None;
    }
    let rcode = match header[3] & 0x0f {
        0 => Rcode::NoError,
        1 => Rcode::FormatError,
        3 => Rcode::NoSuchName,
        4 => Rcode::NotImplemented,
        5 => Rcode::Refused,
        _ => Rcode::ServerFailure,
    };
    // Some servers leave the question out when they refuse.
    if u16_at(response, 4).ok()? == 0 {
        return Some(rcode).filter(|r| *r != Rcode::NoError);
    }
    let mut at = HEADER_BYTES;
    let name = Name::read(response, &mut at).ok()?;
    let same = name.to_key() == question.name.to_key()
        && u16_at(response, at).ok()? == question.kind.0
        && u16_at(response, at + 2).ok()? == question.class.0;
    same.then_some(rcode)
}

/// Whether a response says that it is whole.
pub fn fits(response: &[u8]) -> bool {
    response
        .get(2)
        .is_some_and(|flags| flags & FLAG_TRUNCATED == 0)
}

/// Gives a message another id.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(bytes) = message.get_mut(..2) {
        bytes.copy_from_slice(&id.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A query as the resolver of glibc sends it.
    fn asked(name: &str, kind: Kind, opt: Option<u16>) -> Vec<u8> {
        let mut out = vec![
            0x12,
            0x34,
            1,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            u8::from(opt.is_some()),
        ];
        out.extend_from_slice(Name::from_text(name).expect("a name").wire());
        out.extend_from_slice(&kind.0.to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        if let Some(limit) = opt {
            out.extend_from_slice(&[0, 0, 41]);
            out.extend_from_slice(&limit.to_be_bytes());
            out.extend_from_slice(&[0; 6]);
        }
        out
    }

    #[test]
    fn a_query_and_its_answer() {
        let message = asked("Web.Example", Kind::A, Some(4096));
        let query = Query::parse(&message).expect("a query");
        assert_eq!(query.name.to_key().as_deref(), Some("web.example"));
        assert_eq!(
            (query.id, query.kind, query.udp_bytes),
            (0x1234, Kind::A, MAX_UDP_BYTES)
        );
        let records = [Record::A([10, 0, 0, 2].into())];
        let out = answer(&message, &query, &records, 600, query.udp_bytes);
        assert_eq!(out[..4], [0x12, 0x34, 0x81, 0x80]);
        assert_eq!(out[4..12], [0, 1, 0, 1, 0, 0, 0, 0]);
        assert!(out.ends_with(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 2, 88, 0, 4, 10, 0, 0, 2]));
        assert_eq!(header_of(&out, 0x1234, &query), Some(Rcode::NoError));
        assert_eq!(header_of(&out, 0x1235, &query), None);
        let other = Query::parse(&asked("web.example", Kind::AAAA, None)).expect("a query");
        assert_eq!(header_of(&out, 0x1234, &other), None);
        assert!(fits(&out));
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_told() {
        let message = asked("many", Kind::A, None);
        let query = Query::parse(&message).expect("a query");
        let records = vec![Record::A([10, 0, 0, 2].into()); 100];
        let out = answer(&message, &query, &records, 600, query.udp_bytes);
        assert!(out.len() <= MIN_UDP_BYTES && !fits(&out));
        assert_eq!(
            usize::from(u16::from_be_bytes([out[6], out[7]])),
            (MIN_UDP_BYTES - 22) / 16
        );
    }

    #[test]
    fn what_is_no_query_is_refused() {
        let good = asked("a", Kind::A, None);
        let with = |at: usize, value: u8| {
            let mut message = good.clone();
            message[at] = value;
            Query::parse(&message)
        };
        assert_eq!(with(2, 0x80), Err(Malformed::NoQuery));
        assert_eq!(with(5, 2), Err(Malformed::Questions));
        assert_eq!(with(12, 0xc0), Err(Malformed::Name));
        assert_eq!(with(12, 0x40), Err(Malformed::Name));
        assert_eq!(with(12, 60), Err(Malformed::Short));
        assert_eq!(Query::parse(&good[..11]), Err(Malformed::Short));
        let long = format!("{}.{0}.{0}.{0}", "a".repeat(63));
        assert!(Name::from_text(&long).is_none());
        assert!(Name::from_text("a..b").is_none());
    }

    #[test]
    fn names_of_addresses() {
        let of = |text: &str| super::super::reverse(text).map(|a| a.to_string());
        assert_eq!(of("2.0.18.172.in-addr.arpa").as_deref(), Some("172.18.0.2"));
        assert_eq!(of("1.2.0.18.172.in-addr.arpa"), None);
        let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(of(v6).as_deref(), Some("fd00::2"));
        assert_eq!(of("2.ip6.arpa"), None);
        assert_eq!(of("web"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0usize..600) {
            let mut message = asked("some.name", Kind::AAAA, Some(900));
            message.truncate(cut);
            message.extend_from_slice(&bytes);
            for message in [&message, &bytes] {
                let Ok(query) = Query::parse(message) else { continue };
                let out = answer(message, &query, &[Record::Ptr(query.name.clone())], 1, query.udp_bytes);
                prop_assert!(out.len() <= query.udp_bytes);
                prop_assert!(header_of(&out, query.id, &query).is_some());
                header_of(&bytes, query.id, &query);
            }
        }

        #[test]
        fn names_survive(text in "[a-z0-9_-]{1,20}(\\.[a-z0-9_-]{1,20}){0,6}") {
            let name = Name::from_text(&text).expect("a name");
            prop_assert_eq!(name.to_key(), Some(text.clone()));
            let message = asked(&text, Kind::A, None);
            prop_assert_eq!(Query::parse(&message).expect("a query").name, name);
        }
    }
}
