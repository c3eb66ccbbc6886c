//! From lines to the bytes of a batch, for each form of file.

use std::ops::Range;

use gantry_stream::Stream;

use crate::frames::{self, Walk};
use crate::index::{Entry, RUN_BYTES, What};
use crate::{json, scan, time};

/// A line, or a part of one, or what is said of a loss.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) stream: Stream,
    pub(super) text: &'a [u8],
    pub(super) newline: bool,
    pub(super) time_ns: u64,
    /// The attributes that make it a gap record (JSON object).
    pub(super) gap: Option<&'a [u8]>,
}

impl Line<'_> {
    /// Bytes of output.
    pub(super) fn len(&self) -> u64 {
        self.text.len() as u64 + u64::from(self.newline)
    }
}

/// How a batch is encoded.
#[derive(Debug)]
pub(super) enum Encoder {
    Json(Json),
    Frames(Frames),
}

#[derive(Debug, Default)]
pub(super) struct Json {
    /// Empty, or the JSON object of every record's attributes.
    attrs: Vec<u8>,
    stamp: time::Stamp,
}

/// A run of the batch.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Where it begins in the batch.
    at: usize,
    records: u64,
    time_ns: u64,
    clock_ns: u64,
    what: What,
}

#[derive(Debug, Default)]
pub(super) struct Frames {
    marks: Vec<Mark>,
    /// The latest time so far.
    clock_ns: u64,
}

impl Encoder {
    pub(super) fn json(attrs: &std::collections::BTreeMap<String, String>) -> Encoder {
        let mut text = Vec::new();
        if !attrs.is_empty() {
            json::attrs_into(&mut text, attrs);
        }
        Encoder::Json(Json {
            attrs: text,
            stamp: time::Stamp::default(),
        })
    }

    /// `clock_ns`: the latest time that the log has.
    pub(super) fn frames(clock_ns: u64) -> Encoder {
        Encoder::Frames(Frames {
            marks: Vec::new(),
            clock_ns,
        })
    }

    /// Appends a record.
    pub(super) fn put(&mut self, out: &mut Vec<u8>, line: Line<'_>) {
        match self {
            Encoder::Json(json) => {
                let stamp = json.stamp.format(line.time_ns);
                let attrs = line.gap.unwrap_or(&json.attrs);
                json::encode_into(out, line.text, line.newline, line.stream, attrs, stamp);
            }
            Encoder::Frames(frames) => frames.put(out, line),
        }
    }

    /// The batch is written, or given up.
    pub(super) fn clear(&mut self) {
        if let Encoder::Frames(frames) = self {
            frames.marks.clear();
        }
    }

    /// Where the records end that begin in the first `room` bytes from `at` on; at least one record.
    pub(super) fn cut(&self, batch: &[u8], at: usize, room: usize) -> usize {
        let rest = &batch[at..];
        let Some(from) = room.checked_sub(1).filter(|from| *from < rest.len()) else {
            return batch.len();
        };
        match self {
            Encoder::Json(_) => {
                let end = scan::position(&rest[from..], |b| b == b'\n');
                end.map_or(batch.len(), |n| at + from + n + 1)
            }
            Encoder::Frames(_) => {
                let mut end = 0;
                for frame in Walk::new(rest) {
                    end += frame.whole.len();
                    if end > from {
                        break;
                    }
                }
                at + end
            }
        }
    }

    /// Records of a part of the batch, and bytes of output in them.
    pub(super) fn count(&self, part: &[u8]) -> (u64, u64) {
        match self {
            Encoder::Json(_) => {
                let records = part.split_inclusive(|b| *b == b'\n');
                let texts = records.filter_map(|line| Some(json::decode(line)?.0.log.len()));
                texts.fold((0, 0), |(n, sum), len| (n + 1, sum + len as u64))
            }
            Encoder::Frames(_) => Walk::new(part).fold((0, 0), |(n, sum), frame| {
                (n + 1, sum + frame.text().len() as u64)
            }),
        }
    }

    /// Index entries of a part of the batch that is written at `offset` after `record` records, and its records.
    pub(super) fn entries(
        &self,
        batch: &[u8],
        part: Range<usize>,
        offset: u64,
        record: u64,
    ) -> (Vec<Entry>, u64) {
        match self {
            Encoder::Json(_) => (Vec::new(), 0),
            Encoder::Frames(frames) => frames.entries(batch, part, offset, record),
        }
    }
}

impl Frames {
    fn put(&mut self, out: &mut Vec<u8>, line: Line<'_>) {
        let what = match line.gap {
            None => What::Output(line.stream),
            Some(_) => What::Gap(line.stream),
        };
        let goes_on = self.marks.last().is_some_and(|mark| {
            mark.what == What::Output(line.stream)
                && what == mark.what
                && mark.time_ns + mark.records == line.time_ns
                && out.len() - mark.at < RUN_BYTES
        });
        if !goes_on {
            self.marks.push(Mark {
                at: out.len(),
                records: 0,
                time_ns: line.time_ns,
                clock_ns: self.clock_ns,
                what,
            });
        }
        if let Some(mark) = self.marks.last_mut() {
            mark.records += 1;
        }
        self.clock_ns = self.clock_ns.max(line.time_ns);
        frames::put(out, line.stream, line.text, line.newline);
    }

    fn entries(
        &self,
        batch: &[u8],
        part: Range<usize>,
        offset: u64,
        record: u64,
    ) -> (Vec<Entry>, u64) {
        let mut entries = Vec::new();
        let mut records = 0;
        let first = self.marks.partition_point(|mark| mark.at <= part.start);
        for n in first.saturating_sub(1)..self.marks.len() {
            let mark = self.marks[n];
            if mark.at >= part.end {
                break;
            }
            let mark_end = self.marks.get(n + 1).map_or(batch.len(), |next| next.at);
            // The part may begin or end inside a run.
            let (start, end) = (mark.at.max(part.start), mark_end.min(part.end));
            let before = match start == mark.at {
                true => 0,
                false => Walk::new(&batch[mark.at..start]).count() as u64,
            };
            let count = match end == mark_end {
                true => mark.records - before,
                false => Walk::new(&batch[start..end]).count() as u64,
            };
            entries.push(Entry {
                offset: offset + (start - part.start) as u64,
                record: record + records,
                time_ns: mark.time_ns + before,
                clock_ns: match before {
                    0 => mark.clock_ns,
                    _ => mark.clock_ns.max(mark.time_ns + before - 1),
                },
                what: mark.what,
            });
            records += count;
        }
        (entries, records)
    }
}
