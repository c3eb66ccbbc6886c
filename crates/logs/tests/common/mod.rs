//! Logs of both forms for tests, and what readers give.
#![allow(dead_code)] // Every test program uses a part of it.

use std::path::Path;

use gantry_logs::{FileLog, FileOptions, Format, LogQuery, LogStream};
use gantry_stream::LogSink;
use gantry_stream::mux::FrameReader;

pub const FORMATS: [Format; 2] = [Format::Json, Format::Frames];
pub const BEGIN_NS: u64 = 1_700_000_000_000_000_000;

pub fn open(path: &Path, format: Format, opts: &[(&'static str, &str)]) -> FileLog {
    let mut opts = opts.to_vec();
    if format == Format::Frames && !opts.iter().any(|(name, _)| *name == "compress") {
        opts.push(("compress", "false"));
    }
    match format {
        Format::Json => FileLog::open_json(path, FileOptions::parse(opts).expect("options")),
        Format::Frames => {
            FileLog::open_local(path, FileOptions::parse_local(opts).expect("options"))
        }
    }
    .expect("log")
}

pub fn commit(log: &mut FileLog) {
    log.write().expect("write");
    log.committed();
}

/// Everything that a stream gives.
pub async fn all(mut stream: LogStream) -> (Vec<u8>, u64) {
    let mut out = Vec::new();
    while let Some(chunk) = stream.next().await {
        out.extend_from_slice(&chunk.expect("chunk"));
    }
    (out, stream.torn())
}

/// Frames as pairs.
pub fn frames(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut reader = FrameReader::default();
    reader.push(bytes);
    let mut frames = Vec::new();
    while let Some((stream, text)) = reader.next_frame().expect("a frame") {
        frames.push((stream, text.to_vec()));
    }
    assert_eq!(reader.rest(), 0);
    frames
}

pub fn both() -> LogQuery {
    LogQuery {
        stdout: true,
        stderr: true,
        ..LogQuery::default()
    }
}

pub fn lines(range: std::ops::Range<u32>) -> Vec<u8> {
    let lines = range.map(|n| format!("line {n}\n"));
    lines.collect::<String>().into_bytes()
}

pub async fn text(stream: LogStream) -> Vec<u8> {
    let (out, torn) = all(stream).await;
    assert_eq!(torn, 0);
    frames(&out).into_iter().flat_map(|(_, t)| t).collect()
}

pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("dir");
    let mut names: Vec<_> = entries
        .map(|e| e.expect("entry").file_name().into_string().expect("name"))
        .collect();
    names.sort();
    names
}
