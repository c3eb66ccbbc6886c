//! Where a container's output is logged.

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

/// A log driver, driven by the pump: `append`..., `write`, journal commit, `committed`.
pub trait LogSink {
    /// Encodes output; nothing is written yet.
    fn append(&mut self, stream: Stream, bytes: &[u8], time_ns: u64);
    /// Output was lost before it came here: so many bytes (0: not known). The log says so.
    fn gap(&mut self, bytes: u64);
    /// A stream has ended: its unfinished line becomes a last record.
    fn finish(&mut self, stream: Stream, time_ns: u64);
    /// Writes what was encoded with one write(2). On an error the records of this batch are dropped and counted, and the
    /// file is as it was.
    fn write(&mut self) -> io::Result<LogPosition>;
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
