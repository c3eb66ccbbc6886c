//! What must survive a kill of the daemon but not a power loss: states of containers, appended to a
//! file of the shard under exec-root before they are announced.

use std::path::Path;

use gantry_store::journal::{Journal, JournalError, replay};
use serde::{Deserialize, Serialize};

use crate::EngineError;
use crate::model::StateRecord;

/// The file is rewritten with the present states when it has grown past this.
pub const COMPACT_AT_BYTES: u64 = 8 << 20;

/// One appended state. The one with the highest `state.sequence` of a container counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalEntry {
    pub(crate) id: String,
    pub(crate) state: StateRecord,
    pub(crate) restart_count: u32,
}

/// The journal of one shard.
pub(crate) struct StateJournal {
    journal: Journal,
    compacted_bytes: u64,
}

impl From<JournalError> for EngineError {
    fn from(e: JournalError) -> Self {
        EngineError::System(e.to_string())
    }
}

fn encode(entry: &JournalEntry) -> Result<Vec<u8>, EngineError> {
    serde_json::to_vec(entry)
        .map_err(|e| EngineError::System(format!("encode a journal entry: {e}")))
}

impl StateJournal {
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        Ok(Self {
            journal: Journal::open(path)?,
            compacted_bytes: 0,
        })
    }

    pub(crate) fn append(&mut self, entry: &JournalEntry) -> Result<(), EngineError> {
        Ok(self.journal.append(&encode(entry)?)?)
    }

    /// Whether it has grown enough to be rewritten.
    pub(crate) fn wants_compaction(&self) -> bool {
        self.journal.len_bytes() > COMPACT_AT_BYTES.max(self.compacted_bytes * 2)
    }

    pub(crate) fn compact(&mut self, entries: &[JournalEntry]) -> Result<(), EngineError> {
        let encoded = entries.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        self.journal.compact(encoded.iter().map(Vec::as_slice))?;
        self.compacted_bytes = self.journal.len_bytes();
        Ok(())
    }
}

/// The entries of a journal file, in order. Entries of a later version that can't be read are
/// skipped and reported.
pub(crate) fn read(path: &Path) -> Result<Vec<JournalEntry>, EngineError> {
    let mut entries = Vec::new();
    for raw in replay(path)? {
        match serde_json::from_slice(&raw) {
            Ok(entry) => entries.push(entry),
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "a journal entry is not readable")
            }
        }
    }
    Ok(entries)
}
