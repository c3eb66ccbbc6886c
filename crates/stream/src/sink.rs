//! Where a container's output is logged.

use std::any::Any;
use std::io;

use gantry_keeper_proto::shm::{Lost, SlotState, Stream};

/// How far a log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// Length of the current log file.
    pub bytes: u64,
    /// Which file it is (inode number).
    pub file_id: u64,
}

/// A write of a log, for a thread that may wait for its files.
pub type WriteJob = Box<dyn FnOnce() -> WriteDone + Send>;
/// What came of it.
pub type WriteDone = Box<dyn Any + Send>;

/// A log driver, driven by the pump: `append`..., `write`, journal commit, `committed`.
pub trait LogSink {
    /// Encodes output; nothing is written yet.
    fn append(&mut self, stream: Stream, bytes: &[u8], time_ns: u64);
    /// Output was lost before it came here: so many bytes (0: not known). The log says so.
    fn gap(&mut self, bytes: u64);
    /// The buffer of `mode=non-blocking` was full and did not take so many bytes, in which so many lines end.
    fn dropped(&mut self, bytes: u64, records: u64) {
        let _records_are_in_no_record_here = records;
        self.gap(bytes);
    }
    /// Encodes what is lost and not said yet; false if there is nothing to say.
    fn tell_lost(&mut self, time_ns: u64) -> bool {
        let _nothing_is_said_at = time_ns;
        false
    }
    /// A stream has ended: its unfinished line becomes a last record.
    fn finish(&mut self, stream: Stream, time_ns: u64);
    /// Writes what was encoded with one write(2). On an error the records of this batch are dropped and counted, and the
    /// file is as it was.
    fn write(&mut self) -> io::Result<LogPosition>;
    /// As [`LogSink::write`], on another thread: until [`LogSink::end_write`] no output is encoded.
    fn begin_write(&mut self) -> WriteJob {
        Box::new(|| Box::new(()))
    }
    /// Takes back what [`LogSink::begin_write`] gave away; `None` if that is lost.
    fn end_write(&mut self, done: Option<WriteDone>) -> io::Result<LogPosition> {
        drop(done);
        self.write()
    }
    /// Another writer of the same log has begun, and says what this one has not said.
    fn is_superseded(&self) -> bool {
        false
    }
    /// Where the log is, without a write.
    fn position(&self) -> LogPosition;
    /// The unfinished line and the time of its first partial record (0: none).
    fn carry(&self, stream: Stream) -> (&[u8], u64);
    /// What is lost and not said in the log yet. The journal keeps it, so that a daemon that comes after this one says it.
    fn lost(&self) -> Lost {
        Lost::default()
    }
    /// The journal has it: readers may see it now; the place to rotate.
    fn committed(&mut self);
    /// Enough is encoded: the batch should be written now.
    fn batch_full(&self) -> bool {
        false
    }
    /// Goes back to what was committed: cuts off a torn write, takes over the unfinished lines and what is still to be said
    /// of losses. After an error it can be tried again.
    fn restore(&mut self, state: &SlotState) -> io::Result<()>;
    /// No more output: followers end.
    fn close(&mut self);
}
