//! What stands for the log of a running container as long as its files cannot be opened.

use std::io;

use gantry_keeper_proto::shm::{Lost, SlotState};
use gantry_stream::{LogPosition, LogSink, Stream};

use crate::loss::{Loss, LossReason};

use super::lines::Lines;

/// A log of which nothing can be written: it counts the records that are lost. What was committed stays committed, at its
/// place: a log that is opened later goes on there, with the unfinished lines, and says what is missing.
#[derive(Debug)]
pub struct LostLog {
    lines: Lines,
    position: LogPosition,
    /// Records and bytes of output since the last write.
    unwritten: (u64, u64),
    loss: Option<Loss>,
    errno: i32,
}

impl LostLog {
    /// In place of a log that could not be opened, with this error.
    pub fn new(error: &io::Error) -> LostLog {
        LostLog {
            lines: Lines::default(),
            position: LogPosition::default(),
            unwritten: (0, 0),
            loss: None,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    fn add_loss(&mut self, more: Loss) {
        more.count();
        match &mut self.loss {
            None => self.loss = Some(more),
            Some(loss) => loss.add(more),
        }
    }
}

impl LogSink for LostLog {
    fn append(&mut self, stream: Stream, bytes: &[u8], now_ns: u64) {
        let lost = &mut self.unwritten;
        self.lines.take(stream, bytes, now_ns, |line| {
            *lost = (lost.0 + 1, lost.1 + line.len());
        });
    }

    fn gap(&mut self, bytes: u64) {
        self.add_loss(Loss {
            records: 0,
            bytes,
            reason: LossReason::Spill,
        });
    }

    fn finish(&mut self, stream: Stream, now_ns: u64) {
        let lost = &mut self.unwritten;
        self.lines.finish(stream, now_ns, |line| {
            *lost = (lost.0 + 1, lost.1 + line.len());
        });
    }

    fn write(&mut self) -> io::Result<LogPosition> {
        let (records, bytes) = std::mem::take(&mut self.unwritten);
        if records > 0 {
            self.add_loss(Loss {
                records,
                bytes,
                reason: LossReason::Write(self.errno),
            });
        }
        Err(io::Error::from_raw_os_error(self.errno))
    }

    fn position(&self) -> LogPosition {
        self.position
    }

    fn carry(&self, stream: Stream) -> (&[u8], u64) {
        self.lines.carry(stream)
    }

    fn lost(&self) -> Lost {
        Loss::journaled(self.loss.as_ref())
    }

    fn committed(&mut self) {}

    fn restore(&mut self, state: &SlotState) -> io::Result<()> {
        self.position = LogPosition {
            bytes: state.log_bytes,
            file_id: state.log_id,
        };
        self.lines.restore(&state.carry);
        self.loss = Loss::of_journal(state.lost);
        Ok(())
    }

    fn close(&mut self) {}
}
