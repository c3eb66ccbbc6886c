use std::fs::File;
use std::path::Path;

use gantry_stream::{LogSink, Stream};
use proptest::prelude::*;

use super::*;

fn sink(path: &Path) -> FileLog {
    FileLog::open_json(
        path,
        FileOptions {
            max_files: 1,
            ..FileOptions::default()
        },
    )
    .expect("open")
}

fn logged(path: &Path) -> Vec<(String, u64)> {
    let text = std::fs::read(path).expect("read");
    let lines = text.split_inclusive(|b| *b == b'\n');
    lines
        .map(|l| {
            json::decode(l)
                .map(|(r, t)| (r.log.into_owned(), t))
                .expect("a whole record")
        })
        .collect()
}

#[test]
fn a_record_is_dockers() {
    let mut out = Vec::new();
    json::encode_into(
        &mut out,
        b"a<b>&\"\\\t\x01\x7f\xff\xe2\x80\xa8\xe2\x82\xac",
        true,
        Stream::Stderr,
        b"",
        b"T",
    );
    let expected = "{\"log\":\"a\\u003cb\\u003e\\u0026\\\"\\\\\\u0009\\u0001\x7f\\ufffd\\u2028€\\n\",\"stream\":\"stderr\",\"time\":\"T\"}\n";
    assert_eq!(String::from_utf8(out).expect("UTF-8"), expected);
}

#[test]
fn lines_are_cut_where_docker_cuts() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("x-json.log");
    let mut log = sink(&path);
    log.append(Stream::Stdout, b"one\ntw", 1);
    log.append(Stream::Stderr, b"other\n", 2);
    log.append(Stream::Stdout, b"o\n", 3);
    log.append(Stream::Stdout, &vec![b'x'; 16384], 4);
    log.append(Stream::Stdout, b"\ny", 5);
    log.finish(Stream::Stdout, 6);
    log.finish(Stream::Stderr, 6);
    log.write().expect("write");
    let long = "x".repeat(16384);
    let expected = [
        ("one\n", 1),
        ("other\n", 2),
        ("two\n", 3),
        (&long, 4),
        ("\n", 4),
        ("y", 6),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(l, t)| ((*l).to_owned(), *t))
        .collect();
    assert_eq!(logged(&path), expected);
}

#[test]
fn a_torn_record_is_cut_off_at_open() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("x-json.log");
    std::fs::write(
        &path,
        b"{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"2024-01-01T00:00:00Z\"}\n{\"lo",
    )
    .expect("write");
    let mut log = sink(&path);
    log.append(Stream::Stdout, b"b\n", 1);
    log.write().expect("write");
    assert_eq!(logged(&path).len(), 2);
}

fn rotating(path: &Path, max_size: &str, max_file: &str) -> FileLog {
    let options = FileOptions::parse([("max-size", max_size), ("max-file", max_file)]);
    FileLog::open_json(path, options.expect("options")).expect("open")
}

/// Writes a batch as the pump does, without the journal.
fn commit(log: &mut FileLog, text: &[u8]) {
    log.append(Stream::Stdout, text, 1);
    log.write().expect("write");
    log.committed();
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .expect("dir")
        .map(|e| e.expect("entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// Everything that is left of a log, oldest first.
fn all_lines(path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for n in (0..20).rev() {
        let path = segment::rotated(path, n);
        if path.exists() {
            lines.extend(logged(&path).into_iter().map(|(line, _)| line));
        }
    }
    lines
}

fn numbered(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|i| format!("line {i}\n")).collect()
}

#[test]
fn rotation_keeps_max_files() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("x-json.log");
    let mut log = rotating(&path, "1k", "3");
    for i in 0..100 {
        commit(&mut log, format!("{i} {}\n", "z".repeat(200)).as_bytes());
    }
    assert_eq!(
        files(dir.path()),
        ["x-json.log", "x-json.log.1", "x-json.log.2"]
    );
    for name in files(dir.path()) {
        // As dockerd: past the size by less than a record, and never empty.
        let len = std::fs::metadata(dir.path().join(name))
            .expect("stat")
            .len();
        assert!((1..1300).contains(&len), "{len}");
    }
}

#[test]
fn a_batch_is_cut_over_files() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("l");
    let mut log = rotating(&path, "1k", "4");
    commit(&mut log, numbered(0..200).concat().as_bytes());
    assert_eq!(files(dir.path()), ["l", "l.1", "l.2", "l.3"]);
    for name in files(dir.path()) {
        assert!(
            std::fs::metadata(dir.path().join(name))
                .expect("stat")
                .len()
                < 1100
        );
    }
    let left = all_lines(&path);
    assert_eq!(left, numbered(200 - left.len() as u32..200));
    let mut log = rotating(&path, "1k", "1");
    commit(&mut log, numbered(200..400).concat().as_bytes());
    assert!(logged(&path).last().expect("line").0 == "line 399\n");
}

