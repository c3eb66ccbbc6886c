//! Files that dockerd 28.5.2 wrote, and what it answered when it read them.
//!
//! `tests/data/dockerd`: a log of json-file with `max-size=2k`, `max-file=9`, `compress=true` and attributes, as dockerd left
//! it; `queries` names the requests, `NAME.out.gz` has the bodies of its answers. `local.log.gz` is a file of its local driver.

use std::io::Read;
use std::path::PathBuf;

use flate2::read::GzDecoder;
use gantry_logs::{Format, LogQuery, read_at_once, time};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/dockerd")
        .join(name)
}

fn unpacked(name: &str) -> Vec<u8> {
    let file = std::fs::File::open(data(name)).expect(name);
    let mut out = Vec::new();
    GzDecoder::new(file).read_to_end(&mut out).expect(name);
    out
}

fn query(text: &str) -> LogQuery {
    let mut query = LogQuery::default();
    for (name, value) in text.split('&').filter_map(|p| p.split_once('=')) {
        let at = || time::parse_timestamp(value).expect("a time");
        match name {
            "stdout" => query.stdout = true,
            "stderr" => query.stderr = true,
            "timestamps" => query.timestamps = true,
            "details" => query.details = true,
            "tail" => query.tail = Some(value.parse().expect("a number")),
            "since" => query.since_ns = Some(at()),
            "until" => query.until_ns = Some(at()),
            other => panic!("{other}"),
        }
    }
    query
}

#[test]
fn its_rotated_files_are_read_as_it_reads_them() {
    let queries = std::fs::read_to_string(data("queries")).expect("queries");
    for (name, text) in queries.lines().filter_map(|l| l.split_once(' ')) {
        let (got, torn) = read_at_once(&data("json.log"), Format::Json, &query(text)).expect(name);
        assert_eq!(torn, 0, "{name}");
        let want = unpacked(&format!("{name}.out.gz"));
        assert!(
            got == want,
            "{name}: {} bytes, not {}",
            got.len(),
            want.len()
        );
    }
}

#[test]
fn its_local_files_are_no_segments_of_ours_and_harm_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let base = dir.path().join("container");
    let theirs = unpacked("local.log.gz");
    // Where it leaves them, they have no name of ours; under such a name they are damage.
    std::fs::write(dir.path().join("container.log"), &theirs).expect("write");
    let both = query("stdout=1&stderr=1");
    assert_eq!(
        read_at_once(&base, Format::Frames, &both).expect("read"),
        (vec![], 0)
    );
    std::fs::write(dir.path().join("container.00000001"), &theirs).expect("write");
    let (out, _) = read_at_once(&base, Format::Frames, &both).expect("read");
    assert!(out.is_empty());
}
