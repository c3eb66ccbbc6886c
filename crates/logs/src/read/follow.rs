//! Going on behind the writer.

use std::rc::Rc;

use crate::loss::{Loss, LossReason};
use crate::segment::{LogState, Segment};

use super::source::Source;

/// The segment that a follower reads, as the writer goes on.
#[derive(Debug)]
pub(crate) struct Follow {
    pub(crate) state: Rc<LogState>,
    segment: Rc<Segment>,
    /// Bytes of the segment that were queued for reading.
    queued: u64,
}

/// What is next.
#[derive(Debug)]
pub(crate) enum More {
    Source(Source),
    /// Segments that rotation has removed before the follower came to them.
    Lost(Loss, u64),
}

impl Follow {
    pub(super) fn new(state: Rc<LogState>, segment: Rc<Segment>, queued: u64) -> Follow {
        Follow {
            state,
            segment,
            queued,
        }
    }

    /// What was committed since.
    pub(crate) fn more(&mut self) -> Option<More> {
        loop {
            let committed = self.segment.committed.get();
            if committed > self.queued {
                let source = Source::of(&self.segment, self.queued, committed);
                self.queued = committed;
                return Some(More::Source(source));
            }
            let next = self.segment.next.borrow().clone()?;
            let lost = self.segment.lost_after.get();
            self.queued = next.start;
            self.segment = next;
            if lost.segments > 0 {
                let loss = Loss {
                    records: lost.records,
                    bytes: lost.bytes,
                    reason: LossReason::SlowFollower,
                };
                tracing::warn!(path = %self.state.path.display(), files = lost.segments, bytes = lost.bytes,
                    "a follower of a log is so slow that rotation has removed files before it came to them");
                loss.count();
                self.state.count_follower_gap();
                return Some(More::Lost(loss, lost.segments));
            }
        }
    }
}