/// What the journal has after a commit.
fn slot(log: &FileLog) -> gantry_keeper_proto::shm::SlotState {
    let position = log.position();
    gantry_keeper_proto::shm::SlotState {
        log_bytes: position.bytes,
        log_id: position.file_id,
        ..Default::default()
    }
}

#[test]
fn a_batch_that_was_not_committed_is_undone_with_its_rotations() {
    for (max_file, batch) in [
        ("1", 30),
        ("1", 300),
        ("2", 30),
        ("3", 30),
        ("3", 300),
        ("9", 30),
    ] {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("l");
        let mut log = rotating(&path, "1k", max_file);
        commit(&mut log, numbered(0..40).concat().as_bytes());
        let (before, state) = (all_lines(&path), slot(&log));
        let current = logged(&path);
        log.append(
            Stream::Stdout,
            numbered(40..40 + batch).concat().as_bytes(),
            1,
        );
        log.write().expect("write");
        drop(log); // killed before the journal's commit
        let mut log = rotating(&path, "1k", max_file);
        log.restore(&state).expect("restore");
        assert_eq!(logged(&path), current, "max-file {max_file}, batch {batch}");
        let after = all_lines(&path);
        assert!(before.ends_with(&after), "{before:?} {after:?}");
        commit(&mut log, numbered(40..40 + batch).concat().as_bytes());
        let lines = all_lines(&path);
        let end = 40 + batch;
        assert_eq!(
            lines,
            numbered(end - lines.len() as u32..end),
            "max-file {max_file}, batch {batch}"
        );
        assert!(!dir.path().join("l.base").exists());
    }
}

#[test]
fn an_interrupted_rotation_is_undone() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("l");
    let mut log = rotating(&path, "1k", "4");
    commit(&mut log, numbered(0..30).concat().as_bytes());
    let (state, before) = (slot(&log), all_lines(&path));
    drop(log);
    // Killed between the renames and the new file.
    for n in (0..3).rev() {
        let from = segment::rotated(&path, n);
        if from.exists() {
            std::fs::rename(from, segment::rotated(&path, n + 1)).expect("rename");
        }
    }
    let mut log = rotating(&path, "1k", "4");
    log.restore(&state).expect("restore");
    assert_eq!(all_lines(&path), before);
}

#[test]
fn a_log_that_somebody_emptied_goes_on() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("l");
    let mut log = sink(&path);
    commit(&mut log, b"old\nolder\n");
    File::options()
        .write(true)
        .truncate(true)
        .open(&path)
        .expect("truncate");
    commit(&mut log, b"new\n");
    commit(&mut log, b"newer\n");
    let len = std::fs::metadata(&path).expect("stat").len();
    assert_eq!(
        (log.position().bytes, log.state().committed_bytes()),
        (len, len)
    );
    let lines: Vec<_> = logged(&path).into_iter().map(|(l, _)| l).collect();
    assert_eq!(lines, ["new\n", "newer\n"]);
}

#[test]
fn a_file_that_takes_no_more_loses_the_batch_and_says_so() {
    let full = gantry_keeper_proto::shm::memfd(c"full", 0).expect("memfd");
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&full));
    let mut log = sink(Path::new(&path));
    // Of the second batch the line is longer by what was kept, and what is said of the first is not counted.
    for losses in [(1, 2), (2, 5)] {
        log.append(Stream::Stdout, b"a\nb", 1);
        log.write().expect_err("sealed at its size");
        assert_eq!((log.state().losses(), log.position().bytes), (losses, 0));
    }
}

