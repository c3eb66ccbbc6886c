//! From pieces of output to lines, and to parts of lines that are too long.

use gantry_keeper_proto::shm::{CARRY_BYTES, Carry};
use gantry_stream::{Stream, unix_time_ns};

use crate::scan;

use super::encoder::Line;

/// How far the times of a log may be ahead of the clock.
const MAX_AHEAD_NS: u64 = 60_000_000_000;

/// The unfinished line of a stream.
#[derive(Debug, Default)]
struct Partial {
    carry: Vec<u8>,
    /// Time of the line's first part, if there was one (0: none).
    time_ns: u64,
}

/// Cuts output where Docker cuts it.
#[derive(Debug)]
pub(super) struct Lines {
    partial: [Partial; 2],
    max_bytes: usize,
    last_time_ns: u64,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines::new(CARRY_BYTES)
    }
}

impl Lines {
    /// Lines are cut at so many bytes.
    pub(super) fn new(max_bytes: usize) -> Lines {
        Lines {
            partial: Default::default(),
            max_bytes,
            last_time_ns: 0,
        }
    }

    /// Times go on after this one, unless it is so far ahead that the clock must have been set back since, or the file is
    /// damaged.
    pub(super) fn go_on_after(&mut self, time_ns: u64) {
        if time_ns <= unix_time_ns().saturating_add(MAX_AHEAD_NS) {
            self.last_time_ns = self.last_time_ns.max(time_ns);
        }
    }

    /// The time of the last line.
    pub(super) fn last_time_ns(&self) -> u64 {
        self.last_time_ns
    }

    /// The time of the next line. Lines of one batch are read at one instant, but no two get one time: a follower that
    /// comes back with `since` tells them apart by it.
    pub(super) fn next_time(&mut self, now_ns: u64) -> u64 {
        self.last_time_ns = now_ns.max(self.last_time_ns.saturating_add(1));
        self.last_time_ns
    }

    /// Takes a piece of output.
    pub(super) fn take(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        now_ns: u64,
        mut put: impl FnMut(Line<'_>),
    ) {
        let mut rest = bytes;
        while let Some(n) = scan::newline(rest) {
            let text = &rest[..n];
            rest = &rest[n + 1..];
            let time_ns = self.next_time(now_ns);
            let partial = &self.partial[stream.index()];
            if partial.carry.is_empty() && partial.time_ns == 0 && text.len() < self.max_bytes {
                put(whole(stream, text, time_ns));
                continue;
            }
            self.keep(stream, text, time_ns, &mut put);
            let Partial {
                carry,
                time_ns: first,
            } = std::mem::take(&mut self.partial[stream.index()]);
            put(whole(
                stream,
                &carry,
                if first == 0 { time_ns } else { first },
            ));
        }
        self.keep(stream, rest, now_ns.max(self.last_time_ns), &mut put);
    }

    /// Handles one piece of a line that has no newline yet: kept, and cut into records where Docker cuts.
    fn keep(
        &mut self,
        stream: Stream,
        mut piece: &[u8],
        time_ns: u64,
        put: &mut impl FnMut(Line<'_>),
    ) {
        let partial = &mut self.partial[stream.index()];
        while partial.carry.len() + piece.len() >= self.max_bytes {
            let room = self.max_bytes.saturating_sub(partial.carry.len());
            let (head, rest) = piece.split_at(room);
            partial.carry.extend_from_slice(head);
            partial.put(stream, time_ns, put);
            piece = rest;
        }
        partial.carry.extend_from_slice(piece);
    }

    /// The stream has ended.
    pub(super) fn finish(&mut self, stream: Stream, now_ns: u64, mut put: impl FnMut(Line<'_>)) {
        let time_ns = now_ns.max(self.last_time_ns);
        let partial = &mut self.partial[stream.index()];
        if !partial.carry.is_empty() {
            partial.put(stream, time_ns, &mut put);
        }
        *partial = Partial::default();
    }

    /// The unfinished line and the time of its first part.
    pub(super) fn carry(&self, stream: Stream) -> (&[u8], u64) {
        let partial = &self.partial[stream.index()];
        (&partial.carry, partial.time_ns)
    }

    /// Takes over the unfinished lines of an earlier life.
    pub(super) fn restore(&mut self, carry: &[Carry; 2]) {
        for (partial, carry) in self.partial.iter_mut().zip(carry) {
            *partial = Partial {
                carry: carry.bytes.clone(),
                time_ns: carry.partial_time_ns,
            };
        }
    }
}

fn whole(stream: Stream, text: &[u8], time_ns: u64) -> Line<'_> {
    Line {
        stream,
        text,
        newline: true,
        time_ns,
        gap: None,
    }
}

impl Partial {
    /// What is kept is a part of a line; all parts of a line have the time of the first one.
    fn put(&mut self, stream: Stream, time_ns: u64, put: &mut impl FnMut(Line<'_>)) {
        if self.time_ns == 0 {
            self.time_ns = time_ns;
        }
        put(Line {
            stream,
            text: &self.carry,
            newline: false,
            time_ns: self.time_ns,
            gap: None,
        });
        self.carry.clear();
    }
}
