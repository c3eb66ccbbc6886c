//! A bounded queue from any thread to threads that block for what comes.
//!
//! crossbeam's channel spins and yields before it sleeps: up to four `sched_yield` each time, which was 37 system calls
//! and 5 % of the engine's CPU for the life of one short container. Here a thread that finds nothing sleeps at once.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

struct State<T> {
    items: VecDeque<T>,
    senders: usize,
    receivers: usize,
    /// Receivers asleep; nobody is woken for nothing.
    idle: usize,
    /// Senders asleep.
    stuck: usize,
}

struct Shared<T> {
    capacity: usize,
    state: Mutex<State<T>>,
    item: Condvar,
    room: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Why an item was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// As many wait as may.
    Full(T),
    /// Nobody receives any more.
    Disconnected(T),
}

/// Puts items in.
pub struct Sender<T>(Arc<Shared<T>>);

/// Takes items out; several may, each item comes to one.
pub struct Receiver<T>(Arc<Shared<T>>);

/// A queue in which at most `capacity` items wait.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        capacity,
        state: Mutex::new(State {
            items: VecDeque::new(),
            senders: 1,
            receivers: 1,
            idle: 0,
            stuck: 0,
        }),
        item: Condvar::new(),
        room: Condvar::new(),
    });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    /// Puts an item in if there is room. Never blocks.
    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        self.put(self.0.lock(), item)
    }

    /// Puts an item in; blocks while there is no room. The item comes back when nobody receives.
    pub fn send(&self, item: T) -> Result<(), T> {
        let mut state = self.0.lock();
        while state.items.len() >= self.0.capacity && state.receivers > 0 {
            state.stuck += 1;
            state = self.0.room.wait(state).unwrap_or_else(|e| e.into_inner());
            state.stuck -= 1;
        }
        match self.put(state, item) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(item) | TrySendError::Disconnected(item)) => Err(item),
        }
    }

    fn put(&self, mut state: MutexGuard<'_, State<T>>, item: T) -> Result<(), TrySendError<T>> {
        if state.receivers == 0 {
            return Err(TrySendError::Disconnected(item));
        }
        if state.items.len() >= self.0.capacity {
            return Err(TrySendError::Full(item));
        }
        state.items.push_back(item);
        let wake = state.idle > 0;
        drop(state);
        if wake {
            self.0.item.notify_one();
        }
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// The next item; blocks for it. `None` when nothing waits and nobody sends.
    pub fn recv(&self) -> Option<T> {
        let mut state = self.0.lock();
        loop {
            if let Some(item) = self.pop(&mut state) {
                return Some(item);
            }
            if state.senders == 0 {
                return None;
            }
            state.idle += 1;
            state = self.0.item.wait(state).unwrap_or_else(|e| e.into_inner());
            state.idle -= 1;
        }
    }

    /// The next item, if one waits.
    pub fn try_recv(&self) -> Option<T> {
        self.pop(&mut self.0.lock())
    }

    fn pop(&self, state: &mut State<T>) -> Option<T> {
        let item = state.items.pop_front()?;
        if state.stuck > 0 {
            self.0.room.notify_one();
        }
        Some(item)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.senders -= 1;
        if state.senders == 0 {
            drop(state);
            self.0.item.notify_all();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.lock().receivers += 1;
        Receiver(self.0.clone())
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receivers -= 1;
        if state.receivers > 0 {
            return;
        }
        // Nobody will take them; whoever waits for an answer learns so.
        let left = std::mem::take(&mut state.items);
        drop(state);
        self.0.room.notify_all();
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn every_item_comes_once_through_a_small_queue() {
        const SENDERS: usize = 4;
        const EACH: usize = 20_000;
        let (tx, rx) = bounded::<usize>(3);
        let receivers: Vec<_> = (0..3)
            .map(|_| {
                let rx = rx.clone();
                thread::spawn(move || std::iter::from_fn(|| rx.recv()).collect::<Vec<_>>())
            })
            .collect();
        drop(rx);
        let senders: Vec<_> = (0..SENDERS)
            .map(|s| {
                let tx = tx.clone();
                thread::spawn(move || (0..EACH).for_each(|i| tx.send(s * EACH + i).unwrap()))
            })
            .collect();
        drop(tx);
        senders.into_iter().for_each(|s| s.join().unwrap());
        let mut all: Vec<usize> = receivers
            .into_iter()
            .flat_map(|r| r.join().unwrap())
            .collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..SENDERS * EACH));
    }

    #[test]
    fn a_full_queue_and_gone_sides_are_told() {
        let (tx, rx) = bounded(1);
        assert_eq!(tx.try_send(1), Ok(()));
        assert_eq!(tx.try_send(2), Err(TrySendError::Full(2)));
        assert_eq!(rx.try_recv(), Some(1));
        assert_eq!(rx.try_recv(), None);
        tx.send(3).unwrap();
        let blocked = {
            let tx = tx.clone();
            thread::spawn(move || tx.send(4))
        };
        // Whether it sleeps already or not, it learns that nobody receives.
        drop(rx);
        assert_eq!(blocked.join().unwrap(), Err(4));
        assert_eq!(tx.try_send(5), Err(TrySendError::Disconnected(5)));
        let (tx, rx) = bounded(2);
        tx.try_send(1).unwrap();
        drop(tx);
        assert_eq!((rx.recv(), rx.recv()), (Some(1), None));
    }
}
