#![no_main]
//! Headers of registries and clients about credentials.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::auth_challenge(data));
