//! A follower that is interrupted at any place goes on where it was, through rotation and another life of the writer.

use std::path::Path;

use gantry_logs::{Cursor, FileLog, FileOptions, Follower};
use gantry_rt::testing::on_shard;
use gantry_stream::{LogSink, Stream};

fn open(path: &Path, max_size: &str) -> FileLog {
    let options = FileOptions::parse([("max-size", max_size), ("max-file", "100")]);
    FileLog::open_json(path, options.expect("options")).expect("log")
}

fn commit(log: &mut FileLog, range: std::ops::Range<u32>) {
    for n in range {
        log.append(Stream::Stdout, format!("line {n}\n").as_bytes(), 1);
    }
    log.write().expect("write");
    log.committed();
}

/// What the follower gets before it waits, and its last cursor.
async fn drain(follower: &mut Follower) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(batch) = follower.next().await {
        let batch = batch.expect("batch");
        assert_eq!((batch.torn, batch.lost_segments), (0, 0));
        let text = |r: &gantry_logs::Record| String::from_utf8_lossy(&r.bytes).into_owned();
        lines.extend(batch.records.iter().map(text));
    }
    lines
}

fn numbered(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("line {n}")).collect()
}

#[test]
fn a_saved_cursor_goes_on_through_rotation_and_another_writer() {
    on_shard(|| async {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let mut log = open(&path, "300");
        commit(&mut log, 0..10);
        let mut follower = Follower::open(&log.state(), None).expect("follower");
        let first = follower.next().await.expect("some").expect("batch");
        let got = first.records.len() as u32;
        assert!((1..10).contains(&got), "one file's records, not {got}");
        let saved = first.cursor.encode();
        // More rotations, and the writer goes.
        commit(&mut log, 10..20);
        drop((follower, log));
        let mut log = open(&path, "300");
        commit(&mut log, 20..30);
        let cursor = Cursor::decode(&saved);
        assert!(cursor.is_some());
        let mut follower = Follower::open(&log.state(), cursor).expect("follower");
        log.close();
        assert_eq!(drain(&mut follower).await, numbered(got..30));
        // At the end there is nothing more, also for the next.
        let mut follower = Follower::open(&log.state(), Some(follower.cursor())).expect("follower");
        assert!(follower.next().await.is_none());
    });
}

#[test]
fn a_cursor_that_rotation_has_removed_is_said() {
    on_shard(|| async {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let options = FileOptions::parse([("max-size", "200"), ("max-file", "2")]);
        let mut log = FileLog::open_json(&path, options.expect("options")).expect("log");
        commit(&mut log, 0..2);
        let mut follower = Follower::open(&log.state(), None).expect("follower");
        let first = follower.next().await.expect("some").expect("batch");
        drop(follower);
        commit(&mut log, 2..50);
        let mut follower = Follower::open(&log.state(), Some(first.cursor)).expect("follower");
        let next = follower.next().await.expect("some").expect("batch");
        assert_eq!(next.lost_segments, 1);
        assert!(!next.records.is_empty());
    });
}

#[test]
fn small_chunks_are_the_same_records() {
    on_shard(|| async {
        let dir = tempfile::tempdir().expect("dir");
        let options = FileOptions::parse_local([("max-size", "1m")]).expect("options");
        let mut log = FileLog::open_local(&dir.path().join("log"), options).expect("log");
        for n in 0..200 {
            commit(&mut log, n * 100..(n + 1) * 100);
        }
        log.close();
        let mut whole = Follower::open(&log.state(), None).expect("follower");
        let mut small = Follower::open(&log.state(), None).expect("follower");
        small.set_chunk_bytes(32 * 1024);
        let first = small.next().await.expect("some").expect("batch");
        let bytes: usize = first.records.iter().map(|r| r.bytes.len()).sum();
        assert!(bytes <= 32 * 1024, "{bytes}");
        let text = |r: &gantry_logs::Record| String::from_utf8_lossy(&r.bytes).into_owned();
        let mut found: Vec<String> = first.records.iter().map(text).collect();
        found.extend(drain(&mut small).await);
        assert_eq!(found, numbered(0..20_000));
        assert_eq!(drain(&mut whole).await, found);
    });
}
