//! Execs that a keeper has when the daemon comes up.

use std::collections::HashSet;
use std::rc::Rc;

use gantry_launch::AdoptedContainer;
use gantry_stream::{ContainerIo, IoConfig, StreamFds};

use super::{Exec, Phase, create, end, exit, note, parse_key, start};
use crate::EngineError;
use crate::boot;
use crate::container::{Container, files};
use crate::keeper::{ExitReport, Held, KeeperLink};
use crate::orphan::ProcessName;
use crate::shard::ShardEngine;

/// Takes over what belongs to a running container, ends the rest, removes the notes about what is not there.
pub(crate) async fn adopt_all(
    shard: &Rc<ShardEngine>,
    containers: &[Rc<Container>],
    found: Vec<(Rc<KeeperLink>, AdoptedContainer)>,
) {
    let mut known = HashSet::new();
    for (link, found) in found {
        let container = parse_key(&found.id)
            .and_then(|(container, _)| shard.get(container).ok())
            .filter(|c| c.status().is_alive());
        let key = found.id.clone();
        let adopted = match container {
            Some(container) => adopt(&container, &link, &found).await,
            None => Err(EngineError::NotFound(
                "its container does not run".to_owned(),
            )),
        };
        match adopted {
            Ok(()) => drop(known.insert(key)),
            Err(e) => {
                tracing::error!(id = key, error = %e, "an exec can't be taken over; it is ended");
                boot::end_unknown(&link, &found).await;
            }
        }
    }
    if let Err(e) = sweep_notes(shard, containers, known).await {
        tracing::warn!(error = %e, "notes about earlier execs are left behind");
    }
}

async fn adopt(
    container: &Rc<Container>,
    link: &Rc<KeeperLink>,
    found: &AdoptedContainer,
) -> Result<(), EngineError> {
    let (shared, key) = (container.shard.shared.clone(), found.id.clone());
    let config = files::on_worker(move || note::read(&shared.config, &key)).await?;
    let id = parse_key(&found.id).map_or("", |(_, exec)| exec);
    let exec = Exec::new(
        &container.id,
        id.into(),
        config,
        Vec::new(),
        Phase::Starting,
    );
    let io_error = |e| EngineError::io("take over the streams of an exec", e);
    let streams = IoConfig {
        tty: found.tty,
        sink: None,
        long_lines: None,
        buffer: None,
    };
    let io = ContainerIo::adopt(&link.pump, found.slot, streams).map_err(io_error)?;
    // What was written meanwhile had nobody to go to.
    let hand_over = link.hand_over(&found.id).await?;
    io.start(StreamFds {
        stdin: hand_over.stdin,
        stdout: hand_over.stdout,
        stderr: hand_over.stderr,
        tty_master: hand_over.tty_master,
    })
    .map_err(io_error)?;
    let process = ProcessName {
        pid: found.pid,
        start_time_ticks: found.start_time_ticks,
    };
    let held = Held::new(process, None, found.slot, &io);
    link.hold(&found.id, &link.client(), held);
    create::register(container, &exec);
    start::running(&exec, link, process, &io);
    if !exec.config().tty {
        // Whoever wrote to it is gone.
        io.close_stdin();
        link.close_stdin_later(&exec.key.as_str().into());
    }
    if exec.config().probe {
        // Nobody waits for what it finds.
        end::kill(&exec).await;
    }
    if let Some(ended) = found.exit {
        exit::report(
            &container.shard,
            link,
            ExitReport::new(found.id.clone(), ended),
        );
    }
    Ok(())
}

async fn sweep_notes(
    shard: &Rc<ShardEngine>,
    containers: &[Rc<Container>],
    known: HashSet<String>,
) -> Result<(), EngineError> {
    let shared = shard.shared.clone();
    let mine: HashSet<String> = containers.iter().map(|c| c.id.to_string()).collect();
    files::on_worker(move || {
        for key in note::keys(&shared.config)? {
            let stale = parse_key(&key).is_some_and(|(container, _)| mine.contains(container))
                && !known.contains(&key);
            if stale {
                note::remove(&shared.config, &key)?;
            }
        }
        Ok(())
    })
    .await
}
