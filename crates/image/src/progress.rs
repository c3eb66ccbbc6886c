//! How far the reading of a layer's file is.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::LoadEvent;

/// Shortest time between two reports, as Docker's.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// Tells how much of a file was read through it; the end is always told.
pub(crate) struct ProgressReader<'a, R> {
    inner: R,
    diff_id: &'a str,
    current_bytes: u64,
    total_bytes: u64,
    reported: Option<Instant>,
    report: &'a mut dyn FnMut(LoadEvent),
}

impl<'a, R: Read> ProgressReader<'a, R> {
    pub(crate) fn new(
        inner: R,
        diff_id: &'a str,
        total_bytes: u64,
        report: &'a mut dyn FnMut(LoadEvent),
    ) -> Self {
        Self {
            inner,
            diff_id,
            current_bytes: 0,
            total_bytes,
            reported: None,
            report,
        }
    }
}

impl<R: Read> Read for ProgressReader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if n == 0 {
            return Ok(0);
        }
        self.current_bytes += n as u64;
        let due = self.reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY);
        if due || self.current_bytes == self.total_bytes {
            self.reported = Some(Instant::now());
            (self.report)(LoadEvent::Layer {
                diff_id: self.diff_id.to_owned(),
                current_bytes: self.current_bytes,
                total_bytes: self.total_bytes,
            });
        }
        Ok(n)
    }
}
