//! The accept loop of a shard.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{MAX_CONNECTIONS, Service, Timeouts, conn};
use crate::net::Listener;
use crate::sync::Notify;
use crate::{race, shard, sleep, spawn};

/// Pause after an accept that failed for want of fds or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

struct Slots {
    used: Cell<usize>,
    freed: Notify,
}

/// Counts an open connection on its shard.
struct Slot(Rc<Slots>);

impl Slot {
    fn new(slots: &Rc<Slots>) -> Self {
        slots.used.set(slots.used.get() + 1);
        shard::counters()
            .connections
            .fetch_add(1, Ordering::Relaxed);
        Slot(slots.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.used.set(self.0.used.get() - 1);
        shard::counters()
            .connections
            .fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_one();
    }
}

/// Serves connections of `listener` on the current shard until it is stopped. Connections that are open then are served
/// to their end.
pub async fn serve<S: Service>(listener: Listener, service: Rc<S>) {
    let slots = Rc::new(Slots {
        used: Cell::new(0),
        freed: Notify::new(),
    });
    loop {
        while slots.used.get() >= MAX_CONNECTIONS {
            let _ = race(slots.freed.notified(), listener.stopped()).await;
            if slots.used.get() >= MAX_CONNECTIONS
                && crate::timeout(Duration::ZERO, listener.stopped())
                    .await
                    .is_ok()
            {
                return;
            }
        }
        match listener.accept().await {
            Ok(Some(fd)) => {
                let (slot, service) = (Slot::new(&slots), service.clone());
                spawn("http.connection", async move {
                    let _slot = slot;
                    if let Err(e) = conn::serve_connection(fd, service, &Timeouts::DEFAULT).await {
                        tracing::debug!(error = %e, "connection ended");
                    }
                });
            }
            Ok(None) => return,
            Err(e) => {
                tracing::warn!(error = %e, "accept failed");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}
