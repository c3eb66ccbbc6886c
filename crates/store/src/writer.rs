//! The writer thread: takes what waits, puts it into the log with one sync, answers. The database takes it over later.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use gantry_rt::queue::Receiver;
use redb::{ReadTransaction, ReadableDatabase};

use crate::batch::{Change, Changes};
use crate::file::DatabaseFile;
use crate::wal::Wal;
use crate::{Batch, StoreError, Table};

/// Commits that may wait for the writer thread.
pub const QUEUE_CAPACITY: usize = 4096;
/// Batches that share one sync at most.
pub const MAX_GROUP_BATCHES: usize = 256;

/// Called on the writer thread with the outcome.
pub(crate) type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

pub(crate) struct Job {
    pub(crate) batch: Batch,
    pub(crate) answer: Answer,
}

#[derive(Default)]
pub(crate) struct WriterCounters {
    pub(crate) commits: AtomicU64,
    pub(crate) batches: AtomicU64,
}

/// What is committed and not in the database yet; readers look here first.
#[derive(Default)]
pub(crate) struct Recent(RwLock<Changes>);

impl Recent {
    pub(crate) fn with<R>(&self, f: impl FnOnce(&Changes) -> R) -> R {
        f(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, f: impl FnOnce(&mut Changes)) {
        f(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What the writer thread has.
pub(crate) struct Writer {
    pub(crate) db: Arc<DatabaseFile>,
    pub(crate) recent: Arc<Recent>,
    pub(crate) wal: Wal,
    pub(crate) counters: Arc<WriterCounters>,
}

impl Writer {
    /// Runs until every sender is gone; what was queued is committed first, and the database has everything then.
    pub(crate) fn run(mut self, queue: &Receiver<Job>) {
        while let Some(first) = queue.recv() {
            let mut group = vec![first];
            while group.len() < MAX_GROUP_BATCHES {
                match queue.try_recv() {
                    Some(job) => group.push(job),
                    None => break,
                }
            }
            self.answer(group);
        }
        if self.wal.is_used()
            && let Err(e) = self.hand_over(&Changes::new())
        {
            tracing::error!(error = %e, "the database does at the next start what it could not do now");
        }
    }

    fn answer(&mut self, group: Vec<Job>) {
        let (batches, answers): (Vec<Batch>, Vec<Answer>) =
            group.into_iter().map(|j| (j.batch, j.answer)).unzip();
        let count = batches.len();
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.counters
            .batches
            .fetch_add(count as u64, Ordering::Relaxed);
        match self.commit(batches) {
            Ok(results) => answers
                .into_iter()
                .zip(results)
                .for_each(|(answer, result)| answer(result)),
            Err(e) => {
                tracing::error!(error = %e, batches = count, "commit failed");
                if let Err(e) = self.db.reopen() {
                    tracing::error!(error = %e, "the database can't be opened again yet");
                }
                answers
                    .into_iter()
                    .for_each(|answer| answer(Err(e.clone())));
            }
        }
    }

    /// One sync for all; the inner results are the batches' own conflicts.
    fn commit(&mut self, batches: Vec<Batch>) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        if self.db.is_closed() {
            // After a failure that could not be mended at once.
            self.db.reopen()?;
        }
        let mut staged = Changes::new();
        let mut reader = None;
        let mut results = Vec::with_capacity(batches.len());
        for batch in batches {
            // Conflicts are looked for before the first change, so a refused batch leaves nothing behind.
            let result = match self.conflict(&staged, &mut reader, &batch)? {
                Some(e) => Err(e),
                None => {
                    stage(&mut staged, batch);
                    Ok(())
                }
            };
            results.push(result);
        }
        drop(reader);
        if staged.is_empty() {
            return Ok(results);
        }
        if self.wal.append(&staged) {
            self.recent.change(|recent| recent.extend(staged));
        } else {
            self.hand_over(&staged)?;
        }
        Ok(results)
    }

    /// The database takes what it does not have yet, and `more`.
    fn hand_over(&mut self, more: &Changes) -> Result<(), StoreError> {
        let next = self.wal.generation() + 1;
        self.recent
            .with(|recent| self.db.take(&[recent, more], next))?;
        self.recent.change(Changes::clear);
        self.wal.begin(next);
        Ok(())
    }

    fn conflict(
        &self,
        staged: &Changes,
        reader: &mut Option<ReadTransaction>,
        batch: &Batch,
    ) -> Result<Option<StoreError>, StoreError> {
        for (table, key) in &batch.absent {
            let place = (*table, key.clone());
            let newer = match staged.get(&place) {
                Some(value) => Some(value.clone()),
                None => self.recent.with(|recent| recent.get(&place).cloned()),
            };
            let value = match newer {
                Some(value) => value,
                None => self.stored(reader, *table, key)?,
            };
            if let Some(value) = value {
                return Ok(Some(StoreError::Exists {
                    table: *table,
                    key: key.clone(),
                    value,
                }));
            }
        }
        Ok(None)
    }

    /// What the database has.
    fn stored(
        &self,
        reader: &mut Option<ReadTransaction>,
        table: Table,
        key: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let reader = match reader {
            Some(reader) => reader,
            None => reader.insert(
                self.db
                    .with(|db| db.begin_read().map_err(StoreError::database))?,
            ),
        };
        let open = reader
            .open_table(table.definition())
            .map_err(StoreError::database)?;
        let value = open.get(key).map_err(StoreError::database)?;
        Ok(value.map(|value| value.value().to_vec()))
    }
}

fn stage(staged: &mut Changes, batch: Batch) {
    for change in batch.changes {
        match change {
            Change::Put { table, key, value } => staged.insert((table, key), Some(value)),
            Change::Delete { table, key } => staged.insert((table, key), None),
        };
    }
}
