#![no_main]
//! Records of a json-file log.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for line in data.split_inclusive(|b| *b == b'\n') {
        let _ = gantry_logs::json::decode(line);
    }
});
