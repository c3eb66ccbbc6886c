//! The way from a container's log to its sender, on the container's shard.
//!
//! The place that everything before was delivered of is kept in a file beside the log: after a restart of the container
//! or the daemon it goes on there. What was on its way at that moment is sent twice (at least once, in order).

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_logs::{Batch, Cursor, Follower, LogState, Record};
use gantry_rt::sync::Notify;
use gantry_rt::{race, reply, workers};
use gantry_stream::{Stream, unix_time_ns};

use crate::counters::COUNTERS;
use crate::sink::{Job, Outcome, Sender};

/// The place is saved not more often than this while records flow, and once when there are no more.
const SAVE_EVERY: Duration = Duration::from_millis(100);
/// Output that all senders of the process hold at once, about; each may have its share of it.
const GATHERED_BYTES: usize = 64 * 1024 * 1024;
/// The largest and the smallest share; the last batch of the log may make it twice as much.
const MAX_SHARE_BYTES: usize = 512 * 1024;
const MIN_SHARE_BYTES: usize = 32 * 1024;
/// What a record takes beside its text.
const RECORD_BYTES: usize = size_of::<Record>();
/// Deliveries of which something is held back; then it is not.
const MAX_HELD_JOBS: usize = 1024;
/// The wait after a log that can't be read.
const READ_RETRY: Duration = Duration::from_secs(1);

/// A log that is being sent. Dropping it does not end it.
pub struct Shipper {
    shared: Rc<Shared>,
}

struct Shared {
    stop: Notify,
    stopped: Cell<bool>,
    ended: Cell<bool>,
    end: Notify,
}

impl Shared {
    async fn until_stopped(&self) {
        let stop = self.stop.notified();
        if !self.stopped.get() {
            stop.await;
        }
    }
}

impl Shipper {
    /// Sends a log from the place that `place` names, until its output has ended and is sent. Opens the files here and
    /// now, so that it can be removed afterwards.
    pub fn start(
        sender: Sender,
        state: &Rc<LogState>,
        place: &Path,
        container: &str,
    ) -> io::Result<Shipper> {
        let from = match fs::read(place) {
            Ok(bytes) => Cursor::decode(&bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let feed = Feed {
            follower: Follower::open(state, from)?,
            sender,
            place: Place {
                path: place.to_owned(),
                saved: from,
                when: None,
            },
            container: container.to_owned(),
            shared: Rc::new(Shared {
                stop: Notify::new(),
                stopped: Cell::new(false),
                ended: Cell::new(false),
                end: Notify::new(),
            }),
        };
        let shared = feed.shared.clone();
        COUNTERS.senders.add(1);
        gantry_rt::spawn("logs.ship", feed.run());
        Ok(Shipper { shared })
    }

    /// Ends it and waits for that. What is not sent is left to the next one.
    pub async fn stop(&self) {
        self.shared.stopped.set(true);
        self.shared.stop.notify_all();
        self.ended().await;
    }

    /// Ends it for good: what is not sent never will be.
    pub async fn give_up(&self) {
        if !self.has_ended() {
            COUNTERS.abandoned.add(1);
        }
        self.stop().await;
    }

    /// Waits until everything is sent.
    pub async fn ended(&self) {
        let end = self.shared.end.notified();
        if !self.shared.ended.get() {
            end.await;
        }
    }

    /// Whether everything is sent.
    pub fn has_ended(&self) -> bool {
        self.shared.ended.get()
    }
}

struct Feed {
    follower: Follower,
    sender: Sender,
    place: Place,
    container: String,
    shared: Rc<Shared>,
}

/// Records to be delivered at once.
#[derive(Default)]
struct Gathered {
    records: Vec<Record>,
    bytes: usize,
    cursor: Option<Cursor>,
    /// The log has no more.
    last: bool,
    /// Nothing came in the time of a delivery.
    idle: bool,
}

impl Feed {
    async fn run(mut self) {
        let shared = self.shared.clone();
        // Also when it is stopped: the place is saved then as far as it is known.
        let _ = race(self.ship(), shared.until_stopped()).await;
        self.place.save().await;
        COUNTERS.senders.sub(1);
        shared.ended.set(true);
        shared.end.notify_all();
    }

    async fn ship(&mut self) {
        // Places behind jobs of which something may be held back.
        let mut places: VecDeque<Cursor> = VecDeque::new();
        let mut held = 0;
        loop {
            let gathered = self.gather(held > 0).await;
            let count = gathered.records.len() as u64;
            let flush = gathered.last || gathered.idle || places.len() > MAX_HELD_JOBS;
            if count > 0 || (flush && held > 0) {
                let Some(outcome) = self.deliver(gathered.records, flush).await else {
                    tracing::error!(id = %self.container, "a log driver's sender is gone; the log is not sent on");
                    return;
                };
                COUNTERS
                    .delivered
                    .add(count.saturating_sub(outcome.dropped));
                COUNTERS.dropped.add(outcome.dropped);
                held = usize::try_from(outcome.held_jobs).unwrap_or(usize::MAX);
            }
            if let Some(cursor) = gathered.cursor {
                // What was held before these places is held still, if there was nothing to send between them.
                if count == 0 && !places.is_empty() {
                    places.pop_back();
                }
                places.push_back(cursor);
            }
            let mut safe = None;
            while places.len() > held {
                safe = places.pop_front();
            }
            self.place.reached(safe).await;
            if gathered.last {
                return;
            }
        }
    }

    /// Waits for records; then, for services that take many at once, for some more. With `held` not without end.
    async fn gather(&mut self, held: bool) -> Gathered {
        let mut gathered = Gathered::default();
        let senders = usize::try_from(COUNTERS.senders.get()).unwrap_or(usize::MAX);
        let share = (GATHERED_BYTES / senders.max(1)).clamp(MIN_SHARE_BYTES, MAX_SHARE_BYTES);
        self.follower.set_chunk_bytes(share as u64);
        let mut until = held.then(|| Instant::now() + self.sender.gather);
        while !gathered.last && gathered.bytes < share {
            let next = match until {
                None => match gantry_rt::timeout(SAVE_EVERY, self.follower.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        // Nothing to do: time to say how far it is.
                        self.place.save().await;
                        self.follower.next().await
                    }
                },
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    let next = gantry_rt::timeout(left, self.follower.next()).await;
                    let Ok(next) = next else {
                        gathered.idle = gathered.records.is_empty();
                        break;
                    };
                    next
                }
            };
            match next {
                None => gathered.last = true,
                Some(Err(error)) => {
                    tracing::warn!(id = %self.container, %error, "a log that is to be sent can't be read; it is tried again");
                    gantry_rt::sleep(READ_RETRY).await;
                }
                Some(Ok(batch)) => {
                    self.take(&mut gathered, batch);
                    until.get_or_insert_with(|| Instant::now() + self.sender.gather);
                }
            }
        }
        gathered
    }

