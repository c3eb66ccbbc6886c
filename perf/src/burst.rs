//! Many starts at once: every client has a container of its own and starts it at the same moment.

use std::io;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crate::cases::{Size, ms};
use crate::engine::Engine;
use crate::http::Client;

/// Stack of a client thread: there are hundreds of them.
const STACK_BYTES: usize = 128 << 10;

/// Time of each start, from the moment when all begin: median and 99th percentile.
pub fn burst(engine: &Engine, size: &Size) -> io::Result<Vec<Vec<f64>>> {
    let mut client = engine.client()?;
    let ids = (0..size.burst)
        .map(|_| engine.create(&mut client, &["sleep", "3600"], &size.log_driver))
        .collect::<io::Result<Vec<_>>>()?;
    let started = start_all(engine, &ids);
    for id in &ids {
        client.expect("DELETE", &format!("/v1.48/containers/{id}?force=1"), None)?;
    }
    let mut times = started?;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    Ok(vec![vec![at(0.5)], vec![at(0.99)]])
}

fn start_all(engine: &Engine, ids: &[String]) -> io::Result<Vec<f64>> {
    let mut clients = ids
        .iter()
        .map(|_| engine.client())
        .collect::<io::Result<Vec<Client>>>()?;
    let barrier = Barrier::new(ids.len());
    thread::scope(|scope| {
        let barrier = &barrier;
        let handles = clients
            .iter_mut()
            .zip(ids)
            .map(|(client, id)| {
                thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, move || {
                        barrier.wait();
                        let begin = Instant::now();
                        client.expect("POST", &format!("/v1.48/containers/{id}/start"), None)?;
                        Ok(ms(begin.elapsed()))
                    })
            })
            .collect::<io::Result<Vec<_>>>()?;
        handles
            .into_iter()
            .map(|handle| {
                handle
                    .join()
                    .map_err(|_| io::Error::other("a client thread panicked"))?
            })
            .collect()
    })
}
