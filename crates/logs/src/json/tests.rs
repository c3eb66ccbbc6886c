use proptest::prelude::*;

use super::*;

/// Pieces of records, whole ones, torn ones, and other forms.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        Just("plain"),
        Just(r"a\n"),
        Just(r#"q\"\\n"#),
        Just(r"\\n"),
        Just(r"\u00e9\n\n"),
        Just(""),
        Just("a\nb"),
    ];
    let stamp = prop_oneof![
        Just("2026-01-02T03:04:05.123456789Z"),
        Just("2026-01-02T03:04:05.12Z"),
        Just("2026-01-02T03:04:06Z"),
        Just("2026-01-02T03:04:06.12345678xZ"),
        Just("2026-01-02T03:04:06.123456:89Z"),
        Just("2026-01-02T03:04:05.1234567891Z"),
        Just("2026-01-02T05:04:05.5+02:00"),
    ];
    let attrs = prop_oneof![4 => Just(""), 1 => Just(r#","attrs":{"a":"b"}"#)];
    let stream = prop_oneof![Just("stdout"), Just("stderr"), Just("other")];
    (text, stream, attrs, stamp, 0..30usize).prop_map(|(text, stream, attrs, stamp, cut)| {
        let line =
            format!("{{\"log\":\"{text}\",\"stream\":\"{stream}\"{attrs},\"time\":\"{stamp}\"}}\n");
        // Most are whole; the others end somewhere.
        let len = if cut < 8 {
            line.len() * cut / 8
        } else {
            line.len()
        };
        line.as_bytes()[..len].to_vec()
    })
}

proptest! {
    #[test]
    fn what_is_taken_apart_without_looking_for_its_end_is_a_whole_line(pieces in proptest::collection::vec(piece(), 1..4)) {
        let data = pieces.concat();
        let line = data.split_inclusive(|b| *b == b'\n').next().unwrap_or_default();
        let slow = split(line, &mut Clock::default());
        if let Some((raw, len)) = split_first(&data, &mut Clock::default()) {
            prop_assert_eq!(len, line.len());
            prop_assert_eq!(Some(raw), slow);
        }
        if let Some(raw) = slow {
            let (record, time_ns) = decode(line).expect("a record");
            prop_assert_eq!((time_ns, record.stream()), (raw.time_ns, raw.stream));
            let mut text = Vec::new();
            prop_assert!(unescape_into(&mut text, raw.log));
            prop_assert_eq!(std::str::from_utf8(&text).expect("text"), record.log);
            let unescaped = raw.log.strip_suffix(b"\\n").unwrap_or(raw.log);
            prop_assert_eq!(raw.is_plain, !unescaped.contains(&b'\\'));
        }
    }

    #[test]
    fn eight_digits_are_a_number(number in 0..100_000_000u64, at in 0..8usize, other in any::<u8>()) {
        let mut text: [u8; 8] = format!("{number:08}").as_bytes().try_into().expect("eight");
        prop_assert_eq!(eight_digits(text), Some(number));
        text[at] = other;
        prop_assert_eq!(eight_digits(text).is_some(), other.is_ascii_digit());
    }
}

#[test]
fn dockers_records_are_taken_apart_at_once() {
    let line =
        b"{\"log\":\"a\\n\",\"stream\":\"stderr\",\"time\":\"2026-01-02T03:04:05.5Z\"}\nmore";
    let (raw, len) = split_first(line, &mut Clock::default()).expect("a record");
    assert_eq!(
        (raw.log, raw.is_plain, len),
        (&b"a\\n"[..], true, line.len() - 4)
    );
    assert_eq!(
        (raw.stream, raw.time_ns),
        (Stream::Stderr, 1_767_323_045_500_000_000)
    );
}
