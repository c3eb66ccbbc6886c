//! What a keeper collected while no daemon was there.

use std::fs::File;
use std::io;

use gantry_keeper_proto::shm::{SpillReader, SpillRecord};

use super::ContainerIo;
use crate::piece::Piece;

impl ContainerIo {
    /// Logs what the keeper collected while the daemon was away, from the committed offset to `end`, committing as it
    /// goes: dying in the middle repeats and loses nothing.
    pub async fn replay(&self, spill: File, end: u64) -> io::Result<()> {
        let mut reader = SpillReader::new(spill, self.spill_offset.get(), end);
        loop {
            let read = gantry_rt::workers::run(move || {
                let record = reader.next_record();
                (reader, record)
            })
            .await;
            let (back, record) = match read {
                Ok(read) => read,
                Err(error) => return self.give_up_replay(end, &error),
            };
            reader = back;
            let record = match record {
                Ok(record) => record,
                Err(error) => return self.give_up_replay(end, &error),
            };
            let mut data = None;
            match record {
                None => return Ok(()),
                Some(SpillRecord::Gap(bytes)) => {
                    self.count_gap(bytes);
                    tracing::warn!(
                        slot = self.slot,
                        bytes,
                        "output was dropped while the daemon was away"
                    );
                }
                Some(SpillRecord::Dropped { bytes, records }) => {
                    if let Some(sink) = &mut *self.sink.borrow_mut() {
                        sink.dropped(bytes, records);
                    }
                }
                Some(SpillRecord::End { stream, time_ns }) => self.finish(stream, time_ns),
                Some(SpillRecord::Data {
                    stream,
                    time_ns,
                    bytes,
                }) => {
                    self.append(stream, &bytes, time_ns);
                    data = Some((stream, bytes));
                }
            }
            self.spill_offset.set(reader.offset());
            self.commit(0, 0)?;
            let piece = data.iter().map(|(stream, bytes)| (*stream, &bytes[..]));
            self.hand_out(&Piece::gather(piece));
            self.publish();
        }
    }

    /// The spill cannot be read: what is left of it is lost, and that is said. The container goes on.
    fn give_up_replay(&self, end: u64, error: &impl std::fmt::Display) -> io::Result<()> {
        let lost = end.saturating_sub(self.spill_offset.get());
        tracing::error!(
            slot = self.slot,
            lost_bytes = lost,
            %error,
            "output collected while the daemon was away cannot be read; the rest of it is lost"
        );
        self.count_gap(lost);
        self.spill_offset.set(end);
        self.commit(0, 0)
    }

    /// The log says it too.
    fn count_gap(&self, bytes: u64) {
        self.gap_bytes.set(self.gap_bytes.get() + bytes);
        self.pump.count(|s| s.gap_bytes += bytes);
        if let Some(sink) = &mut *self.sink.borrow_mut() {
            sink.gap(bytes);
        }
    }
}
