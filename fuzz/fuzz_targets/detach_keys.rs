#![no_main]
//! A key specification and what is typed; without a match nothing is lost.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::detach_keys(data));
