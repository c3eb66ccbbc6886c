use std::path::Path;

use gantry_stream::{LogSink, Stream};
use proptest::prelude::*;

use super::*;

fn sink(path: &Path) -> JsonFile {
    JsonFile::open(
        path,
        JsonFileOptions {
            max_files: 1,
            ..JsonFileOptions::default()
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

#[test]
fn rotation_keeps_max_files() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("x-json.log");
    let options = JsonFileOptions::parse([("max-size", "1k"), ("max-file", "3")]).expect("options");
    let mut log = JsonFile::open(&path, options).expect("open");
    for i in 0..100 {
        log.append(
            Stream::Stdout,
            format!("{i} {}\n", "z".repeat(200)).as_bytes(),
            1,
        );
        log.write().expect("write");
        log.committed();
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 3);
    assert!(std::fs::metadata(&path).expect("stat").len() < 1500);
    // Without a size nothing is ever rotated; Docker takes it.
    assert!(JsonFileOptions::parse([("max-file", "3")]).is_ok());
    for (options, text) in [
        (vec![("max-file", "0")], "max-file cannot be less than 1"),
        (
            vec![("max-file", "x")],
            "strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        (vec![("max-size", "abc")], "invalid size: 'abc'"),
        (
            vec![("max-size", "0")],
            "max-size must be a positive number",
        ),
        (
            vec![("mode", "foo")],
            "logger: logging mode not supported: foo",
        ),
        (
            vec![("max-buffer-size", "1m")],
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        (
            vec![("compress", "true"), ("max-file", "3")],
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
    ] {
        let error = JsonFileOptions::parse(options).expect_err(text);
        assert_eq!(error.to_string(), text);
    }
    assert!(JsonFileOptions::parse([("nosuch", "3")]).is_err());
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
    fn formatted_times_read_back(ns in 0..9_000_000_000_000_000_000u64, fixed: bool) {
        let mut out = Vec::new();
        time::format_into(&mut out, ns, fixed);
        prop_assert_eq!(time::parse_rfc3339(std::str::from_utf8(&out).expect("ASCII")), Some(ns));
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
