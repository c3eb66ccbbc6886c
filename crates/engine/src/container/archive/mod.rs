//! The files of a container, for `docker cp` and what else reads them from outside: in a view of their own, running or not.

mod changes;
mod commit;
mod copy;
mod files;
mod paths;

use std::rc::Rc;

pub use changes::{Change, ChangeKind, MAX_CHANGES};
pub use commit::CommitSpec;
pub use copy::{CopyIn, CopyOut};
pub use files::{Files, PathStat};

use super::{Container, later};
use crate::engine::Engine;
use crate::{EngineError, volumes};

/// What is done with files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// They are read.
    Read,
    /// They are read, without what is mounted in them.
    ReadRoot,
    /// They may be changed.
    Write,
}

impl Engine {
    /// Runs a job, which may block as long as its client does, on the files of a container. `event` is told of afterwards,
    /// if the job succeeds.
    pub async fn with_files<R: Send + 'static>(
        &self,
        key: &str,
        access: Access,
        event: Option<&'static str>,
        job: impl FnOnce(&Files) -> Result<R, EngineError> + Send + 'static,
    ) -> Result<R, EngineError> {
        self.on_owner(key, move |c| async move {
            let done = on_files(&c, access, job).await?;
            if let Some(action) = event {
                c.event(action, &[]);
            }
            Ok(done)
        })
        .await
    }
}

/// A container that does not run is kept from starting, and from being removed, until the job is done: its layers are
/// mounted once at a time.
pub(crate) async fn on_files<R: Send + 'static>(
    container: &Rc<Container>,
    access: Access,
    job: impl FnOnce(&Files) -> Result<R, EngineError> + Send + 'static,
) -> Result<R, EngineError> {
    if container.status().is_alive()
        && let Some(source) = files::running(container, access).await?
    {
        return on_long_worker(move || job(&Files::open(source)?)).await;
    }
    let _guard = container.ops.lock().await;
    if container.gone.get() {
        return Err(EngineError::NoSuchContainer(container.id.to_string()));
    }
    // It was started meanwhile, or its first process has just ended.
    let source = if container.status().is_alive() {
        let source = files::running(container, access).await?;
        source.ok_or_else(|| EngineError::Conflict("the container is just ending".to_owned()))?
    } else {
        container.released().await;
        later::end_root_now(container);
        files::stopped(container, access)
    };
    let done = on_long_worker(move || job(&Files::open(source)?)).await;
    if !container.status().is_alive() {
        volumes::unmount_unused(container).await;
    }
    done
}

async fn on_long_worker<R: Send + 'static>(
    job: impl FnOnce() -> Result<R, EngineError> + Send + 'static,
) -> Result<R, EngineError> {
    gantry_rt::workers::run_long("container-files", job)
        .map_err(|e| EngineError::Unavailable(e.to_string()))?
        .await
        .map_err(|e| EngineError::System(e.to_string()))?
}
