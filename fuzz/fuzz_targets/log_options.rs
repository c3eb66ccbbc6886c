#![no_main]
//! Options of log drivers and tag templates.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::log_options(data));
