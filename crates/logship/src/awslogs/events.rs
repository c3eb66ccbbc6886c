//! Events of CloudWatch: lines put together again, and lines that belong together.

use std::time::{Duration, Instant};

use gantry_logs::Record;
use regex_lite::Regex;

/// The longest event, without what Amazon adds to each.
pub(super) const MAX_EVENT_BYTES: usize = 262_144 - EVENT_OVERHEAD_BYTES;
/// What Amazon counts in addition to an event's text.
pub(super) const EVENT_OVERHEAD_BYTES: usize = 26;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Unix time.
    pub(super) time_ms: u64,
    pub(super) text: String,
}

/// Text that is not an event yet.
#[derive(Debug)]
struct Open {
    time_ms: u64,
    bytes: Vec<u8>,
    /// The number of the job that began it, and when that came.
    since: u64,
    at: Instant,
}

/// Makes events of records.
#[derive(Debug)]
pub(super) struct Events {
    /// Begins a new event; without, every line is one.
    pattern: Option<Regex>,
    /// Lines whose end has not come, of each stream.
    lines: [Option<Open>; 2],
    event: Option<Open>,
    job: u64,
}

impl Events {
    pub(super) fn new(pattern: Option<Regex>) -> Events {
        Events {
            pattern,
            lines: [None, None],
            event: None,
            job: 0,
        }
    }

    /// What is taken from here on belongs to another job.
    pub(super) fn next_job(&mut self) {
        self.job += 1;
    }

    /// Of how many jobs, up to the present one, something is held.
    pub(super) fn held_jobs(&self) -> u64 {
        let open = self.lines.iter().chain([&self.event]).flatten();
        open.map(|o| self.job + 1 - o.since).max().unwrap_or(0)
    }

    /// Takes a record; appends the events that are complete by it.
    pub(super) fn take(&mut self, record: &Record, out: &mut Vec<Event>) {
        let time_ms = record.time_ns / 1_000_000;
        let stream = record.stream.index();
        if record.partial.is_none_or(|p| p.ordinal == 1) {
            self.end_line(stream, out);
        }
        let line = self.lines[stream].get_or_insert_with(|| Open {
            time_ms,
            bytes: Vec::new(),
            since: self.job,
            at: Instant::now(),
        });
        line.bytes.extend_from_slice(&record.bytes);
        let goes_on = record.partial.is_some_and(|p| !p.last);
        if !goes_on
            || self.lines[stream]
                .as_ref()
                .is_some_and(|l| l.bytes.len() >= MAX_EVENT_BYTES)
        {
            self.end_line(stream, out);
        }
    }

    /// Lines that belong together are not waited for longer than this.
    pub(super) fn end_older_than(&mut self, age: Duration, out: &mut Vec<Event>) {
        if self.event.as_ref().is_some_and(|e| e.at.elapsed() >= age) {
            self.end_event(out);
        }
    }

    /// Makes events of everything that is held.
    pub(super) fn flush(&mut self, out: &mut Vec<Event>) {
        self.end_line(0, out);
        self.end_line(1, out);
        self.end_event(out);
    }

    fn end_line(&mut self, stream: usize, out: &mut Vec<Event>) {
        let Some(line) = self.lines[stream].take() else {
            return;
        };
        let Some(pattern) = &self.pattern else {
            push(out, line);
            return;
        };
        let begins = pattern.is_match(&String::from_utf8_lossy(&line.bytes));
        let so_far = self.event.as_ref().map_or(0, |e| e.bytes.len());
        if begins || so_far + line.bytes.len() + 1 > MAX_EVENT_BYTES {
            self.end_event(out);
        }
        let event = self.event.get_or_insert(Open {
            bytes: Vec::new(),
            ..line
        });
        event.bytes.extend_from_slice(&line.bytes);
        event.bytes.push(b'\n');
    }

    fn end_event(&mut self, out: &mut Vec<Event>) {
        if let Some(event) = self.event.take() {
            push(out, event);
        }
    }
}

