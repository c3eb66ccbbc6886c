//! Domain names.

use std::fmt;
use std::net::IpAddr;

use super::message::Malformed;

/// Longest name in a message, lengths and the root's included (RFC 1035, section 2.3.4).
pub const MAX_NAME_BYTES: usize = 255;
/// Longest label.
const MAX_LABEL_BYTES: usize = 63;
/// Pointers that may be followed: each leads further to the front, and no name has more labels.
const MAX_POINTERS: usize = 128;
const POINTER: u8 = 0xc0;

/// A name, in the form of a message without pointers.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name {
    wire: Vec<u8>,
}

impl Name {
    /// From its text, with or without the dot at the end. `None` if no message could hold it.
    pub fn from_text(text: &str) -> Option<Name> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.split('.').filter(|_| !text.is_empty()) {
            if label.is_empty() || label.len() > MAX_LABEL_BYTES {
                return None;
            }
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        (wire.len() <= MAX_NAME_BYTES).then_some(Name { wire })
    }

    /// Reads a name at `at` and moves that behind it.
    pub(super) fn read(message: &[u8], at: &mut usize) -> Result<Name, Malformed> {
        let mut wire = Vec::new();
        let mut place = *at;
        let mut behind = None;
        for _ in 0..MAX_POINTERS {
            let len = *message.get(place).ok_or(Malformed::Short)?;
            match len & POINTER {
                0 => {
                    let label = message.get(place..=place + usize::from(len));
                    wire.extend_from_slice(label.ok_or(Malformed::Short)?);
                    if wire.len() > MAX_NAME_BYTES {
                        return Err(Malformed::Name);
                    }
                    place += 1 + usize::from(len);
                    if len == 0 {
                        *at = behind.unwrap_or(place);
                        return Ok(Name { wire });
                    }
                }
                POINTER => {
                    let low = *message.get(place + 1).ok_or(Malformed::Short)?;
                    behind.get_or_insert(place + 2);
                    let target = usize::from(len & !POINTER) << 8 | usize::from(low);
                    if target >= place {
                        return Err(Malformed::Name);
                    }
                    place = target;
                }
                _ => return Err(Malformed::Name),
            }
        }
        Err(Malformed::Name)
    }

    /// As it stands in a message.
    pub(super) fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Its labels.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.wire[..];
        std::iter::from_fn(move || {
            let (&len, behind) = rest.split_first()?;
            let (label, behind) = behind.split_at_checked(usize::from(len))?;
            rest = behind;
            (len > 0).then_some(label)
        })
    }

    /// In small letters and without the dot at the end, as names are compared. `None` if it is no text, or has a dot in a
    /// label: nothing of ours has such a name.
    pub fn to_key(&self) -> Option<String> {
        let mut key = String::with_capacity(self.wire.len());
        for label in self.labels() {
            let label = std::str::from_utf8(label)
                .ok()
                .filter(|l| !l.contains('.'))?;
            if !key.is_empty() {
                key.push('.');
            }
            key.extend(label.chars().map(|c| c.to_ascii_lowercase()));
        }
        Some(key)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in self.labels() {
            write!(f, "{}.", label.escape_ascii())?;
        }
        Ok(())
    }
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` asks for, the name being in the form of [`Name::to_key`].
pub fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(v4) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0u8; 4];
        let mut labels = v4.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = labels.next()?.parse().ok()?;
        }
        return labels.next().is_none().then(|| octets.into());
    }
    let v6 = name.strip_suffix(".ip6.arpa")?;
    let mut octets = [0u8; 16];
    let mut labels = v6.split('.');
    for place in (0..32).rev() {
        let label = labels.next().filter(|l| l.len() == 1)?;
        let digit = u8::from_str_radix(label, 16).ok()?;
        octets[place / 2] |= digit << (4 * (1 - place % 2));
    }
    labels.next().is_none().then(|| octets.into())
}
