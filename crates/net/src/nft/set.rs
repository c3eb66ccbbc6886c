//! Sets and maps, and what is in them.

use std::net::IpAddr;

use crate::message::{Attributes, Request};

pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_DESC: u16 = 9;
const SET_ID: u16 = 10;
const DESC_CONCAT: u16 = 2;
const FIELD_LEN: u16 = 1;
pub(super) const LIST_TABLE: u16 = 1;
pub(super) const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEM: u16 = 1;
const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const ELEM_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;
const INTERVAL_END: u32 = 1;

const FLAG_INTERVAL: u32 = 0x4;
const FLAG_MAP: u32 = 0x8;
const FLAG_CONCAT: u32 = 0x80;
/// Bits of a type's number in that of several, for those who list what is there.
const TYPE_BITS: u32 = 6;

/// One of the values that a key is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// 4 bytes.
    Ipv4,
    /// 16 bytes.
    Ipv6,
    /// TCP, UDP, …; 1 byte.
    Protocol,
    /// 2 bytes.
    Port,
    /// A group of links, 4 bytes.
    Group,
}

impl Field {
    /// Bytes of its value, without those that fill up a register.
    fn len(self) -> u32 {
        match self {
            Field::Ipv4 | Field::Group => 4,
            Field::Ipv6 => 16,
            Field::Protocol => 1,
            Field::Port => 2,
        }
    }

    /// Number of the type in programs that list sets.
    fn shown_as(self) -> u32 {
        match self {
            Field::Ipv4 => 7,
            Field::Ipv6 => 8,
            Field::Protocol => 12,
            Field::Port => 13,
            Field::Group => 35,
        }
    }
}

/// Length of several values in registers: each fills up its last one.
fn key_len(fields: &[Field]) -> u32 {
    match fields {
        [one] => one.len(),
        several => several.iter().map(|f| f.len().next_multiple_of(4)).sum(),
    }
}

fn shown_as(fields: &[Field]) -> u32 {
    fields
        .iter()
        .fold(0, |sum, f| sum << TYPE_BITS | f.shown_as())
}

/// What a set can do beside holding single keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetFlags {
    /// Its elements are ranges.
    pub ranges: bool,
}

/// A set, or a map if it has values.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    /// Its name in the table.
    pub name: &'a str,
    /// What its keys are made of.
    pub key: &'a [Field],
    /// What the values are made of; empty for a set.
    pub value: &'a [Field],
    /// What else it can do.
    pub flags: SetFlags,
}

impl Set<'_> {
    pub(super) fn put(&self, request: &mut Request<'_>, table: &str, id: u32) {
        let mut flags = 0;
        if self.flags.ranges {
            flags |= FLAG_INTERVAL;
        }
        if !self.value.is_empty() {
            flags |= FLAG_MAP;
        }
        let described = self.key.len() > 1 && self.flags.ranges;
        if described {
            flags |= FLAG_CONCAT;
        }
        request
            .put_text(SET_TABLE, table)
            .put_text(SET_NAME, self.name)
            .put_be32(SET_FLAGS, flags)
            .put_be32(SET_KEY_TYPE, shown_as(self.key))
            .put_be32(SET_KEY_LEN, key_len(self.key))
            .put_be32(SET_ID, id);
        if !self.value.is_empty() {
            request
                .put_be32(SET_DATA_TYPE, shown_as(self.value))
                .put_be32(SET_DATA_LEN, key_len(self.value));
        }
        if described {
            request.nest(SET_DESC, |r| {
                r.nest(DESC_CONCAT, |r| {
                    for field in self.key {
                        r.nest(LIST_ELEM, |r| {
                            r.put_be32(FIELD_LEN, field.len());
                        });
                    }
                });
            });
        }
    }
}

/// What a set holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Element {
    /// Its key, or the first one of a range.
    pub key: Vec<u8>,
    /// The last one of a range, in a set of several fields.
    pub last: Option<Vec<u8>>,
    /// The value, in a map.
    pub value: Option<Vec<u8>>,
    /// In a set of ranges of one field: the first key behind a range.
    pub is_behind: bool,
}

