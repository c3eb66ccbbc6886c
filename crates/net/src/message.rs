//! Messages: written one behind the other into one buffer, read attribute by attribute.

use crate::error::NetError;

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER_BYTES: usize = 16;
/// Bytes of `struct nlattr`.
const ATTR_HEADER_BYTES: usize = 4;
/// Most bytes of one send. The kernel takes as much as the socket's send buffer, 208 KiB by default.
pub const MAX_BATCH_BYTES: usize = 128 * 1024;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
/// Replace what there is.
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
/// All entries.
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// Fail if it is there.
pub(crate) const NLM_F_EXCL: u16 = 0x200;
/// Make it if it is not there.
pub(crate) const NLM_F_CREATE: u16 = 0x400;
/// At the end of a list.
pub(crate) const NLM_F_APPEND: u16 = 0x800;

/// Marks an attribute that has others inside.
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

const fn aligned(len: usize) -> usize {
    (len + 3) & !3
}

/// Requests that are sent at once.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    messages: usize,
    too_large: bool,
}

impl Batch {
    /// No requests.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Begins a request: its type, flags beside NLM_F_REQUEST, and what stands before its attributes.
    pub fn request(&mut self, kind: u16, flags: u16, head: &[u8]) -> Request<'_> {
        let at = self.bytes.len();
        self.messages += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        // Sequence number and port: the socket's.
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(head);
        self.pad();
        Request { batch: self, at }
    }

    /// How many requests.
    pub fn len(&self) -> usize {
        self.messages
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Bytes so far: who writes many requests begins a new batch in time.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn pad(&mut self) {
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    /// Numbers the requests from `seq` on, has the one at `last` acknowledged, and gives the bytes to be sent.
    pub(crate) fn number(&mut self, seq: u32, last: usize) -> Result<&[u8], NetError> {
        if self.too_large || self.bytes.len() > MAX_BATCH_BYTES {
            return Err(NetError::TooLarge);
        }
        let mut at = 0;
        for n in 0..self.messages {
            let len = self.bytes[at..].first_chunk::<4>();
            let len = len.map_or(0, |b| u32::from_ne_bytes(*b)) as usize;
            self.bytes[at + 8..at + 12].copy_from_slice(&seq.wrapping_add(n as u32).to_ne_bytes());
            if n == last {
                let flags = u16::from_ne_bytes([self.bytes[at + 6], self.bytes[at + 7]]);
                self.bytes[at + 6..at + 8].copy_from_slice(&(flags | NLM_F_ACK).to_ne_bytes());
            }
            at += aligned(len);
        }
        Ok(&self.bytes)
    }
}

/// A request that is being written.
#[derive(Debug)]
pub struct Request<'a> {
    batch: &'a mut Batch,
    at: usize,
}

impl Request<'_> {
    /// An attribute.
    pub fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.begin(kind);
        self.batch.bytes.extend_from_slice(value);
        self.end(start);
        self
    }

    /// A number of one byte.
    pub fn put_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &[value])
    }

    /// A number in the machine's byte order.
    pub fn put_u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// A number in the machine's byte order.
    pub fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// A number in the network's byte order, as packet filters have them.
    pub fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// A text, with the zero byte that the kernel wants behind it.
    pub fn put_text(&mut self, kind: u16, text: &str) -> &mut Self {
        let start = self.begin(kind);
        self.batch.bytes.extend_from_slice(text.as_bytes());
        self.batch.bytes.push(0);
        self.end(start);
        self
    }

    /// An attribute with others inside.
    pub fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.begin(kind | NLA_F_NESTED);
        inside(self);
        self.end(start);
        self
    }

    /// Bytes that are no attribute: a structure in front of the attributes inside of another.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.batch.bytes.extend_from_slice(bytes);
        self.batch.pad();
        self
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.batch.bytes.len();
        self.batch.bytes.extend_from_slice(&[0; 2]);
        self.batch.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        match u16::try_from(self.batch.bytes.len() - start) {
            Ok(len) => self.batch.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.batch.too_large = true,
        }
        self.batch.pad();
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let len = self.batch.bytes.len() - self.at;
        match u32::try_from(len) {
            Ok(len) => self.batch.bytes[self.at..self.at + 4].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.batch.too_large = true,
        }
    }
}

/// The attributes of a message, or of another attribute. Ends at the first one that does not fit.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Of these bytes.
    pub fn new(bytes: &'a [u8]) -> Attributes<'a> {
        Attributes { rest: bytes }
    }

    /// The first attribute of this type.
    pub fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(k, value)| (k == kind).then_some(value))
    }

    /// The attributes inside the first of this type; none if it is not there.
    pub fn inside(self, kind: u16) -> Attributes<'a> {
        Attributes::new(self.find(kind).unwrap_or_default())
    }

    /// A number in the machine's byte order.
    pub fn u32(self, kind: u16) -> Option<u32> {
        self.find(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }

    /// A text without the zero byte behind it.
    pub fn text(self, kind: u16) -> Option<&'a str> {
        let bytes = self.find(kind)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        std::str::from_utf8(&bytes[..end]).ok()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.rest.first_chunk::<ATTR_HEADER_BYTES>()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = self.rest.get(ATTR_HEADER_BYTES..len);
        let Some(value) = value else {
            self.rest = &[];
            return None;
        };
        self.rest = self.rest.get(aligned(len)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A message that was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram. An error if one does not fit: nothing behind it can be found.
pub(crate) fn received(mut bytes: &[u8]) -> impl Iterator<Item = Result<Received<'_>, NetError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let Some((header, len)) = bytes.first_chunk::<HEADER_BYTES>().and_then(|h| {
            let len = u32::from_ne_bytes([h[0], h[1], h[2], h[3]]) as usize;
            (HEADER_BYTES..=bytes.len())
                .contains(&len)
                .then_some((h, len))
        }) else {
            bytes = &[];
            return Some(Err(NetError::Answer("has a message of a wrong length")));
        };
        let message = Received {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            seq: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            payload: &bytes[HEADER_BYTES..len],
        };
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some(Ok(message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut batch = Batch::new();
        batch
            .request(16, NLM_F_CREATE, &[7; 16])
            .put_text(3, "eth0")
            .nest(18, |r| {
                r.put_text(1, "veth").put_u8(9, 5);
            })
            .put_u32(10, 4711);
        batch.request(20, 0, &[1; 8]).put(1, &[]);
        let bytes = batch.number(100, 1).expect("numbers").to_vec();
        let messages: Vec<_> = received(&bytes).map(|m| m.expect("whole")).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].kind, messages[0].seq), (16, 100));
        assert_eq!(messages[0].flags & NLM_F_ACK, 0);
        assert_eq!(messages[1].flags & NLM_F_ACK, NLM_F_ACK);
        let attributes = Attributes::new(&messages[0].payload[16..]);
        assert_eq!(attributes.text(3), Some("eth0"));
        assert_eq!(attributes.u32(10), Some(4711));
        assert_eq!(attributes.inside(18).text(1), Some("veth"));
        assert_eq!(attributes.inside(18).find(9), Some(&[5][..]));
        assert_eq!(
            Attributes::new(&messages[1].payload[8..]).find(1),
            Some(&[][..])
        );
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let mut batch = Batch::new();
        batch.request(16, 0, &[]).put(1, &vec![0; 70_000]);
        assert!(matches!(batch.number(0, 0), Err(NetError::TooLarge)));
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for message in received(&bytes).flatten() {
                for (_, value) in Attributes::new(message.payload) {
                    let _ = Attributes::new(value).count();
                }
            }
        }
    }
}