#[test]
fn options_are_dockers() {
    let parse = |opts: &[(&'static str, &'static str)]| {
        FileOptions::parse(opts.iter().copied())
            .map(|o| (o.max_size_bytes, o.max_files))
            .map_err(|e| e.to_string())
    };
    for (opts, want) in [
        (
            &[("max-size", "10k"), ("max-file", "3")][..],
            Ok((Some(10_000), 3)),
        ),
        (&[("max-size", "1.5 mb")], Ok((Some(1_500_000), 1))),
        (&[("max-file", "2"), ("compress", "false")], Ok((None, 2))),
        (
            &[
                ("mode", "non-blocking"),
                ("max-buffer-size", "4m"),
                ("cache-disabled", "true"),
            ],
            Ok((None, 1)),
        ),
        (&[("max-size", "abc")], Err("invalid size: 'abc'")),
        (&[("max-size", "")], Err("invalid size: ''")),
        (&[("max-size", "-1")], Err("invalid size: '-1'")),
        (&[("max-size", "10x")], Err("invalid suffix: 'x'")),
        (
            &[("max-size", "0")],
            Err("max-size must be a positive number"),
        ),
        (
            &[("max-file", "x")],
            Err("strconv.Atoi: parsing \"x\": invalid syntax"),
        ),
        (&[("max-file", "0")], Err("max-file cannot be less than 1")),
        (
            &[("compress", "x")],
            Err("strconv.ParseBool: parsing \"x\": invalid syntax"),
        ),
        (
            &[("compress", "true")],
            Err("compress cannot be true when max-file is less than 2 or max-size is not set"),
        ),
        (
            &[("compress", "true"), ("max-size", "1k"), ("max-file", "2")],
            Ok((Some(1000), 2)),
        ),
        (
            &[("mode", "x")],
            Err("logger: logging mode not supported: x"),
        ),
        (
            &[("max-buffer-size", "1m")],
            Err("logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
        ),
        (
            &[("mode", "non-blocking"), ("max-buffer-size", "x")],
            Err("error parsing option max-buffer-size: invalid size: 'x'"),
        ),
        (
            &[("nosuch", "1")],
            Err("unknown log opt 'nosuch' for json-file log driver"),
        ),
        (&[("env-regex", "^A")], Ok((None, 1))),
    ] {
        assert_eq!(parse(opts), want.map_err(str::to_owned), "{opts:?}");
    }
    let local = FileOptions::parse_local([("max-size", "5m")]).expect("local");
    assert_eq!(
        (local.max_size_bytes, local.max_files),
        (Some(5_000_000), 5)
    );
    let error = FileOptions::parse_local([("labels", "x")]).expect_err("unknown");
    assert_eq!(
        error.to_string(),
        "unknown log opt 'labels' for log driver local"
    );
}

#[test]
fn attributes_are_what_the_options_ask_for() {
    let map = |pairs: &[(&str, &str)]| -> std::collections::BTreeMap<String, String> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        pairs.iter().map(own).collect()
    };
    let mut info = LogInfo {
        labels: map(&[("a", "1"), ("ab", "2"), ("c", "3"), ("d", "4")]),
        env: ["X=1", "XY=2", "Z=3", "X=9", "odd"]
            .map(str::to_owned)
            .into(),
        options: map(&[("labels", "c,no"), ("labels-regex", "^a"), ("env", "X")]),
        ..LogInfo::default()
    };
    let found = info.attributes(|name| format!("_{name}")).expect("found");
    let want = map(&[("_a", "1"), ("_ab", "2"), ("_c", "3"), ("_X", "9")]);
    assert_eq!(found, want);
    info.options = map(&[("env-regex", "(")]);
    let error = info.attributes(str::to_owned).expect_err("no pattern");
    assert!(
        error.to_string().starts_with("error parsing regexp: "),
        "{error}"
    );
}

