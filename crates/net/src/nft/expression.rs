//! What rules are made of: load something into a register, compare or look it up, decide.

use crate::message::Request;

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// A register of four bytes (`NFT_REG32_00` and those behind it). What is longer takes the next ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub u8);

impl Register {
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Meta {
    /// Mark, 4 bytes.
    Mark = 3,
    /// Number of the link it came in by, 4 bytes.
    Iif = 4,
    /// Number of the link it goes out by, 4 bytes.
    Oif = 5,
    /// Name of the link it came in by, 16 bytes.
    Iifname = 6,
    /// Name of the link it goes out by, 16 bytes.
    Oifname = 7,
    /// 2 for IPv4, 10 for IPv6; 1 byte.
    NfProto = 15,
    /// TCP, UDP, …; 1 byte.
    L4Proto = 16,
    /// Group of the link it came in by, 4 bytes.
    IifGroup = 21,
    /// Group of the link it goes out by, 4 bytes.
    OifGroup = 22,
}

/// What is known of a packet's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Ct {
    /// One bit of [`Ct::ESTABLISHED`] and its like, 4 bytes.
    State = 0,
    /// Bits such as [`Ct::DNAT`], 4 bytes.
    Status = 2,
}

impl Ct {
    /// The connection's answer has been seen.
    pub const ESTABLISHED: u32 = 2;
    /// Belongs to another connection.
    pub const RELATED: u32 = 4;
    /// Not a packet of any connection.
    pub const INVALID: u32 = 1;
    /// Its destination was changed (`IPS_DST_NAT`).
    pub const DNAT: u32 = 1 << 5;
}

/// What the routing table says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fib {
    /// What kind of destination it is, 4 bytes.
    DestinationType,
    /// What kind of address the source is, 4 bytes.
    SourceType,
}

impl Fib {
    /// One of this host (`RTN_LOCAL`).
    pub const LOCAL: u32 = 2;
}

/// Where bytes of a packet are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Part {
    /// The IP header.
    Network = 1,
    /// The header behind it.
    Transport = 2,
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Compare {
    /// Equal.
    Is = 0,
    /// Not equal.
    IsNot = 1,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It passes this hook.
    Accept,
    /// It does not.
    Drop,
    /// The rules of another chain decide, and then those behind.
    Jump(&'a str),
    /// Those of the chain that jumped here.
    Return,
}

/// Whose addresses are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NatFamily {
    /// IPv4.
    V4 = 2,
    /// IPv6.
    V6 = 10,
}

/// A step of a rule. The rule ends at a comparison or lookup that fails.
#[derive(Clone, Copy, Debug)]
pub enum Expression<'a> {
    /// Loads something known of the packet.
    Meta(Meta, Register),
    /// Loads something known of its connection.
    Ct(Ct, Register),
    /// Loads what the routing table says.
    Fib(Fib, Register),
    /// Loads bytes of it: where from, at which offset, how many.
    Bytes(Part, u32, u32, Register),
    /// Compares.
    Compare(Register, Compare, &'a [u8]),
    /// Keeps the bits of a mask.
    Mask(Register, &'a [u8]),
    /// Looks up in a set: found or, if the flag is set, not found.
    Lookup(&'a str, Register, bool),
    /// Looks up in a map, and loads the value.
    Map(&'a str, Register, Register),
    /// Decides.
    Verdict(Verdict<'a>),
    /// Sends the connection to the address in a register and the port in another one, if there is one.
    Dnat(NatFamily, Register, Option<Register>),
    /// Gives the connection the address of the link that it goes out by.
    Masquerade,
    /// Counts.
    Counter,
}

impl Expression<'_> {
    fn name(&self) -> &'static str {
        match self {
            Expression::Meta(..) => "meta",
            Expression::Ct(..) => "ct",
            Expression::Fib(..) => "fib",
            Expression::Bytes(..) => "payload",
            Expression::Compare(..) => "cmp",
            Expression::Mask(..) => "bitwise",
            Expression::Lookup(..) | Expression::Map(..) => "lookup",
            Expression::Verdict(_) => "immediate",
            Expression::Dnat(..) => "nat",
            Expression::Masquerade => "masq",
            Expression::Counter => "counter",
        }
    }

    pub(super) fn put(&self, request: &mut Request<'_>) {
        request.nest(LIST_ELEM, |r| {
            r.put_text(EXPR_NAME, self.name());
            r.nest(EXPR_DATA, |r| self.put_data(r));
        });
    }

    fn put_data(&self, r: &mut Request<'_>) {
        match *self {
            // Register, key.
            Expression::Meta(key, to) => {
                r.put_be32(1, to.number()).put_be32(2, key as u32);
            }
            // Register, key.
            Expression::Ct(key, to) => {
                r.put_be32(1, to.number()).put_be32(2, key as u32);
            }
            Expression::Fib(of, to) => {
                const ADDRESS_TYPE: u32 = 3;
                let flags = match of {
                    Fib::SourceType => 1,
                    Fib::DestinationType => 2,
                };
                r.put_be32(1, to.number())
                    .put_be32(2, ADDRESS_TYPE)
                    .put_be32(3, flags);
            }
            Expression::Bytes(part, offset, len, to) => {
                r.put_be32(1, to.number())
                    .put_be32(2, part as u32)
                    .put_be32(3, offset)
                    .put_be32(4, len);
            }
            Expression::Compare(from, how, value) => {
                r.put_be32(1, from.number()).put_be32(2, how as u32);
                put_value(r, 3, value);
            }
            Expression::Mask(at, mask) => {
                r.put_be32(1, at.number())
                    .put_be32(2, at.number())
                    .put_be32(3, mask.len() as u32);
                put_value(r, 4, mask);
                put_value(r, 5, &vec![0; mask.len()]);
            }
            Expression::Lookup(set, from, not) => {
                r.put_text(1, set).put_be32(2, from.number());
                r.put_be32(5, u32::from(not));
            }
            Expression::Map(map, from, to) => {
                r.put_text(1, map)
                    .put_be32(2, from.number())
                    .put_be32(3, to.number());
            }
            Expression::Verdict(verdict) => {
                r.put_be32(1, 0);
                r.nest(2, |r| put_verdict(r, verdict));
            }
            Expression::Dnat(family, address, port) => {
                const DNAT: u32 = 1;
                r.put_be32(1, DNAT)
                    .put_be32(2, family as u32)
                    .put_be32(3, address.number());
                if let Some(port) = port {
                    r.put_be32(5, port.number());
                }
            }
            Expression::Masquerade | Expression::Counter => {}
        }
    }
}

fn put_value(r: &mut Request<'_>, kind: u16, value: &[u8]) {
    r.nest(kind, |r| {
        r.put(DATA_VALUE, value);
    });
}

fn put_verdict(r: &mut Request<'_>, verdict: Verdict<'_>) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Return => (-5, None),
    };
    r.nest(DATA_VERDICT, |r| {
        r.put_be32(VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            r.put_text(VERDICT_CHAIN, chain);
        }
    });
}
