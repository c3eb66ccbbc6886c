#![no_main]
//! A segment of driver local with its index.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::local_segment(data));
