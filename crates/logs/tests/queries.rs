//! Both forms of files answer every query as a plain list of records would, through rotation, compression, another life
//! of the writer, and damage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_logs::{
    FileLog, FileOptions, Format, LogQuery, LogStream, read, read_at_once, read_path,
};
use gantry_rt::testing::on_shard;
use gantry_stream::mux::FrameReader;
use gantry_stream::{LogSink, Stream};
use proptest::prelude::*;

const FORMATS: [Format; 2] = [Format::Json, Format::Frames];
const BEGIN_NS: u64 = 1_700_000_000_000_000_000;

fn open(path: &Path, format: Format, opts: &[(&'static str, &str)]) -> FileLog {
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

fn commit(log: &mut FileLog) {
    log.write().expect("write");
    log.committed();
}

/// Everything that a stream gives.
async fn all(mut stream: LogStream) -> (Vec<u8>, u64) {
    let mut out = Vec::new();
    while let Some(chunk) = stream.next().await {
        out.extend_from_slice(&chunk.expect("chunk"));
    }
    (out, stream.torn())
}

/// Frames as pairs.
fn frames(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut reader = FrameReader::default();
    reader.push(bytes);
    let mut frames = Vec::new();
    while let Some((stream, text)) = reader.next_frame().expect("a frame") {
        frames.push((stream, text.to_vec()));
    }
    assert_eq!(reader.rest(), 0);
    frames
}

fn both() -> LogQuery {
    LogQuery {
        stdout: true,
        stderr: true,
        ..LogQuery::default()
    }
}

fn lines(range: std::ops::Range<u32>) -> Vec<u8> {
    let lines = range.map(|n| format!("line {n}\n"));
    lines.collect::<String>().into_bytes()
}

async fn text(stream: LogStream) -> Vec<u8> {
    let (out, torn) = all(stream).await;
    assert_eq!(torn, 0);
    frames(&out).into_iter().flat_map(|(_, t)| t).collect()
}

/// One thing that a container does.
#[derive(Clone, Debug)]
enum Act {
    Print(bool, Vec<u8>),
    Commit,
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (any::<bool>(), proptest::collection::vec(prop_oneof![4 => Just(b'a'), 1 => Just(b'\n'), 1 => Just(b'"')], 0..60))
            .prop_map(|(stderr, text)| Act::Print(stderr, text)),
        1 => (any::<bool>(), 16_000..40_000usize).prop_map(|(stderr, n)| Act::Print(stderr, vec![b'x'; n])),
        2 => Just(Act::Commit),
        1 => Just(Act::Reopen),
    ]
}

type Model = Vec<(u64, u8, Vec<u8>)>;

fn render(model: &Model, query: &LogQuery) -> Vec<(u8, Vec<u8>)> {
    let from = query
        .tail
        .map_or(0, |n| model.len().saturating_sub(n as usize));
    let mut out = Vec::new();
    for (time, stream, text) in &model[from..] {
        if query.since_ns.is_some_and(|since| *time < since) {
            continue;
        }
        if query.until_ns.is_some_and(|until| *time > until) {
            break;
        }
        if (*stream == 1 && query.stdout) || (*stream == 2 && query.stderr) {
            out.push((*stream, text.clone()));
        }
    }
    out
}

/// What the acts leave, by a plain implementation.
fn play(log: &mut Option<FileLog>, open: impl Fn() -> FileLog, acts: &[Act]) {
    for (n, act) in acts.iter().enumerate() {
        let now = BEGIN_NS + n as u64 * 1_000_000;
        let sink = log.get_or_insert_with(&open);
        match act {
            Act::Print(stderr, text) => {
                let stream = if *stderr {
                    Stream::Stderr
                } else {
                    Stream::Stdout
                };
                sink.append(stream, text, now);
            }
            Act::Commit => commit(sink),
            Act::Reopen => {
                sink.finish(Stream::Stdout, now);
                sink.finish(Stream::Stderr, now);
                commit(sink);
                *log = None;
            }
        }
    }
    let sink = log.get_or_insert_with(&open);
    sink.finish(Stream::Stdout, BEGIN_NS);
    sink.finish(Stream::Stderr, BEGIN_NS);
    commit(sink);
}

/// Records of a json-file that was not rotated, by the slow decoder.
fn model(path: &Path) -> Model {
    let text = std::fs::read(path).expect("read");
    let lines = text.split_inclusive(|b| *b == b'\n');
    lines
        .map(|line| {
            let (record, time) = gantry_logs::json::decode(line).expect("a record");
            (time, record.stream() as u8, record.log.as_bytes().to_vec())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]
    #[test]
    fn every_query_is_answered_as_a_list_would(
        acts in proptest::collection::vec(act(), 1..40),
        tail in proptest::option::of(0..40u64),
        (since, until) in (proptest::option::of(0..40u64), proptest::option::of(0..40u64)),
        (stdout, stderr) in (any::<bool>(), any::<bool>()),
        rotate: bool,
    ) {
        let found = on_shard(move || async move {
            let dir = tempfile::tempdir().expect("dir");
            let plain = dir.path().join("plain");
            play(&mut None, || open(&plain, Format::Json, &[]), &acts);
            let model = model(&plain);
            let at = |n: u64| BEGIN_NS + n * 1_000_000 + 1;
            let query = LogQuery {
                stdout, stderr, tail,
                since_ns: since.map(at),
                until_ns: until.map(at),
                ..LogQuery::default()
            };
            let want = render(&model, &query);
            let mut found = vec![want];
            for format in FORMATS {
                let path = dir.path().join(format!("{format:?}"));
                let opts: &[_] = if rotate { &[("max-size", "5k"), ("max-file", "1000")] } else { &[] };
                let mut log = None;
                play(&mut log, || open(&path, format, opts), &acts);
                let state = log.as_ref().expect("log").state();
                let (live, torn) = all(read(&state, query.clone()).expect("read")).await;
                assert_eq!(torn, 0);
                found.push(frames(&live));
                drop(log);
                let (dead, torn) = all(read_path(&path, format, query.clone()).expect("read")).await;
                assert_eq!(torn, 0);
                found.push(frames(&dead));
            }
            found
        });
        for other in &found[1..] {
            prop_assert_eq!(&found[0], other);
        }
    }
}

/// Searching by time must not be led astray by parts of a long line, which have the time of its first part.
#[test]
fn a_time_is_found_in_large_files_with_long_lines_between_others() {
    let dir = tempfile::tempdir().expect("dir");
    let plain = dir.path().join("plain");
    let play = |log: &mut FileLog| {
        let mut now = BEGIN_NS;
        for round in 0..12u32 {
            for n in 0..1500 {
                now += 10_000_000;
                log.append(Stream::Stdout, &lines(n..n + 1), now);
            }
            // A line of a megabyte and, while it is printed, others on the other stream.
            for n in 0..64 {
                now += 100_000_000;
                log.append(Stream::Stdout, &[b'x'; 16384], now);
                if round % 3 == 0 || n % 20 == 0 {
                    log.append(Stream::Stderr, &lines(n..n + 1), now + 1);
                }
            }
            log.append(Stream::Stdout, b"\n", now);
            commit(log);
        }
        now
    };
    let end = play(&mut open(&plain, Format::Json, &[]));
    let model = model(&plain);
    for format in FORMATS {
        let path = dir.path().join(format!("{format:?}"));
        play(&mut open(&path, format, &[("max-size", "1g")]));
        for step in 0..=60 {
            let since = BEGIN_NS + (end - BEGIN_NS) / 60 * step;
            let query = LogQuery {
                since_ns: Some(since),
                ..both()
            };
            let want = render(&model, &query);
            let (got, torn) = read_at_once(&path, format, &query).expect("read");
            assert!(torn == 0 && frames(&got) == want, "{format:?} {step}");
        }
    }
}

#[test]
fn a_follower_sees_every_line_once_across_rotations() {
    on_shard(|| async {
        for format in FORMATS {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("log");
            let mut log = open(&path, format, &[("max-size", "1k"), ("max-file", "2")]);
            let query = LogQuery {
                follow: true,
                ..both()
            };
            let mut stream = read(&log.state(), query).expect("read");
            let mut out = Vec::new();
            for n in 0..200 {
                log.append(Stream::Stdout, &lines(n * 10..n * 10 + 10), BEGIN_NS);
                commit(&mut log);
                out.extend(stream.next().await.expect("more").expect("chunk"));
            }
            log.close();
            out.extend(all(stream).await.0);
            let got: Vec<u8> = frames(&out).into_iter().flat_map(|(_, t)| t).collect();
            assert!(got == lines(0..2000), "{format:?}: {} bytes", got.len());
        }
    });
}

#[test]
fn a_follower_that_is_too_slow_is_told_exactly_what_it_misses() {
    on_shard(|| async {
        for format in FORMATS {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("log");
            let mut log = open(&path, format, &[("max-size", "1m"), ("max-file", "2")]);
            let query = LogQuery {
                follow: true,
                ..both()
            };
            let mut stream = read(&log.state(), query).expect("read");
            let line = [[b'x'; 999].as_slice(), b"\n"].concat();
            let mut printed = 0u64;
            for _ in 0..400 {
                log.append(Stream::Stdout, &line.repeat(100), BEGIN_NS);
                printed += 100 * line.len() as u64;
                commit(&mut log);
            }
            log.append(Stream::Stdout, b"the end\n", BEGIN_NS);
            commit(&mut log);
            log.close();
            let mut out = Vec::new();
            while let Some(chunk) = stream.next().await {
                out.extend_from_slice(&chunk.expect("chunk"));
            }
            let found = frames(&out);
            let (gaps, output): (Vec<_>, Vec<_>) = found.into_iter().partition(|(s, _)| *s == 2);
            let got: u64 = output.iter().map(|(_, t)| t.len() as u64).sum();
            assert_eq!(
                output.last().map(|(_, t)| t.as_slice()),
                Some(&b"the end\n"[..])
            );
            let [(_, gap)] = gaps.as_slice() else {
                panic!("{format:?}: {} gaps", gaps.len());
            };
            let missing = printed + 8 - got;
            assert!(missing > 20_000_000, "{missing}");
            let want = format!(
                "[gantry: {missing} bytes of output in {} records are missing here: the reader was slower than rotation]\n",
                missing / 1000
            );
            assert_eq!(String::from_utf8_lossy(gap), want);
            assert_eq!(log.state().follower_gaps(), 1);
        }
    });
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("dir");
    let mut names: Vec<_> = entries
        .map(|e| e.expect("entry").file_name().into_string().expect("name"))
        .collect();
    names.sort();
    names
}

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
        let dead = read_path(&path, Format::Frames, both()).expect("read");
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
            let dead = read_path(&path, format, both()).expect("read");
            assert_eq!(text(dead).await, lines(10..20));
        }
    });
}
