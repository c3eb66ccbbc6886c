//! The writer thread: takes what waits, applies it in one transaction, syncs, answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_rt::queue::Receiver;
use redb::{Database, Durability, ReadableTable, WriteTransaction};

use crate::batch::Change;
use crate::file::DatabaseFile;
use crate::{Batch, StoreError};

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

/// Runs until every sender is gone; what was queued is committed first.
pub(crate) fn run(db: &DatabaseFile, queue: &Receiver<Job>, counters: &Arc<WriterCounters>) {
    while let Some(first) = queue.recv() {
        let mut group = vec![first];
        while group.len() < MAX_GROUP_BATCHES {
            match queue.try_recv() {
                Some(job) => group.push(job),
                None => break,
            }
        }
        let (batches, answers): (Vec<Batch>, Vec<Answer>) =
            group.into_iter().map(|j| (j.batch, j.answer)).unzip();
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters
            .batches
            .fetch_add(batches.len() as u64, Ordering::Relaxed);
        let result = reopened(db).and_then(|()| db.with(|db| commit_group(db, &batches)));
        match result {
            Ok(results) => answers
                .into_iter()
                .zip(results)
                .for_each(|(answer, result)| answer(result)),
            Err(e) => {
                tracing::error!(error = %e, batches = batches.len(), "commit failed");
                if let Err(e) = db.reopen() {
                    tracing::error!(error = %e, "the database can't be opened again yet");
                }
                answers
                    .into_iter()
                    .for_each(|answer| answer(Err(e.clone())));
            }
        }
    }
}

/// After a failure that could not be mended at once: tries again.
fn reopened(db: &DatabaseFile) -> Result<(), StoreError> {
    match db.is_closed() {
        true => db.reopen(),
        false => Ok(()),
    }
}

/// One transaction for all; the inner results are the batches' own conflicts.
fn commit_group(
    db: &Database,
    batches: &[Batch],
) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    let mut txn = db.begin_write().map_err(StoreError::database)?;
    txn.set_durability(Durability::Immediate)
        .map_err(StoreError::database)?;
    let mut results = Vec::with_capacity(batches.len());
    for batch in batches {
        // Conflicts are looked for before the first change, so a refused batch leaves nothing behind.
        let result = match conflict(&txn, batch)? {
            Some(e) => Err(e),
            None => {
                apply(&txn, batch)?;
                Ok(())
            }
        };
        results.push(result);
    }
    txn.commit().map_err(StoreError::database)?;
    Ok(results)
}

fn conflict(txn: &WriteTransaction, batch: &Batch) -> Result<Option<StoreError>, StoreError> {
    for (table, key) in &batch.absent {
        let open = txn
            .open_table(table.definition())
            .map_err(StoreError::database)?;
        let found = open.get(key.as_str()).map_err(StoreError::database)?;
        if let Some(value) = found {
            let value = value.value().to_vec();
            return Ok(Some(StoreError::Exists {
                table: *table,
                key: key.clone(),
                value,
            }));
        }
    }
    Ok(None)
}

fn apply(txn: &WriteTransaction, batch: &Batch) -> Result<(), StoreError> {
    for change in &batch.changes {
        match change {
            Change::Put { table, key, value } => {
                let mut open = txn
                    .open_table(table.definition())
                    .map_err(StoreError::database)?;
                open.insert(key.as_str(), value.as_slice())
                    .map_err(StoreError::database)?;
            }
            Change::Delete { table, key } => {
                let mut open = txn
                    .open_table(table.definition())
                    .map_err(StoreError::database)?;
                open.remove(key.as_str()).map_err(StoreError::database)?;
            }
        }
    }
    Ok(())
}
