#![no_main]
//! Times of since and until.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = gantry_logs::time::parse(text, 1_700_000_000_000_000_000);
        let _ = gantry_logs::time::parse_go_duration(text);
    }
});
