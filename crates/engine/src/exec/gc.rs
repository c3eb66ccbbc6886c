//! Ended execs are forgotten some minutes after their end, as dockerd does: one sweep says what will go, the next takes
//! it away.

use std::rc::Rc;
use std::time::Duration;

use crate::container::Container;
use crate::shard::ShardEngine;

/// Time between two sweeps.
pub const EXEC_SWEEP_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Sweeps the containers of a shard for ever.
pub(crate) async fn run(shard: Rc<ShardEngine>) {
    loop {
        gantry_rt::sleep(EXEC_SWEEP_INTERVAL).await;
        let containers: Vec<Rc<Container>> = shard.containers.borrow().values().cloned().collect();
        containers.iter().for_each(sweep);
    }
}

fn sweep(container: &Rc<Container>) {
    container.forget_execs(|e| e.is_live() || !e.can_remove());
    container.execs.each(|e| e.set_can_remove(!e.is_live()));
}
