//! Both forms of files answer every query as a plain list of records would, through rotation and other lives of the writer.

mod common;

use std::path::Path;

use common::{BEGIN_NS, FORMATS, all, both, commit, frames, lines, open};
use gantry_logs::{FileLog, Format, LogFiles, LogQuery, read, read_at_once};
use gantry_rt::testing::on_shard;
use gantry_stream::{LogSink, Stream};
use proptest::prelude::*;

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
                let (dead, torn) = all(LogFiles::of_path(&path, format, query.clone()).expect("read").read()).await;
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