#[test]
fn attributes_are_escaped_as_lines_are() {
    let mut out = Vec::new();
    let attrs = [
        ("a<".to_owned(), "x&\n".to_owned()),
        ("b".to_owned(), String::new()),
    ];
    json::attrs_into(&mut out, &attrs.into());
    assert_eq!(out, br#"{"a\u003c":"x\u0026\n","b":""}"#);
}

#[test]
fn timestamps_as_dockerd_reads_them() {
    for (text, want) in [
        ("12", Ok(12_000_000_000)),
        ("12.5", Ok(12_500_000_000)),
        ("1.000000001", Ok(1_000_000_001)),
        ("1.1234567890", Ok(1_123_456_789)),
        ("+5", Ok(5_000_000_000)),
        ("-1", Ok(0)),
        ("-5.5", Ok(0)),
        ("99999999999", Ok(u64::MAX)),
        ("1.9223372036854775807", Ok(1_922_337_203)),
    ] {
        assert_eq!(time::parse_timestamp(text), want, "{text}");
    }
    for (text, part, why) in [
        ("", "", "invalid syntax"),
        (".5", "", "invalid syntax"),
        ("5.", "", "invalid syntax"),
        ("1e3", "1e3", "invalid syntax"),
        ("1.1.1", "1.1", "invalid syntax"),
        (
            "99999999999999999999",
            "99999999999999999999",
            "value out of range",
        ),
    ] {
        let error = time::parse_timestamp(text).expect_err(text).to_string();
        assert_eq!(
            error,
            format!("strconv.ParseInt: parsing \"{part}\": {why}")
        );
    }
}

#[test]
fn bounds_are_numbers_dates_or_spans() {
    let now = 1_700_000_000_500_000_000;
    for (text, want) in [
        ("1.5", Some(1_500_000_000)),
        (
            "2023-11-14T22:13:20.000000001Z",
            Some(1_700_000_000_000_000_001),
        ),
        ("2023-11-15T00:13:20+02:00", Some(1_700_000_000_000_000_000)),
        ("500ms", Some(1_700_000_000_000_000_000)),
        ("1h30m", Some(now - 5_400_000_000_000)),
        ("2020-01-01", None),
        ("abc", None),
    ] {
        assert_eq!(time::parse_bound(text, now).ok(), want, "{text}");
    }
}

#[test]
fn times() {
    let mut out = Vec::new();
    time::format_into(&mut out, 1_136_214_245_100_000_000, false);
    assert_eq!(out, b"2006-01-02T15:04:05.1Z");
    let now = 1_000_000_000_000;
    assert_eq!(time::parse("12.5", now), Ok(12_500_000_000));
    assert_eq!(time::parse("1m30s", now), Ok(910_000_000_000));
    assert_eq!(
        time::parse("2006-01-02T15:04:05Z", now),
        Ok(1_136_214_245_000_000_000)
    );
    assert_eq!(
        time::parse("2006-01-02T15:04:05+01:00", now),
        Ok(1_136_210_645_000_000_000)
    );
    assert_eq!(time::parse("1970-01-02", now), Ok(86_400_000_000_000));
    assert_eq!(
        time::parse("1970-01-02T00:00:01", now),
        Ok(86_401_000_000_000)
    );
    assert!(time::parse("soon", now).is_err());
}

proptest! {
    #[test]
    fn escaped_text_reads_back(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut out = vec![b'"'];
        json::escape_into(&mut out, &bytes);
        out.push(b'"');
        let back: String = serde_json::from_slice(&out).expect("JSON");
        let mut expected = String::new();
        for chunk in bytes.utf8_chunks() {
            expected.push_str(chunk.valid());
            expected.extend(chunk.invalid().iter().map(|_| '\u{fffd}'));
        }
        prop_assert_eq!(back, expected);
    }

    #[test]
    fn a_stamp_is_the_formatted_time(times in proptest::collection::vec((0..5u64, 0..1_000_000_000u64), 1..20)) {
        let mut stamp = time::Stamp::default();
        for (s, ns) in times {
            let ns = (1_700_000_058 + s) * 1_000_000_000 + ns / 1000 * 1000;
            let mut want = Vec::new();
            time::format_into(&mut want, ns, false);
            prop_assert_eq!(stamp.format(ns), want);
        }
    }

    #[test]
    fn formatted_times_read_back(ns in 0..9_000_000_000_000_000_000u64, fixed: bool) {
        let mut out = Vec::new();
        time::format_into(&mut out, ns, fixed);
        prop_assert_eq!(time::parse_rfc3339(std::str::from_utf8(&out).expect("ASCII")), Some(ns));
    }

    #[test]
    fn no_text_panics_the_timestamp_parser(text in "[-+0-9.]{0,40}") {
        let _any_answer = time::parse_timestamp(&text);
    }

    #[test]
    fn any_record_reads_back(line in proptest::collection::vec(any::<u8>(), 0..300), newline: bool, stderr: bool, ns in 1..9_000_000_000_000_000_000u64) {
        let (mut out, mut stamp) = (Vec::new(), Vec::new());
        time::format_into(&mut stamp, ns, false);
        let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
        json::encode_into(&mut out, &line, newline, stream, b"", &stamp);
        prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
        let (record, time) = json::decode(&out).expect("a record");
        let mut expected = String::new();
        for chunk in line.utf8_chunks() {
            expected.push_str(chunk.valid());
            expected.extend(chunk.invalid().iter().map(|_| '\u{fffd}'));
        }
        expected.extend(newline.then_some('\n'));
        prop_assert_eq!((record.log.as_ref(), record.stream(), time), (expected.as_str(), stream, ns));
    }

    #[test]
    fn no_file_content_panics_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let _any_answer = json::decode(line);
        }
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("l");
        std::fs::write(&path, &bytes).expect("write");
        let mut log = sink(&path);
        log.append(Stream::Stdout, b"after\n", 1);
        log.write().expect("write");
        let text = std::fs::read(&path).expect("read");
        let last = text.split_inclusive(|b| *b == b'\n').next_back().and_then(json::decode);
        prop_assert_eq!(last.expect("a record").0.log, "after\n");
    }

    #[test]
    fn no_text_panics_the_time_parser(text in "[-+0-9.:TZhmsnuµ]{0,30}") {
        let _any_answer = time::parse(&text, 5);
    }

    #[test]
    fn any_split_logs_the_same_lines(lines in proptest::collection::vec("[a-z]{0,20}", 0..20), cut in 1..9usize) {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("l");
        let mut log = sink(&path);
        let text = lines.iter().map(|l| format!("{l}\n")).collect::<String>();
        for piece in text.as_bytes().chunks(cut) {
            log.append(Stream::Stdout, piece, 1);
        }
        log.write().expect("write");
        // Read at one instant, yet no two lines have one time.
        let expected: Vec<_> = lines.iter().zip(1..).map(|(l, t)| (format!("{l}\n"), t)).collect();
        prop_assert_eq!(logged(&path), expected);
    }
}
