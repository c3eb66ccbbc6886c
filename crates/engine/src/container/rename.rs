//! `rename`.

use std::rc::Rc;

use gantry_store::{Batch, StoreError, Table};

use super::Container;
use crate::model::Status;
use crate::{EngineError, names};

/// Key of a name's reservation in the store.
pub(crate) fn name_key(name: &str) -> String {
    format!("name/{name}")
}

/// Docker's conflict over a name.
pub(crate) fn in_use(name: &str, holder: &str) -> EngineError {
    EngineError::NameInUse {
        name: name.to_owned(),
        holder: holder.to_owned(),
    }
}

/// The error of a commit that reserves a name.
pub(crate) fn name_error(error: StoreError, name: &str) -> EngineError {
    match error {
        StoreError::Exists { key, value, .. } if key == name_key(name) => {
            in_use(name, &String::from_utf8_lossy(&value))
        }
        other => other.into(),
    }
}

/// Gives the container another name; durable before it is visible.
pub(crate) async fn rename(container: &Rc<Container>, new_name: &str) -> Result<(), EngineError> {
    if new_name.is_empty() {
        return Err(EngineError::InvalidParameter(
            "Neither old nor new names may be empty".to_owned(),
        ));
    }
    let allocating = |e: EngineError| e.prefixed("Error when allocating new name: ");
    let slashed = format!("/{}", new_name.trim_start_matches('/'));
    let new_name = names::validate(&slashed).map_err(allocating)?.to_owned();
    let _guard = container.ops.lock().await;
    if matches!(container.status(), Status::Removing | Status::Dead) {
        return Err(EngineError::Conflict(format!(
            "container {} is marked for removal",
            container.id
        )));
    }
    let old_name = container.name();
    if *old_name == *new_name {
        return Err(EngineError::InvalidParameter(
            "Renaming a container with the same name as its current name".to_owned(),
        ));
    }
    let index = &container.shard.shared.index;
    index
        .reserve_name(&new_name, &container.id)
        .map_err(|holder| allocating(in_use(&new_name, &holder)))?;
    let writing = container.records.lock().await;
    if let Err(e) = commit(container, &old_name, &new_name).await {
        index.release_name(&new_name, &container.id);
        return Err(e);
    }
    container.amend(|inner| inner.name = new_name.as_str().into());
    drop(writing);
    index.release_name(&old_name, &container.id);
    super::later::copy_record(container);
    container.event("rename", &[("oldName", format!("/{old_name}"))]);
    Ok(())
}

async fn commit(
    container: &Rc<Container>,
    old_name: &str,
    new_name: &str,
) -> Result<(), EngineError> {
    let mut record = container.record();
    record.name = new_name.to_owned();
    record.state.sequence += 1;
    let bytes = serde_json::to_vec(&record)
        .map_err(|e| EngineError::System(format!("encode a container record: {e}")))?;
    let mut batch = Batch::new();
    batch
        .require_absent(Table::Meta, name_key(new_name))
        .put(Table::Meta, name_key(new_name), container.id.as_bytes())
        .delete(Table::Meta, name_key(old_name))
        .put(Table::Containers, &*container.id, bytes);
    container
        .shard
        .shared
        .store
        .commit(batch)
        .await
        .map_err(|e| name_error(e, new_name))
}
