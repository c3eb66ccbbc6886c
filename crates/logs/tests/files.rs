//! What happens to the files of a log: compression, torn ends, damage, lost indexes, interrupted batches.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{BEGIN_NS, FORMATS, all, both, commit, frames, lines, names, open, text};
use gantry_logs::{Format, LogFiles, LogQuery, read};
use gantry_rt::testing::on_shard;
use gantry_stream::{LogSink, Stream};

#[test]
fn rotated_files_are_compressed_and_read() {
    on_shard(|| async {
        for format in FORMATS {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("log");
            let opts = [("max-size", "20k"), ("max-file", "4"), ("compress", "true")];
            let mut log = open(&path, format, &opts);
            let mut n = 0;
            let want: &[&str] = match format {
                Format::Json => &["log", "log.1.gz", "log.2.gz", "log.3.gz"],
                Format::Frames => &[".gz", ".gz", ".gz"],
            };
            let done = |names: &[String]| match format {
                Format::Json => names == want,
                Format::Frames => names.iter().filter(|n| n.ends_with(".gz")).count() == 3,
            };
            for _ in 0..1000 {
                log.append(Stream::Stdout, &lines(n..n + 100), BEGIN_NS + u64::from(n));
                commit(&mut log);
                n += 100;
                gantry_rt::sleep(Duration::from_millis(2)).await;
                if n > 5000 && done(&names(dir.path())) {
                    break;
                }
            }
            let found = names(dir.path());
            assert!(done(&found), "{found:?}");
            let state = log.state();
            let whole = text(read(&state, both()).expect("read")).await;
            let first = (n as usize) - whole.iter().filter(|b| **b == b'\n').count();
            assert!(whole == lines(first as u32..n), "{format:?}");
            for tail in [1, 100, u64::from(n) - first as u64 - 3] {
                let query = LogQuery {
                    tail: Some(tail),
                    ..both()
                };
                let got = text(read(&state, query).expect("read")).await;
                assert!(got == lines(n - tail as u32..n), "{format:?} {tail}");
            }
            let query = LogQuery {
                since_ns: Some(BEGIN_NS + u64::from(n)),
                ..both()
            };
            let got = text(read(&state, query).expect("read")).await;
            assert!(got.len() < whole.len() && whole.ends_with(&got));
        }
    });
}

#[test]
fn a_compressed_file_that_ends_in_a_long_line_is_found_by_time() {
    on_shard(|| async {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let opts = [("max-size", "40k"), ("max-file", "4"), ("compress", "true")];
        let mut log = open(&path, Format::Json, &opts);
        log.append(Stream::Stdout, &[b'x'; 16384], BEGIN_NS);
        log.append(Stream::Stderr, b"late\n", BEGIN_NS + 10_000_000_000);
        log.append(
            Stream::Stdout,
            &[b'x'; 16384 * 2],
            BEGIN_NS + 11_000_000_000,
        );
        commit(&mut log);
        log.append(Stream::Stderr, b"last\n", BEGIN_NS + 12_000_000_000);
        commit(&mut log);
        for _ in 0..500 {
            if names(dir.path()).contains(&"log.1.gz".to_owned()) {
                break;
            }
            gantry_rt::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(names(dir.path()), ["log", "log.1.gz"]);
        let query = LogQuery {
            since_ns: Some(BEGIN_NS + 10_000_000_000),
            ..both()
        };
        assert_eq!(
            text(read(&log.state(), query).expect("read")).await,
            b"late\nlast\n"
        );
    });
}

/// The newest file of a log.
fn current(dir: &Path, format: Format) -> PathBuf {
    match format {
        Format::Json => dir.join("log"),
        Format::Frames => {
            let names = names(dir);
            let data = names
                .iter()
                .rfind(|n| !n.ends_with(".idx"))
                .expect("a segment");
            dir.join(data)
        }
    }
}

#[test]
fn a_torn_end_is_cut_off_and_damage_is_skipped_and_counted() {
    on_shard(|| async {
        for format in FORMATS {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("log");
            let mut log = open(&path, format, &[]);
            for n in 0..300 {
                log.append(Stream::Stdout, &lines(n..n + 1), BEGIN_NS);
            }
            commit(&mut log);
            log.append(Stream::Stderr, b"other\n", BEGIN_NS);
            commit(&mut log);
            drop(log);
            let file = current(dir.path(), format);
            let mut bytes = std::fs::read(&file).expect("read");
            let whole = bytes.len();
            bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0]);
            std::fs::write(&file, &bytes).expect("write");
            let mut log = open(&path, format, &[]);
            assert_eq!(log.position().bytes, whole as u64);
            log.append(Stream::Stdout, b"more\n", BEGIN_NS);
            commit(&mut log);
            let got = text(read(&log.state(), both()).expect("read")).await;
            assert!(
                got == [&lines(0..300)[..], b"other\nmore\n"].concat(),
                "{format:?}"
            );
            // A byte in the middle: of a record's form, not of its text.
            let mut bytes = std::fs::read(&file).expect("read");
            let at = match format {
                Format::Json => {
                    bytes
                        .iter()
                        .skip(5000)
                        .position(|b| *b == b'{')
                        .expect("a record")
                        + 5000
                }
                Format::Frames => 8 + b"line 0\n".len(),
            };
            bytes[at] = b'?';
            std::fs::write(&file, &bytes).expect("write");
            let (out, torn) = all(read(&log.state(), both()).expect("read")).await;
            assert_eq!(torn, 1);
            let found = frames(&out);
            let last = found.len() - 2;
            assert_eq!(found[last], (2, b"other\n".to_vec()));
            assert_eq!(found[last + 1], (1, b"more\n".to_vec()));
        }
    });
}

