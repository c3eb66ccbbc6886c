//! What can go wrong with the database.

use std::path::PathBuf;

use crate::Table;

/// What can go wrong with the database. Cloneable, because one failed group commit answers many callers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// the data root is in use by another process: {0} is locked
    #[error("the data root is in use by another process: {0} is locked")]
    Locked(PathBuf),
    /// a key that had to be absent is there
    #[error("{key} already exists in {table:?}")]
    Exists {
        /// Table of the key.
        table: Table,
        /// The key.
        key: String,
        /// What it holds.
        value: Vec<u8>,
    },
    /// the writer thread is gone
    #[error("the store's writer thread is gone")]
    Closed,
    /// too many commits are waiting
    #[error("more than {limit} commits are waiting for the disk", limit = crate::QUEUE_CAPACITY)]
    Busy,
    /// the database failed
    #[error("metadata database: {0}")]
    Database(String),
}

impl StoreError {
    pub(crate) fn database(e: impl Into<redb::Error>) -> Self {
        Self::Database(e.into().to_string())
    }
}
