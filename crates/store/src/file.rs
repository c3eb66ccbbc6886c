//! The database's file: opened at boot, and again after a failed write.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use crate::batch::Changes;
use crate::{StoreError, Table};

/// Numbers about the database itself.
const OWN: TableDefinition<'static, &str, u64> = TableDefinition::new("own");
/// The generation of the log whose records the database does not have.
const GENERATION: &str = "wal-generation";

/// The open database. redb refuses everything after one failed write (a full disk) until it is opened again.
pub(crate) struct DatabaseFile {
    path: PathBuf,
    /// `None` after a failure, until it could be opened again. Written by the writer thread alone.
    open: RwLock<Option<Database>>,
}

impl DatabaseFile {
    /// Opens or makes the file at `path`, with every table.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let database = open(path)?;
        Ok(DatabaseFile {
            path: path.to_owned(),
            open: RwLock::new(Some(database)),
        })
    }

    /// Uses the open database.
    pub(crate) fn with<R>(
        &self,
        f: impl FnOnce(&Database) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        f(open.as_ref().ok_or_else(not_open)?)
    }

    /// The generation of the log that goes on where the database ends.
    pub(crate) fn generation(&self) -> Result<u64, StoreError> {
        self.with(|db| {
            let txn = db.begin_read().map_err(StoreError::database)?;
            let own = txn.open_table(OWN).map_err(StoreError::database)?;
            let number = own.get(GENERATION).map_err(StoreError::database)?;
            let missing = || StoreError::Database("it has no generation".to_owned());
            Ok(number.ok_or_else(missing)?.value())
        })
    }

    /// Takes changes over from the log, whose next generation begins with that. Durable when it returns.
    pub(crate) fn take(
        &self,
        changes: &[&Changes],
        next_generation: u64,
    ) -> Result<(), StoreError> {
        self.with(|db| {
            let mut txn = db.begin_write().map_err(StoreError::database)?;
            txn.set_durability(Durability::Immediate)
                .map_err(StoreError::database)?;
            for table in Table::ALL {
                let of_table = || {
                    let all = changes.iter().flat_map(|changes| changes.iter());
                    all.filter(move |((of, _), _)| *of == table)
                };
                if of_table().next().is_none() {
                    continue;
                }
                let mut open = txn
                    .open_table(table.definition())
                    .map_err(StoreError::database)?;
                for ((_, key), value) in of_table() {
                    let key = key.as_str();
                    match value {
                        Some(value) => open.insert(key, value.as_slice()).map(drop),
                        None => open.remove(key).map(drop),
                    }
                    .map_err(StoreError::database)?;
                }
            }
            {
                let mut own = txn.open_table(OWN).map_err(StoreError::database)?;
                own.insert(GENERATION, next_generation)
                    .map_err(StoreError::database)?;
            }
            txn.commit().map_err(StoreError::database)
        })
    }

    /// Closes the database and opens it again; redb goes back to the last commit that is whole. If that fails too, the
    /// next call tries again.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let mut slot = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // The old one holds the lock of the file.
        *slot = None;
        *slot = Some(open(&self.path)?);
        Ok(())
    }

    /// Whether the last reopening failed.
    pub(crate) fn is_closed(&self) -> bool {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.is_none()
    }
}

fn not_open() -> StoreError {
    StoreError::Database("it failed and could not be opened again yet".to_owned())
}

fn open(path: &Path) -> Result<Database, StoreError> {
    // Documents of clients are in it, with their secrets: it is root's alone, also while it is new.
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.set_permissions(std::fs::Permissions::from_mode(0o600)))
        .map_err(|e| StoreError::Database(format!("cannot open {}: {e}", path.display())))?;
    let database = Database::create(path).map_err(|e| match e {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Locked(path.to_owned()),
        e => StoreError::database(e),
    })?;
    let txn = database.begin_write().map_err(StoreError::database)?;
    for table in Table::ALL {
        txn.open_table(table.definition())
            .map_err(StoreError::database)?;
    }
    begin_generations(&txn)?;
    txn.commit().map_err(StoreError::database)?;
    Ok(database)
}

/// A new database, or one of a version without a log, begins with a number that no log of an earlier database at this
/// place has had.
fn begin_generations(txn: &WriteTransaction) -> Result<(), StoreError> {
    let mut own = txn.open_table(OWN).map_err(StoreError::database)?;
    let known = own.get(GENERATION).map_err(StoreError::database)?.is_some();
    if !known {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let first = now.map_or(1, |since| since.as_nanos() as u64);
        own.insert(GENERATION, first)
            .map_err(StoreError::database)?;
    }
    Ok(())
}
