#![no_main]
//! Image names; what parses prints to something that parses to the same.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::reference(data));
