#![no_main]
//! A key specification and what is typed; without a match nothing is lost.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (spec, typed) = data.split_at(data.len().min(8));
    let Ok(spec) = std::str::from_utf8(spec) else {
        return;
    };
    let Ok(keys) = gantry_stream::keys::parse(spec) else {
        return;
    };
    let mut detector = gantry_stream::keys::Detector::new(keys);
    let mut out = Vec::new();
    if !detector.feed(typed, &mut out) {
        detector.flush(&mut out);
        assert_eq!(out, typed);
    }
});
