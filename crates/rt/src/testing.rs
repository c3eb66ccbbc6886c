//! For tests of this and other crates: run a future on a shard and get its result.

use std::future::Future;
use std::sync::OnceLock;

use crate::{ShardId, block_on_shard, run};

/// Shards of a test process.
pub const TEST_SHARDS: usize = 2;

/// Runs the future on shard 0 of the process's test runtime (started on first use) and returns its output.
///
/// # Panics
/// When the runtime cannot start or the future panics: this is for tests.
pub fn on_shard<R, F>(f: impl FnOnce() -> F + Send + 'static) -> R
where
    R: Send + 'static,
    F: Future<Output = R> + 'static,
{
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        if let Err(e) = run(TEST_SHARDS, |_| Box::pin(async {})) {
            panic!("test runtime: {e}");
        }
    });
    match block_on_shard(ShardId(0), f) {
        Ok(output) => output,
        Err(e) => panic!("test future: {e}"),
    }
}
