#![no_main]
//! The JSON of a create request.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::create_body(data));
