//! The limits of streams and logs, by name: what bounds memory, disk and clients.

use gantry_keeper_proto::shm;

use crate::container::{attach, logs};

/// Each limit with its value: bytes where the name says so, else a number of things.
pub fn limits() -> Vec<(&'static str, u64)> {
    let sizes = [
        (
            "client_backlog_bytes",
            gantry_stream::SUBSCRIPTION_HIGH_BYTES,
        ),
        ("client_resume_bytes", gantry_stream::SUBSCRIPTION_LOW_BYTES),
        ("client_pipe_bytes", gantry_stream::BULK_BYTES),
        ("clients_with_pipes_per_stream", gantry_stream::BULK_CLIENTS),
        ("attached_clients_per_container", attach::MAX_ATTACHED),
        ("log_clients_per_container", logs::MAX_LOG_CLIENTS),
        ("log_clients_per_shard", logs::MAX_OPEN_LOGS),
        ("output_buffers_per_shard", usize::from(shm::RING_BUFFERS)),
        ("output_buffer_bytes", shm::RING_BUFFER_BYTES),
        ("unfinished_line_bytes", shm::CARRY_BYTES),
        ("log_writer_threads", gantry_rt::workers::LOG_WRITERS),
        ("log_line_most_bytes", gantry_stream::MAX_LINE_BYTES),
        ("log_batch_bytes", gantry_logs::BATCH_BYTES),
        (
            "removed_log_segments_per_container",
            gantry_logs::MAX_REMOVED_SEGMENTS,
        ),
    ];
    let sizes = sizes.map(|(name, value)| (name, value as u64));
    let bytes = [
        (
            "removed_log_bytes_per_container",
            gantry_logs::MAX_REMOVED_BYTES,
        ),
        (
            "log_buffer_default_bytes",
            gantry_logs::DEFAULT_BUFFER_BYTES,
        ),
        ("spill_bytes_per_container", shm::SPILL_LIMIT_BYTES),
    ];
    sizes.into_iter().chain(bytes).collect()
}
