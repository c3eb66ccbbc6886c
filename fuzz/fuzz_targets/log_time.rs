#![no_main]
//! Times of since and until.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::log_time(data));
