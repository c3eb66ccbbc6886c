//! Tables and the unit of change.

use std::collections::BTreeMap;

use redb::TableDefinition;

/// A table of the database; keys are strings, values are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Containers by id.
    Containers,
    /// Images by id.
    Images,
    /// References to images.
    Tags,
    /// Layers by diff id.
    Layers,
    /// Volumes by name.
    Volumes,
    /// Facts about the data root.
    Meta,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 6] = [
        Self::Containers,
        Self::Images,
        Self::Tags,
        Self::Layers,
        Self::Volumes,
        Self::Meta,
    ];

    /// Its number in the write-ahead log; these never change.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Containers => 1,
            Self::Images => 2,
            Self::Tags => 3,
            Self::Layers => 4,
            Self::Volumes => 5,
            Self::Meta => 6,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.number() == number)
    }

    pub(crate) const fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Self::Containers => "containers",
            Self::Images => "images",
            Self::Tags => "tags",
            Self::Layers => "layers",
            Self::Volumes => "volumes",
            Self::Meta => "meta",
        })
    }
}

/// What becomes of keys; `None` is a deletion.
pub(crate) type Changes = BTreeMap<(Table, String), Option<Vec<u8>>>;

#[derive(Debug)]
pub(crate) enum Change {
    Put {
        table: Table,
        key: String,
        value: Vec<u8>,
    },
    Delete {
        table: Table,
        key: String,
    },
}

/// Changes that are applied together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) absent: Vec<(Table, String)>,
    pub(crate) changes: Vec<Change>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(
        &mut self,
        table: Table,
        key: impl Into<String>,
        value: impl Into<Vec<u8>>,
    ) -> &mut Self {
        self.changes.push(Change::Put {
            table,
            key: key.into(),
            value: value.into(),
        });
        self
    }

    /// Removes `key`; no error if it is absent.
    pub fn delete(&mut self, table: Table, key: impl Into<String>) -> &mut Self {
        self.changes.push(Change::Delete {
            table,
            key: key.into(),
        });
        self
    }

    /// The batch fails with [`StoreError::Exists`](crate::StoreError::Exists) if `key` is there before its changes.
    pub fn require_absent(&mut self, table: Table, key: impl Into<String>) -> &mut Self {
        self.absent.push((table, key.into()));
        self
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.absent.is_empty() && self.changes.is_empty()
    }
}