#[test]
fn a_segment_without_its_index_is_read_and_goes_on() {
    on_shard(|| async {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        let mut log = open(&path, Format::Frames, &[("max-size", "2k")]);
        log.append(Stream::Stdout, &lines(0..500), BEGIN_NS);
        commit(&mut log);
        drop(log);
        for name in names(dir.path()).iter().filter(|n| n.ends_with(".idx")) {
            std::fs::write(dir.path().join(name), b"no index").expect("write");
        }
        let dead = LogFiles::of_path(&path, Format::Frames, both())
            .expect("read")
            .read();
        let whole = text(dead).await;
        assert!(lines(0..500).ends_with(&whole) && whole.len() > 2000);
        let mut log = open(&path, Format::Frames, &[("max-size", "2k")]);
        log.append(Stream::Stdout, &lines(500..501), BEGIN_NS);
        commit(&mut log);
        let query = LogQuery {
            tail: Some(3),
            ..both()
        };
        let got = text(read(&log.state(), query).expect("read")).await;
        assert_eq!(got, lines(498..501));
    });
}

#[test]
fn what_was_not_committed_is_undone() {
    on_shard(|| async {
        for format in FORMATS {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("log");
            let opts = [("max-size", "2k"), ("max-file", "3")];
            let mut log = open(&path, format, &opts);
            log.append(Stream::Stdout, &lines(0..150), BEGIN_NS);
            commit(&mut log);
            let before = text(read(&log.state(), both()).expect("read")).await;
            let position = log.position();
            let mut state = gantry_keeper_proto::shm::SlotState {
                log_bytes: position.bytes,
                log_id: position.file_id,
                ..Default::default()
            };
            state.carry[0].bytes = b"par".to_vec();
            // Written over several files, never committed.
            log.append(Stream::Stdout, &lines(150..1000), BEGIN_NS);
            log.write().expect("write");
            std::mem::forget(log);
            let mut log = open(&path, format, &opts);
            log.restore(&state).expect("restore");
            let after = text(read(&log.state(), both()).expect("read")).await;
            assert!(before.ends_with(&after), "{format:?}");
            assert!(after.ends_with(b"line 149\n"), "{format:?}");
            log.append(Stream::Stdout, b"tial\n", BEGIN_NS);
            commit(&mut log);
            let after = text(read(&log.state(), both()).expect("read")).await;
            assert!(after.ends_with(b"line 149\npartial\n"), "{format:?}");
        }
    });
}

#[test]
fn names_of_any_number_and_any_max_file_harm_nothing() {
    on_shard(|| async {
        for format in FORMATS {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("log");
            for number in ["18446744073709551615", "0", "+3", "99999999999999999999999"] {
                std::fs::write(dir.path().join(format!("log.{number}")), b"").expect("write");
            }
            let opts = [("max-size", "1k"), ("max-file", "4294967295")];
            let mut log = open(&path, format, &opts);
            log.append(Stream::Stdout, &lines(0..50), BEGIN_NS);
            commit(&mut log);
            let position = log.position();
            let state = gantry_keeper_proto::shm::SlotState {
                log_bytes: position.bytes,
                log_id: position.file_id,
                ..Default::default()
            };
            drop(log);
            let mut log = open(&path, format, &opts);
            log.restore(&state).expect("restore");
            log.append(Stream::Stdout, &lines(50..300), BEGIN_NS);
            commit(&mut log);
            assert_eq!(
                text(read(&log.state(), both()).expect("read")).await,
                lines(0..300)
            );
        }
    });
}

#[test]
fn somebody_empties_the_file() {
    on_shard(|| async {
        for format in FORMATS {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("log");
            let mut log = open(&path, format, &[]);
            let query = LogQuery {
                follow: true,
                ..both()
            };
            let mut stream = read(&log.state(), query).expect("read");
            log.append(Stream::Stdout, &lines(0..10), BEGIN_NS);
            commit(&mut log);
            let first = stream.next().await.expect("more").expect("chunk");
            assert_eq!(frames(&first).len(), 10);
            let file = std::fs::File::options()
                .write(true)
                .open(current(dir.path(), format));
            file.expect("open").set_len(0).expect("truncate");
            log.append(Stream::Stdout, &lines(10..20), BEGIN_NS);
            commit(&mut log);
            log.close();
            assert_eq!(text(stream).await, lines(10..20), "{format:?}");
            assert_eq!(
                text(read(&log.state(), both()).expect("read")).await,
                lines(10..20)
            );
            drop(log);
            let dead = LogFiles::of_path(&path, format, both())
                .expect("read")
                .read();
            assert_eq!(text(dead).await, lines(10..20));
        }
    });
}
