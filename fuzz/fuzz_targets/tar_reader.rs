#![no_main]
//! Archives of layers and images: every entry, and what it holds.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::tar_reader(data));
