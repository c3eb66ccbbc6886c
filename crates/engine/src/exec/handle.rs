//! What the rest of the daemon asks for.

use std::rc::Rc;

use super::attach::{ExecStart, ExecTicket};
use super::create::{self, ExecRequest};
use super::{Exec, ExecId, ExecView, check_status, not_found, resize, start};
use crate::container::Container;
use crate::shard::on_shard;
use crate::{Engine, EngineError};

impl Engine {
    /// Makes an exec in a running container and returns its id.
    pub async fn exec_create(
        &self,
        key: &str,
        request: ExecRequest,
    ) -> Result<String, EngineError> {
        create::check_command(&request.config.argv)?;
        let named = key.to_owned();
        self.on_owner(
            key,
            |c| async move { create::create(&c, &named, request).await },
        )
        .await
    }

    /// Runs an operation on the shard of an exec. Ids are taken in full, as Docker does.
    async fn on_exec<R, F, Fut>(&self, id: &str, f: F) -> Result<R, EngineError>
    where
        R: Send + 'static,
        F: FnOnce(Rc<Container>, Rc<Exec>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<R, EngineError>> + 'static,
    {
        let home = self.shared.execs.home(id).ok_or_else(|| not_found(id))?;
        let id = id.to_owned();
        on_shard(home.shard, move |engine| async move {
            let container = engine.get(&home.container).map_err(|_| not_found(&id))?;
            let exec = container.execs.get(&id).ok_or_else(|| not_found(&id))?;
            f(container, exec).await
        })
        .await
    }

    /// Starts it with nobody attached; returns when it runs.
    pub async fn exec_start_detached(
        &self,
        id: &str,
        options: ExecStart,
    ) -> Result<(), EngineError> {
        self.on_exec(id, move |container, exec| async move {
            start::start(&container, &exec, options, None)
                .await
                .map(drop)
        })
        .await
    }

    /// Checks a start; the connection, and with it the start, is given to the ticket afterwards. What fails then is told
    /// on the connection.
    pub async fn exec_start(
        &self,
        id: &str,
        options: ExecStart,
    ) -> Result<ExecTicket, EngineError> {
        // As the owner last showed it, without asking it: what has changed since is told on the connection as well.
        let (home, _) = self.shared.execs.get(id).ok_or_else(|| not_found(id))?;
        let (_, view) = self
            .shared
            .index
            .resolve(&home.container)
            .map_err(|_| not_found(id))?;
        check_status(view.state.status, &home.container, &home.container)?;
        Ok(ExecTicket::new(home, id, options))
    }

    /// Sets the size of its terminal.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<(), EngineError> {
        self.on_exec(id, move |container, exec| async move {
            resize::resize(&container, &exec, rows, columns).await
        })
        .await
    }

    /// What it is and how it stands.
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecView, EngineError> {
        let (home, shown) = self.shared.execs.get(id).ok_or_else(|| not_found(id))?;
        Ok(shown.view(id.into(), home.container))
    }

    /// The execs of a container that are not ended.
    pub fn live_execs(&self, container: &str) -> Vec<ExecId> {
        self.shared.execs.live(container)
    }
}
