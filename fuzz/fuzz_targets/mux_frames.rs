#![no_main]
//! Multiplexed frames cut at any place.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::mux_frames(data));
