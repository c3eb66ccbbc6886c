#![no_main]
//! Packets between daemon and keeper; what decodes encodes to something that decodes to the same.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gantry_fuzz_targets::keeper_message(data));
