//! The database's file: opened at boot, and again after a failed write.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Database, DatabaseError};

use crate::{StoreError, Table};

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
    txn.commit().map_err(StoreError::database)?;
    Ok(database)
}
