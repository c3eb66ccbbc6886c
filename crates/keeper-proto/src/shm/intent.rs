//! What a daemon that reads by read(2) is about to read, so that a kill between the read and its completion loses nothing.
//!
//! Such a daemon fills the completion queue itself. Between the return of read(2) and the moment the completion is
//! visible the bytes are out of the pipe and only in a buffer. Before it reads it therefore writes down which buffer it
//! reads into, for whom and how many bytes, and puts a mark where they will go. Whoever finds the intent without its
//! completion looks whether the mark is still there.

use std::sync::atomic::Ordering::{Acquire, Release};

use super::ring::{BUFFERS_OFFSET, RING_BUFFER_BYTES, RING_BUFFERS, RingMap, UserData};

/// Length of the mark. A read of fewer bytes covers a part of it, and of one byte a 256th of all kills at that point
/// cannot be told from a read that did not happen.
pub const MARK_BYTES: usize = 16;

const OFF_USER: usize = 64;
const OFF_SEQ: usize = 72;
const OFF_BUFFER: usize = 80;
const OFF_BYTES: usize = 84;
const OFF_MARK: usize = 88;

/// A read that was about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Whose.
    pub user: UserData,
    /// The number its completion would have.
    pub seq: u64,
    /// Into which buffer.
    pub buffer: u16,
    /// How many bytes are asked for.
    pub bytes: usize,
    /// There are as many bytes: the read takes all of them or does not happen (a pipe). Otherwise the mark is put there
    /// as often as it fits, and where it goes on the read ended.
    pub exact: bool,
}

impl RingMap {
    /// Sets the mark of this ring's life (random bytes).
    pub fn set_mark(&self, mark: [u8; MARK_BYTES]) {
        self.map().write(OFF_MARK, &mark);
    }

    fn mark(&self) -> [u8; MARK_BYTES] {
        let mut mark = [0; MARK_BYTES];
        self.map().read(OFF_MARK, &mut mark);
        mark
    }

    /// Puts the mark into the buffer and writes the intent down.
    pub fn intend(&self, intent: &Intent) {
        let map = self.map();
        let (at, mark) = (buffer_at(intent.buffer), self.mark());
        let marked = if intent.exact {
            MARK_BYTES
        } else {
            intent.bytes.min(RING_BUFFER_BYTES)
        };
        for offset in (0..marked).step_by(MARK_BYTES) {
            map.write(at + offset, &mark[..MARK_BYTES.min(marked - offset)]);
        }
        map.atomic_u64(OFF_USER)
            .store(intent.user.encode(), Release);
        map.atomic_u32(OFF_BUFFER)
            .store(u32::from(intent.buffer), Release);
        let exact = if intent.exact { EXACT } else { 0 };
        map.atomic_u32(OFF_BYTES)
            .store(intent.bytes as u32 | exact, Release);
        // Last: with this number it counts. 0 is none.
        map.atomic_u64(OFF_SEQ).store(intent.seq + 1, Release);
    }

    /// Nothing is about to be read.
    pub fn forget_intent(&self) {
        self.map().atomic_u64(OFF_SEQ).store(0, Release);
    }

    /// The read that has no completion although its bytes are in a buffer; `next_seq` is the number of the completion
    /// after the last one. Only when the ring's daemon is dead.
    pub fn orphan(&self, next_seq: u64) -> Option<(UserData, &[u8])> {
        let map = self.map();
        if map.atomic_u64(OFF_SEQ).load(Acquire) != next_seq.checked_add(1)? {
            return None;
        }
        let user = UserData::decode(map.atomic_u64(OFF_USER).load(Acquire))?;
        let buffer = u16::try_from(map.atomic_u32(OFF_BUFFER).load(Acquire)).ok()?;
        let word = map.atomic_u32(OFF_BYTES).load(Acquire);
        let (bytes, exact) = ((word & !EXACT) as usize, word & EXACT != 0);
        if buffer >= RING_BUFFERS || bytes > RING_BUFFER_BYTES {
            return None;
        }
        let at = map.at(buffer_at(buffer), RING_BUFFER_BYTES);
        // SAFETY: inside the mapping; the daemon, which alone writes there, is dead.
        let data = unsafe { std::slice::from_raw_parts(at, bytes) };
        let mark = self.mark();
        let marked = if exact { bytes.min(MARK_BYTES) } else { bytes };
        let changed = (0..marked)
            .rev()
            .find(|i| data[*i] != mark[*i % MARK_BYTES])?;
        let read = if exact { bytes } else { changed + 1 };
        Some((user, &data[..read]))
    }
}

const EXACT: u32 = 1 << 31;

fn buffer_at(buffer: u16) -> usize {
    BUFFERS_OFFSET + usize::from(buffer) * RING_BUFFER_BYTES
}

#[cfg(test)]
mod tests {
    use super::super::Stream;
    use super::*;

    fn ring() -> RingMap {
        let ring = RingMap::create(1).expect("ring");
        ring.set_mark(*b"0123456789abcdef");
        ring
    }

    fn intent(bytes: usize, exact: bool) -> Intent {
        Intent {
            user: UserData {
                slot: 3,
                generation: 7,
                stream: Stream::Stderr,
            },
            seq: 41,
            buffer: 5,
            bytes,
            exact,
        }
    }

    #[test]
    fn a_read_that_did_not_happen_leaves_nothing() {
        let ring = ring();
        assert_eq!(ring.orphan(41), None, "there was never an intent");
        ring.intend(&intent(100, true));
        assert_eq!(ring.orphan(41), None, "the mark is there");
    }

    #[test]
    fn bytes_without_their_completion_are_found_once() {
        let ring = ring();
        let intent = intent(20, true);
        ring.intend(&intent);
        ring.map().write(buffer_at(5), b"0123456789abcdeX and");
        let found = ring.orphan(41).expect("found");
        assert_eq!(found, (intent.user, &b"0123456789abcdeX and"[..]));
        assert_eq!(ring.orphan(42), None, "the completion is there");
        ring.forget_intent();
        assert_eq!(ring.orphan(41), None);
    }

    #[test]
    fn a_read_of_unknown_length_ends_where_the_mark_goes_on() {
        let ring = ring();
        ring.intend(&intent(MARK_BYTES, false));
        ring.map().write(buffer_at(5), b"out");
        assert_eq!(ring.orphan(41).expect("found").1, b"out");
        ring.intend(&intent(1000, false));
        assert_eq!(ring.orphan(41), None);
        let text = [b'x'; 777];
        ring.map().write(buffer_at(5), &text);
        assert_eq!(ring.orphan(41).expect("found").1, text);
    }

    #[test]
    fn nonsense_is_no_intent() {
        let ring = ring();
        ring.intend(&intent(20, true));
        ring.map().write(buffer_at(5), b"something else, read");
        ring.map().atomic_u32(OFF_BYTES).store(1 << 30, Release);
        assert_eq!(ring.orphan(41), None);
        ring.map().atomic_u32(OFF_BYTES).store(20, Release);
        ring.map().atomic_u32(OFF_BUFFER).store(4000, Release);
        assert_eq!(ring.orphan(41), None);
    }
}