impl Element {
    fn put(&self, r: &mut Request<'_>) {
        let data = |r: &mut Request<'_>, kind, bytes: &[u8]| {
            r.nest(kind, |r| {
                r.put(DATA_VALUE, bytes);
            });
        };
        r.nest(LIST_ELEM, |r| {
            if self.is_behind {
                r.put_be32(ELEM_FLAGS, INTERVAL_END);
            }
            data(r, ELEM_KEY, &self.key);
            if let Some(last) = &self.last {
                data(r, ELEM_KEY_END, last);
            }
            if let Some(value) = &self.value {
                data(r, ELEM_DATA, value);
            }
        });
    }

    /// The two elements that make up a network in a set of ranges of one field. Of the last network of all addresses only the
    /// first: nothing is behind it.
    pub fn network(first: IpAddr, prefix_bits: u8) -> Vec<Element> {
        let key = crate::address::bytes(&first);
        let mut behind = key.clone();
        let mut bit = usize::from(prefix_bits);
        // Adds one to the network's number.
        let wraps = loop {
            if bit == 0 {
                break true;
            }
            bit -= 1;
            let mask = 0x80 >> (bit % 8);
            behind[bit / 8] ^= mask;
            if behind[bit / 8] & mask != 0 {
                break false;
            }
        };
        let first = Element {
            key,
            ..Element::default()
        };
        let behind = Element {
            key: behind,
            is_behind: true,
            ..Element::default()
        };
        if wraps {
            vec![first]
        } else {
            vec![first, behind]
        }
    }
}

/// A key of several values: each is filled up to whole registers.
pub fn key(values: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::new();
    for value in values {
        key.extend_from_slice(value);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key
}

pub(super) fn put_elements(r: &mut Request<'_>, table: &str, set: &str, elements: &[Element]) {
    r.put_text(LIST_TABLE, table).put_text(LIST_SET, set);
    r.nest(LIST_ELEMENTS, |r| {
        for element in elements {
            element.put(r);
        }
    });
}

pub(super) fn parse_elements(list: Attributes<'_>, found: &mut Vec<Element>) {
    for (_, element) in list.inside(LIST_ELEMENTS) {
        let attributes = Attributes::new(element);
        let data = |kind| Some(attributes.inside(kind).find(DATA_VALUE)?.to_vec());
        let Some(key) = data(ELEM_KEY) else { continue };
        let flags = attributes.find(ELEM_FLAGS).and_then(|f| f.try_into().ok());
        found.push(Element {
            key,
            last: data(ELEM_KEY_END),
            value: data(ELEM_DATA),
            is_behind: flags.map_or(0, u32::from_be_bytes) & INTERVAL_END != 0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_ends_before_the_next_one() {
        let behind = |text: &str, bits| {
            let elements = Element::network(text.parse().expect("an address"), bits);
            elements.get(1).map(|e| {
                crate::address::from_bytes(&e.key)
                    .expect("an address")
                    .to_string()
            })
        };
        assert_eq!(behind("10.0.0.0", 8).as_deref(), Some("11.0.0.0"));
        assert_eq!(behind("172.31.255.0", 24).as_deref(), Some("172.32.0.0"));
        assert_eq!(behind("192.168.1.7", 32).as_deref(), Some("192.168.1.8"));
        assert_eq!(behind("255.255.255.0", 24), None);
        assert_eq!(behind("0.0.0.0", 0), None);
        assert_eq!(behind("fd00::", 64).as_deref(), Some("fd00:0:0:1::"));
    }

    #[test]
    fn keys_fill_registers() {
        assert_eq!(
            key(&[&[6], &[1, 2], &[1, 2, 3, 4]]),
            [6, 0, 0, 0, 1, 2, 0, 0, 1, 2, 3, 4]
        );
        assert_eq!(key_len(&[Field::Protocol, Field::Port, Field::Ipv6]), 24);
    }
}
