//! When which container of a shard is probed: one ordered list and one task, so that a container that waits for its next
//! probe costs neither a task nor a timer of its own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gantry_rt::sync::Notify;

use crate::container::Container;
use crate::shard::ShardEngine;

/// Probes of one shard that are being started at once, so that many that are due together do not take the machine from
/// what they probe. The others wait; their time limits begin when they run.
pub const MAX_STARTING_PROBES: usize = 16;
/// A delay is stretched by at most this part of it, by the container's id: containers that were started together drift
/// apart.
const JITTER_DIVISOR: u32 = 32;

/// The place of a container in the list: when, and which of those at the same instant.
pub(super) type Place = (Instant, u64);

/// The due probes of one shard.
#[derive(Default)]
pub(crate) struct Clock {
    due: RefCell<BTreeMap<Place, Rc<Container>>>,
    next_number: Cell<u64>,
    starting: Cell<usize>,
    changed: Notify,
}

/// A probe's part of [`MAX_STARTING_PROBES`].
pub(crate) struct Slot(Rc<ShardEngine>);

impl Drop for Slot {
    fn drop(&mut self) {
        let clock = &self.0.health;
        clock.starting.set(clock.starting.get() - 1);
        clock.changed.notify_one();
    }
}

impl Clock {
    pub(super) fn add(&self, container: &Rc<Container>, delay: Duration) -> Place {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        // Beyond what the clock can say is never.
        let now = Instant::now();
        let at = now.checked_add(delay).unwrap_or(now + FAR_AWAY);
        let place = (at, number);
        let mut due = self.due.borrow_mut();
        let first = due.keys().next().is_none_or(|first| place < *first);
        due.insert(place, container.clone());
        if first {
            self.changed.notify_one();
        }
        place
    }

    pub(super) fn remove(&self, place: Place) {
        self.due.borrow_mut().remove(&place);
    }

    /// The first in the list if it is due, or how long it is until then.
    fn pop(&self, now: Instant) -> Result<Rc<Container>, Option<Duration>> {
        if self.starting.get() >= MAX_STARTING_PROBES {
            return Err(None);
        }
        let mut due = self.due.borrow_mut();
        match due.first_entry() {
            None => Err(None),
            Some(first) if first.key().0 <= now => Ok(first.remove()),
            Some(first) => Err(Some(first.key().0 - now)),
        }
    }
}

/// Longest delay.
const FAR_AWAY: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Starts probes of a shard when they are due, for ever.
pub(crate) async fn run(shard: Rc<ShardEngine>) {
    let clock = &shard.health;
    loop {
        let changed = clock.changed.notified();
        match clock.pop(Instant::now()) {
            Ok(container) => {
                clock.starting.set(clock.starting.get() + 1);
                let slot = Slot(shard.clone());
                super::due(container, slot);
                // Each start is some work: others get their turn.
                drop(changed);
                gantry_rt::yield_now().await;
            }
            Err(None) => changed.await,
            Err(Some(delay)) => {
                gantry_rt::race(gantry_rt::sleep(delay), changed).await;
            }
        }
    }
}

/// A container's place among all, by its id: as good as chance, and always the same.
pub(super) fn part_of(whole: Duration, id: &str) -> Duration {
    let number = id.get(8..16).and_then(|d| u32::from_str_radix(d, 16).ok());
    whole.mul_f64(f64::from(number.unwrap_or(0)) / f64::from(u32::MAX))
}

/// A delay, stretched a little.
pub(super) fn stretched(delay: Duration, id: &str) -> Duration {
    delay.saturating_add(part_of(delay / JITTER_DIVISOR, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_intervals_spread() {
        let second = Duration::from_secs(1);
        let delays: std::collections::BTreeSet<Duration> = (0..1000u32)
            .map(|n| format!("00000000{:08x}", n.wrapping_mul(2_654_435_761)))
            .map(|id| stretched(second, &id))
            .collect();
        assert!(delays.len() > 990);
        let (first, last) = (delays.first().unwrap(), delays.last().unwrap());
        assert!(*first >= second && *last <= second + second / JITTER_DIVISOR);
        assert!(*last - *first > second / (JITTER_DIVISOR * 2));
        assert_eq!(part_of(second, "short"), Duration::ZERO);
        assert_eq!(part_of(second, "00000000ffffffff"), second);
    }
}
