//! Version, info, events and our own counters.

use std::collections::BTreeMap;

use bytes::Bytes;
use gantry_engine::{Event, EventsQuery, PumpStats};
use gantry_rt::http::ResponseBody;

use crate::context::Context;
use crate::error::ApiError;
use crate::reply::{self, Reply};
use crate::service::Call;
use crate::wire::system::{self, EventMessage};
use crate::{filters, text};

pub(super) fn version(call: Call) -> Reply {
    reply::ok(&system::version(&call.ctx.daemon))
}

pub(super) fn info(call: Call) -> Reply {
    let ctx = &call.ctx;
    reply::ok(&system::info(
        &ctx.daemon,
        &ctx.settings(),
        ctx.engine.counts(),
        ctx.images.snapshot().len(),
        &ctx.engine.runtimes(),
        &ctx.registry.settings(),
    ))
}

pub(super) fn events(call: Call) -> Reply {
    let wanted = filters::parse(call.query.get("filters"))?;
    let query = EventsQuery {
        since_unix_ns: text::parse_unix(call.query.get("since"))?,
        until_unix_ns: text::parse_unix(call.query.get("until"))?,
        filters: wanted,
    };
    if let (Some(since), Some(until)) = (query.since_unix_ns, query.until_unix_ns)
        && since > until
    {
        let (since, until) = (call.query.get("since"), call.query.get("until"));
        return Err(ApiError::invalid(format!(
            "`since` time ({since}) cannot be after `until` time ({until})"
        )));
    }
    let mut stream = call.ctx.engine.events(&query)?;
    let listener = system::EventListener::register();
    let body = ResponseBody::generate(move |tx| async move {
        let _listener = listener;
        while let Some(event) = stream.next().await {
            let mut line = serde_json::to_vec(&message(&event))?;
            line.push(b'\n');
            tx.send(Bytes::from(line)).await?;
        }
        Ok(())
    });
    reply::stream("application/json", body)
}

fn message(event: &Event) -> EventMessage<'_> {
    let of_object = matches!(event.kind, "container" | "image");
    let image = event
        .attributes
        .iter()
        .find(|(k, _)| k == "image")
        .map(|(_, v)| v.as_str());
    EventMessage {
        // Old clients read these three.
        status: of_object.then_some(event.action.as_str()),
        id: (of_object && !event.actor_id.is_empty()).then_some(event.actor_id.as_str()),
        from: image.filter(|_| event.kind == "container"),
        kind: event.kind,
        action: &event.action,
        actor: system::Actor {
            id: &event.actor_id,
            attributes: event
                .attributes
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect(),
        },
        scope: "local",
        time: event.time_unix_ns.div_euclid(1_000_000_000),
        time_nano: event.time_unix_ns,
    }
}

pub(super) fn debug(ctx: &Context) -> Reply {
    let shards: Vec<_> = gantry_rt::stats::snapshot()
        .into_iter()
        .map(|s| {
            serde_json::json!({
                "shard": s.shard,
                "tasks_alive": s.tasks_alive,
                "mailbox_len": s.mailbox_len,
                "jobs_run": s.jobs_run,
                "connections": s.connections,
                "requests": s.requests,
                "requests_in_flight": s.requests_in_flight,
                "panics": s.panics,
                "stalls": s.stalls,
                "last_stall": s.last_stall.map(|stall| serde_json::json!({
                    "task": stall.task,
                    "took_us": u64::try_from(stall.took.as_micros()).unwrap_or(u64::MAX),
                })),
            })
        })
        .collect();
    let sent = gantry_logship::counters();
    let sent = serde_json::json!({
        "senders": sent.senders,
        "delivered_records": sent.delivered_records,
        "dropped_records": sent.dropped_records,
        "lost_segments": sent.lost_segments,
        "torn_records": sent.torn_records,
        "abandoned_logs": sent.abandoned_logs,
        "failures": sent.failures,
    });
    let ways: BTreeMap<_, _> = ctx.daemon.ways.iter().copied().collect();
    reply::ok(&serde_json::json!({
        "shards": shards,
        "open_fds": system::open_fds(),
        "kernel_ways": ways,
        "limits": BTreeMap::from_iter(gantry_engine::limits()),
        "log_senders": sent,
        "logs": logs(gantry_logs::loss_counters()),
        "output": output(PumpStats::of_process()),
    }))
}

/// What is in no log, and what readers did not get.
fn logs(counters: gantry_logs::LossCounters) -> serde_json::Value {
    serde_json::json!({
        "losses": counters.losses,
        "lost_bytes": counters.lost_bytes,
        "lost_records": counters.lost_records,
        "follower_gaps": counters.follower_gaps,
        "torn_records": counters.torn_records,
    })
}

/// What containers and execs printed, and what of it was lost.
fn output(stats: PumpStats) -> serde_json::Value {
    serde_json::json!({
        "read_bytes": stats.bytes,
        "moved_bytes": stats.moved_bytes,
        "batches": stats.batches,
        "out_of_buffers": stats.out_of_buffers,
        "failed_log_writes": stats.failed_writes,
        "gap_bytes": stats.gap_bytes,
        "dropped_bytes": stats.dropped_bytes,
        "dropped_records": stats.dropped_records,
    })
}