    fn take(&self, gathered: &mut Gathered, batch: Batch) {
        if batch.lost_segments > 0 {
            COUNTERS.lost_segments.add(batch.lost_segments);
            tracing::warn!(id = %self.container, files = batch.lost_segments, "rotation removed output before a log driver could send it");
            let next = batch.records.first();
            let time_ns = next.map_or_else(unix_time_ns, |r| r.time_ns);
            gathered.records.push(gap(time_ns, batch.lost_segments));
        }
        COUNTERS.torn.add(batch.torn);
        let sizes = batch.records.iter().map(|r| RECORD_BYTES + r.bytes.len());
        gathered.bytes += sizes.sum::<usize>();
        gathered.records.extend(batch.records);
        gathered.cursor = Some(batch.cursor);
    }

    async fn deliver(&self, records: Vec<Record>, flush: bool) -> Option<Outcome> {
        let (answer, outcome) = reply::channel();
        let job = Job {
            records,
            flush,
            answer,
        };
        // It holds one job, and the last one is answered.
        self.sender.jobs.try_send(job).ok()?;
        outcome.await.ok()
    }
}

/// What the service is told in place of what it cannot have.
fn gap(time_ns: u64, files: u64) -> Record {
    let text = format!(
        "output is missing here: {files} rotated log file(s) were removed before they could be sent"
    );
    Record {
        time_ns,
        stream: Stream::Stderr,
        bytes: Bytes::from(text),
        partial: None,
        gap: true,
    }
}

/// How far everything is delivered, in memory and on disk.
struct Place {
    path: PathBuf,
    saved: Option<Cursor>,
    /// What is to be saved, and when there was last something to save.
    when: Option<(Cursor, Instant)>,
}

impl Place {
    async fn reached(&mut self, cursor: Option<Cursor>) {
        let Some(cursor) = cursor else { return };
        let since = self.when.map_or_else(Instant::now, |(_, since)| since);
        self.when = Some((cursor, since));
        if since.elapsed() >= SAVE_EVERY {
            self.save().await;
        }
    }

    async fn save(&mut self) {
        let Some((cursor, _)) = self.when.take() else {
            return;
        };
        if self.saved == Some(cursor) {
            return;
        }
        let path = self.path.clone();
        let written = workers::run(move || write_place(&path, &cursor)).await;
        match written.map_err(io::Error::from).flatten() {
            Ok(()) => self.saved = Some(cursor),
            // Its container was removed: nobody will go on from here.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.saved = Some(cursor),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "how far a log was sent can't be saved; after a restart some of it is sent again");
            }
        }
    }
}

/// One write over what was there: it cannot tear unless the machine fails, and then its sum is wrong.
fn write_place(path: &Path, cursor: &Cursor) -> io::Result<()> {
    let mut file: File = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    file.write_all(&cursor.encode())
}
