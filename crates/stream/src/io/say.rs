//! What a log has still to say is said as soon as it can be written, also when nothing more is printed, and after the run.

use std::time::Duration;

use gantry_keeper_proto::shm::Lost;

use super::ContainerIo;
use crate::unix_time_ns;

/// How often that is tried.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// Tries when the run is over.
const TRIES_AFTER_END: u32 = 3600;

impl ContainerIo {
    /// Begins to try, if there is anything to say and nobody does. A log with a buffer has its own task.
    pub(super) fn say_lost_later(&self) {
        let Some(io) = self.me.upgrade().filter(|io| io.buffer.is_none()) else {
            return;
        };
        let silent = |io: &ContainerIo| match io.sink.try_borrow() {
            Ok(sink) => sink.as_ref().is_none_or(|s| s.lost() == Lost::default()),
            // Asked for in the middle of a commit, which knows.
            Err(_) => false,
        };
        if io.saying.get() || silent(&io) {
            return;
        }
        io.saying.set(true);
        gantry_rt::spawn("logs.say", async move {
            let mut tries_after_end = 0;
            while tries_after_end < TRIES_AFTER_END {
                gantry_rt::sleep(TRY_EVERY).await;
                tries_after_end += u32::from(io.closed.get());
                if silent(&io) || !io.say_lost() {
                    break;
                }
            }
            io.saying.set(false);
        });
    }

    /// Tries once; false if there is nobody to say it.
    fn say_lost(&self) -> bool {
        {
            let mut sink = self.sink.borrow_mut();
            let Some(sink) = sink.as_mut().filter(|s| !s.is_superseded()) else {
                return false;
            };
            if !sink.tell_lost(unix_time_ns()) {
                return true;
            }
            self.dirty.set(true);
            if self.closed.get() {
                // The journal's slot may be another container's by now.
                self.dirty.set(false);
                let result = sink.write();
                self.note_write(&result);
                sink.committed();
                return true;
            }
        }
        if let Err(error) = self.commit_now() {
            tracing::error!(slot = self.slot, %error, "what was lost of a log could not be noted");
        }
        self.publish();
        true
    }
}
