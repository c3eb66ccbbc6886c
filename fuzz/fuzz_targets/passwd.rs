#![no_main]
//! Users and groups of an image.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::passwd(data));
