#![no_main]
//! The index of a layer, read again.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::layer_index(data));
