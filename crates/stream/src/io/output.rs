//! The way out: from the pump into the log and to the clients, and when to read.

use std::io;
use std::time::Instant;

use gantry_keeper_proto::shm::{Cqe, Lost, SlotCommit, Stream, UserData};

use super::buffer::LogBuffer;
use super::bulk::Mode;
use super::{ContainerIo, REPEAT_ERROR};
use crate::backend::Backend;
use crate::piece::Piece;
use crate::pump::Step;
use crate::sink::LogPosition;
use crate::subscription::SUBSCRIPTION_HIGH_BYTES;
use crate::unix_time_ns;

/// With more clients than this the pump does not send itself: each client's task does, and others of the shard get their
/// turn between two of them.
pub(super) const DIRECT_CLIENTS: usize = 4;

impl ContainerIo {
    /// Counts data and has it encoded for the log.
    pub(super) fn append(&self, stream: Stream, data: &[u8], time_ns: u64) {
        let mut raw = self.raw_bytes.get();
        raw[stream.index()] += data.len() as u64;
        self.raw_bytes.set(raw);
        if let Some(buffer) = &self.buffer {
            let (bytes, records) = buffer.push(stream, data, time_ns);
            if bytes > 0 {
                self.pump.count(|s| {
                    s.dropped_bytes += bytes;
                    s.dropped_records += records;
                });
            }
        } else if let Some(sink) = &mut *self.sink.borrow_mut() {
            sink.append(stream, data, time_ns);
            self.dirty.set(true);
        }
    }

    /// Takes data of a completion; true if the batch should end here.
    pub(crate) fn take(&self, stream: Stream, cqe: Cqe, data: &[u8]) -> bool {
        self.append(stream, data, unix_time_ns());
        if !self.clients.borrow().is_empty() {
            self.batch.borrow_mut().push((stream, cqe));
        }
        let reading = &mut self.streams.borrow_mut()[stream.index()];
        if reading.pace.note(data.len()) && reading.mode == Mode::Ring && self.may_be_bulk(stream) {
            reading.mode = Mode::Leaving;
        }
        self.buffer.is_none() && self.sink.borrow().as_ref().is_some_and(|s| s.batch_full())
    }

    /// The final completion of a read.
    pub(crate) fn read_ended(&self, stream: Stream, res: i32) {
        let mut streams = self.streams.borrow_mut();
        let reading = &mut streams[stream.index()];
        reading.armed = false;
        reading.cancelling = false;
        let again = res > 0
            || [
                -libc::ENOBUFS,
                -libc::ECANCELED,
                -libc::EAGAIN,
                -libc::EINTR,
            ]
            .contains(&res);
        if again {
            return;
        }
        if res < 0 && !(self.tty && res == -libc::EIO) {
            let error = io::Error::from_raw_os_error(-res);
            tracing::warn!(slot = self.slot, ?stream, %error, "reading a container's output failed; taken as its end");
        }
        reading.ended = true;
        reading.fd = None;
        drop(streams);
        self.finish(stream, unix_time_ns());
    }

    /// A stream's last line may be unfinished.
    pub(super) fn finish(&self, stream: Stream, time_ns: u64) {
        if let Some(buffer) = &self.buffer {
            buffer.push_end(stream, time_ns);
        } else if let Some(sink) = &mut *self.sink.borrow_mut() {
            sink.finish(stream, time_ns);
            self.dirty.set(true);
        }
    }

    /// Writes the log and commits to the journal: completions below `seq` need not be kept for this container.
    pub(crate) fn commit(&self, ring_epoch: u64, cq_seq: u64) -> io::Result<()> {
        if let Some(buffer) = &self.buffer {
            return self.commit_buffer(buffer, ring_epoch, cq_seq);
        }
        let mut sink = self.sink.borrow_mut();
        let mut position = LogPosition::default();
        let mut carry: [(&[u8], u64); 2] = [(&[], 0); 2];
        let mut lost = Lost::default();
        if let Some(sink) = sink.as_mut() {
            position = sink.position();
            if self.dirty.take() {
                let result = sink.write();
                self.note_write(&result);
                position = result.unwrap_or_else(|_| sink.position());
                self.pump.step(if ring_epoch == 0 {
                    Step::ReplayWritten
                } else {
                    Step::Written
                });
            }
            carry = [sink.carry(Stream::Stdout), sink.carry(Stream::Stderr)];
            lost = sink.lost();
            if lost != Lost::default() {
                self.say_lost_later();
            }
        }
        let (carry, long_carry) = self.keep_carries(carry);
        let commit = SlotCommit {
            ring_epoch,
            cq_seq,
            long_carry,
            log_bytes: position.bytes,
            log_id: position.file_id,
            spill_offset: self.spill_offset.get(),
            spill_end: 0,
            carry,
            raw_bytes: self.raw_bytes.get(),
            lost,
        };
        self.journal
            .commit(self.slot, &commit)
            .map_err(io::Error::other)?;
        if ring_epoch != 0 {
            self.pump.step(Step::Committed);
        }
        Ok(())
    }

