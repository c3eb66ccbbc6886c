//! Tables and the unit of change.

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
