//! The client's half of a wait.

use gantry_rt::reply::ReplyReceiver;

use crate::EngineError;
use crate::model::WaitResult;

/// A registered wait; the response head may go out before it ends. Lives on the shard where it was made.
pub struct WaitHandle {
    receiver: ReplyReceiver<WaitResult>,
}

impl WaitHandle {
    pub(crate) fn new(receiver: ReplyReceiver<WaitResult>) -> Self {
        Self { receiver }
    }

    /// Waits for the condition.
    pub async fn wait(self) -> Result<WaitResult, EngineError> {
        self.receiver
            .await
            .map_err(|_| EngineError::System("the waited-for container went away".to_owned()))
    }
}