/// Cuts what is too long; an empty text is no event.
fn push(out: &mut Vec<Event>, open: Open) {
    let text = String::from_utf8_lossy(&open.bytes);
    let mut rest = &*text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(MAX_EVENT_BYTES));
        out.push(Event {
            time_ms: open.time_ms,
            text: piece.to_owned(),
        });
        rest = after;
    }
}

/// The expression that finds a time in the format of `strftime`; the rest of the format is an expression already.
pub(super) fn datetime_pattern(format: &str) -> String {
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(c) = letters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = letters.next();
        out.push_str(match directive {
            Some('A') => "(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)",
            Some('a') => "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)",
            Some('B') => {
                "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
            }
            Some('b') => "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)",
            Some('w') => r"\d",
            Some('d' | 'm' | 'y' | 'H' | 'I' | 'M' | 'S') => r"\d{2}",
            Some('Y') => r"\d{4}",
            Some('p') => "[A,P]M",
            Some('f') => r"\d{6}",
            Some('L') => r"\.\d{3}",
            Some('j') => r"\d{3}",
            Some('z') => r"[+-]\d{4}",
            Some('Z') => "[A-Z]{1,4}T",
            Some(other) => {
                out.push('%');
                out.push(other);
                continue;
            }
            None => "%",
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use gantry_logs::Partial;
    use gantry_stream::Stream;

    use super::*;
    use crate::testing::record;

    fn part(text: &str, ordinal: u32, last: bool) -> Record {
        Record {
            partial: Some(Partial { ordinal, last }),
            ..record(1_000_000, Stream::Stdout, text)
        }
    }

    fn texts(events: &[Event]) -> Vec<&str> {
        events.iter().map(|e| e.text.as_str()).collect()
    }

    #[test]
    fn parts_of_a_line_are_one_event() {
        let mut events = Events::new(None);
        let mut out = Vec::new();
        events.take(&part("a", 1, false), &mut out);
        assert_eq!((out.len(), events.held_jobs()), (0, 1));
        events.next_job();
        events.take(&record(2_000_000, Stream::Stderr, "e"), &mut out);
        assert_eq!(events.held_jobs(), 2);
        events.take(&part("b", 2, true), &mut out);
        events.take(&record(3_000_000, Stream::Stdout, ""), &mut out);
        assert_eq!((texts(&out), events.held_jobs()), (vec!["e", "ab"], 0));
        assert_eq!(out[1].time_ms, 1);
        // The end of output without a newline, and then other output.
        events.take(&part("c", 1, false), &mut out);
        events.take(&record(4_000_000, Stream::Stdout, "d"), &mut out);
        assert_eq!(texts(&out[2..]), ["c", "d"]);
    }

    #[test]
    fn lines_that_belong_together_are_one_event() {
        let mut events = Events::new(Some(Regex::new("^20").unwrap()));
        let mut out = Vec::new();
        for line in ["x", "2026 a", "cont", "2027 b"] {
            events.take(&record(5_000_000, Stream::Stdout, line), &mut out);
        }
        assert_eq!(texts(&out), ["x\n", "2026 a\ncont\n"]);
        events.end_older_than(Duration::from_secs(600), &mut out);
        assert_eq!(out.len(), 2);
        events.end_older_than(Duration::ZERO, &mut out);
        assert_eq!(texts(&out[2..]), ["2027 b\n"]);
        assert_eq!(events.held_jobs(), 0);
    }

    #[test]
    fn long_events_are_cut() {
        let mut events = Events::new(None);
        let mut out = Vec::new();
        let long = "é".repeat(MAX_EVENT_BYTES);
        events.take(&record(0, Stream::Stdout, &long), &mut out);
        assert!(out.len() >= 2 && out.iter().all(|e| e.text.len() <= MAX_EVENT_BYTES));
        assert_eq!(texts(&out).concat(), long);
    }

    #[test]
    fn times_as_expressions() {
        let pattern = datetime_pattern(r"\[%b %d, %Y %H:%M:%S\]");
        let pattern = Regex::new(&pattern).unwrap();
        assert!(pattern.is_match("[Jan 02, 2026 03:04:05] x"));
        assert!(!pattern.is_match("[Xan 02, 2026 03:04:05] x"));
    }
}
