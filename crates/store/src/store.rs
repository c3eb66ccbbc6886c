//! The handle every crate holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gantry_rt::queue::{self, Sender, TrySendError};
use redb::{ReadableDatabase, ReadableTable};

use crate::file::DatabaseFile;
use crate::wal::{self, Wal};
use crate::writer::{Job, QUEUE_CAPACITY, Recent, Writer, WriterCounters};
use crate::{Batch, StoreError, Table};

/// Pause of a shard task that found the queue full.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(1);

struct Inner {
    db: Arc<DatabaseFile>,
    recent: Arc<Recent>,
    queue: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    writer_counters: Arc<WriterCounters>,
    later_failed: Arc<AtomicU64>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

/// The metadata database. Clones share it; the last one dropped waits for the queue to be written and closes the file.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What the store counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Transactions (each one sync).
    pub commits: u64,
    /// Batches in them.
    pub batches: u64,
    /// Batches of [`Store::commit_later`] that were lost.
    pub later_failed: u64,
}

impl Store {
    /// Opens or makes the database at `path` and starts its writer thread. A second opener gets
    /// [`StoreError::Locked`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let db = Arc::new(DatabaseFile::open(path)?);
        let wal = open_wal(&db, path)?;
        let recent = Arc::new(Recent::default());
        let counters = Arc::new(WriterCounters::default());
        let (queue, jobs) = queue::bounded(QUEUE_CAPACITY);
        let thread = Writer {
            db: db.clone(),
            recent: recent.clone(),
            wal,
            counters: counters.clone(),
        };
        let writer = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || thread.run(&jobs))
            .map_err(|e| StoreError::Database(format!("cannot start the writer thread: {e}")))?;
        let inner = Inner {
            db,
            recent,
            queue: Some(queue),
            writer: Some(writer),
            writer_counters: counters,
            later_failed: Arc::new(AtomicU64::new(0)),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    fn queue(&self) -> Result<&Sender<Job>, StoreError> {
        self.inner.queue.as_ref().ok_or(StoreError::Closed)
    }

    /// Commits from a shard. Durable when it returns. Waits (without blocking the shard) while the queue is full.
    pub async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let (tx, rx) = gantry_rt::reply::channel();
        let mut job = Job {
            batch,
            answer: Box::new(move |result| tx.send(result)),
        };
        loop {
            match self.queue()?.try_send(job) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return Err(StoreError::Closed),
                Err(TrySendError::Full(back)) => job = back,
            }
            gantry_rt::sleep(FULL_QUEUE_PAUSE).await;
        }
        rx.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Commits from a worker or at boot; blocks the calling thread. Durable when it returns.
    pub fn commit_blocking(&self, batch: Batch) -> Result<(), StoreError> {
        let (tx, rx) = crossbeam_channel::bounded(1);
        // A caller that is gone has dropped its receiver; nobody wants the answer then.
        let job = Job {
            batch,
            answer: Box::new(move |result| drop(tx.send(result))),
        };
        self.queue()?.send(job).map_err(|_| StoreError::Closed)?;
        rx.recv().unwrap_or(Err(StoreError::Closed))
    }

    /// Queues a batch whose fate the caller need not know. A failure (also a full queue) is logged and counted.
    pub fn commit_later(&self, batch: Batch) {
        let failed = self.inner.later_failed.clone();
        let answer = move |result: Result<(), StoreError>| {
            if let Err(e) = result {
                failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(error = %e, "a queued commit failed");
            }
        };
        let refused = match self.queue() {
            Err(e) => Some(e),
            Ok(queue) => match queue.try_send(Job {
                batch,
                answer: Box::new(answer),
            }) {
                Ok(()) => None,
                Err(TrySendError::Full(_)) => Some(StoreError::Busy),
                Err(TrySendError::Disconnected(_)) => Some(StoreError::Closed),
            },
        };
        if let Some(e) = refused {
            self.inner.later_failed.fetch_add(1, Ordering::Relaxed);
            tracing::error!(error = %e, "a commit could not be queued");
        }
    }

    /// Every key and value of a table, in key order. Blocks; for boot.
    pub fn read_all(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.inner.recent.with(|recent| {
            let mut all = self.stored(table)?;
            for ((_, key), value) in recent.iter().filter(|((of, _), _)| *of == table) {
                match value {
                    Some(value) => all.insert(key.clone(), value.clone()),
                    None => all.remove(key),
                };
            }
            Ok(all.into_iter().collect())
        })
    }

    /// What the database has of a table.
    fn stored(&self, table: Table) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        self.inner.db.with(|db| {
            let txn = db.begin_read().map_err(StoreError::database)?;
            let open = txn
                .open_table(table.definition())
                .map_err(StoreError::database)?;
            open.iter()
                .map_err(StoreError::database)?
                .map(|entry| {
                    let (key, value) = entry.map_err(StoreError::database)?;
                    Ok((key.value().to_owned(), value.value().to_vec()))
                })
                .collect()
        })
    }

    /// One value. Blocks.
    pub fn get(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.recent.with(|recent| {
            if let Some(value) = recent.get(&(table, key.to_owned())) {
                return Ok(value.clone());
            }
            self.inner.db.with(|db| {
                let txn = db.begin_read().map_err(StoreError::database)?;
                let open = txn
                    .open_table(table.definition())
                    .map_err(StoreError::database)?;
                let value = open.get(key).map_err(StoreError::database)?;
                Ok(value.map(|v| v.value().to_vec()))
            })
        })
    }

    /// What happened since the store was opened.
    pub fn counters(&self) -> Counters {
        Counters {
            commits: self.inner.writer_counters.commits.load(Ordering::Relaxed),
            batches: self.inner.writer_counters.batches.load(Ordering::Relaxed),
            later_failed: self.inner.later_failed.load(Ordering::Relaxed),
        }
    }
}

/// Opens the log; the database takes over what an earlier daemon left in it.
fn open_wal(db: &DatabaseFile, path: &Path) -> Result<Wal, StoreError> {
    let path = wal::path_of(path);
    let failed = |e| StoreError::Database(format!("{}: {e}", path.display()));
    let mut wal = Wal::open(&path, db.generation()?).map_err(failed)?;
    let left = wal.replay().map_err(failed)?;
    if left.used {
        let next = wal.generation() + 1;
        db.take(&[&left.changes], next)?;
        wal.begin(next);
    }
    Ok(wal)
}