    fn keep_carries<'a>(&self, carry: [(&'a [u8], u64); 2]) -> ([(&'a [u8], u64); 2], [u32; 2]) {
        match &self.long_carries {
            Some(carries) => carries.keep(carry),
            None => (carry, [0; 2]),
        }
    }

    /// What was taken is in the spill, and the log is as far as its last write.
    fn commit_buffer(&self, buffer: &LogBuffer, ring_epoch: u64, cq_seq: u64) -> io::Result<()> {
        let committed = buffer.committed(|position, carry, (spill_offset, spill_end), lost| {
            let (carry, long_carry) = self.keep_carries(carry);
            let commit = SlotCommit {
                ring_epoch,
                cq_seq,
                long_carry,
                log_bytes: position.bytes,
                log_id: position.file_id,
                spill_offset,
                spill_end,
                carry,
                raw_bytes: self.raw_bytes.get(),
                lost,
            };
            self.journal.commit(self.slot, &commit)
        });
        committed.map_err(io::Error::other)?;
        if ring_epoch != 0 {
            self.pump.step(Step::Committed);
        }
        Ok(())
    }

    /// Says that records are lost, and when they no longer are; not for each of many failing batches.
    pub(super) fn note_write(&self, result: &io::Result<LogPosition>) {
        let (failed, said) = self.failing.get();
        match result {
            Ok(_) if failed == 0 => {}
            Ok(_) => {
                self.failing.set((0, None));
                tracing::warn!(
                    slot = self.slot,
                    failed,
                    "a container's log is written again"
                );
            }
            Err(error) => {
                self.pump.count(|s| s.failed_writes += 1);
                let failed = failed + 1;
                let due = said.is_none_or(|at| at.elapsed() >= REPEAT_ERROR);
                if due {
                    tracing::error!(slot = self.slot, %error, failed, "writing a container's log failed; records are lost");
                }
                self.failing
                    .set((failed, if due { Some(Instant::now()) } else { said }));
            }
        }
    }

    /// After a commit: clients get the batch from where the kernel read it to.
    pub(crate) fn deliver(&self, ring: &Backend) {
        let mut batch = self.batch.borrow_mut();
        if !batch.is_empty() {
            let data = |(stream, cqe): &(Stream, Cqe)| Some((*stream, ring.data(cqe)?));
            self.hand_out(&Piece::gather(batch.iter().filter_map(data)));
            batch.clear();
        }
    }

    pub(super) fn hand_out(&self, pieces: &[Piece<'_>]) {
        let clients = self.clients.borrow();
        for client in clients.iter() {
            client.offer(pieces, clients.len() <= DIRECT_CLIENTS);
        }
    }

    /// After a commit: readers of the log see it, ended reads are armed again.
    pub(crate) fn publish(&self) {
        if let (None, Some(sink)) = (&self.buffer, &mut *self.sink.borrow_mut()) {
            sink.committed();
        }
        self.consumers_changed();
        self.finish_if_ended();
    }

    /// Wakes who moves output in bulk.
    pub(crate) fn clients_changed(&self) {
        self.clients_signal.raise();
    }

    /// Starts or stops reads as the clients' backlog demands.
    pub(crate) fn consumers_changed(&self) {
        if let Err(error) = self.arm() {
            tracing::error!(slot = self.slot, %error, "a read of a container's output could not be queued");
        }
    }

    pub(super) fn user(&self, stream: Stream) -> UserData {
        UserData {
            slot: self.slot,
            generation: self.generation,
            stream,
        }
    }

    pub(super) fn arm(&self) -> io::Result<()> {
        let blocked = self
            .clients
            .borrow()
            .iter()
            .any(|c| c.backlog() > SUBSCRIPTION_HIGH_BYTES);
        let wanted = self.started.get() && !blocked;
        let mut streams = self.streams.borrow_mut();
        let mut queued = false;
        for stream in [Stream::Stdout, Stream::Stderr] {
            let reading = &mut streams[stream.index()];
            let user = self.user(stream);
            if let (Mode::Leaving, false, Some(fd)) = (reading.mode, reading.armed, &reading.fd) {
                reading.mode = self.start_bulk(stream, fd);
            }
            let wanted = wanted && reading.mode == Mode::Ring;
            if let (true, false, Some(fd)) = (wanted, reading.armed, &reading.fd) {
                self.pump.with_ring(|ring| ring.read(fd, user))?;
                reading.armed = true;
                queued = true;
            } else if !wanted && reading.armed && !reading.cancelling {
                self.pump.with_ring(|ring| ring.cancel(user))?;
                reading.cancelling = true;
                queued = true;
            }
        }
        if queued {
            self.pump.with_ring(|ring| ring.submit())
        } else {
            Ok(())
        }
    }
}
